"""(c) and (e): raw ModelInferRequests to any model, and the bytes that they travel as."""

from __future__ import annotations

import math
import random
import struct
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from tests.fuzz import documents, pictures
from tests.fuzz.models import SIZES, Material, Model, Tensor, flat, text_tensor

Message = Any
"""A ``ModelInferRequest``; the generated classes are not typed."""

TIMEOUT_US = 4_000_000
INSIDE = "f" * 64
"""Where it is sent stands the token of calls between a server's own models."""
_MOST_BYTES = 2**16
"""Of a tensor whose bytes fit its shape; a network that takes more of them is honestly at work."""
_AXES = (
    0, 1, -1, -2, -4, 2, 3, 5, 17, 64, 10_000, 2**16, 2**31 - 1, 2**31, 2**32, 2**32 + 1, 2**56 + 1,
    2**58, 2**58 + 4, 2**60, 2**60 + 1, 2**61, 2**62, 2**63 - 1, -(2**63), -(2**62),
)  # fmt: skip
_NAMES = ("", "x", "image ", "Image", "plan", "../../etc", "\x00", "é" * 200, "a" * 70_000, "%s%n")
_MODELS = (
    "", "nobody", "segs_detailer/1", "../segs_detailer", "SEGS_DETAILER", "\x00", "a" * 100_000,
    "sd15_unet\x00", "é", "%n%n",
)  # fmt: skip
_DATATYPES = ("", "FP32", "BYTES", "UINT8", "INT8", "BOOL", "FP16", "BF16", "INT64", "STRING", "x")
_INTEGERS = (0, 1, -1, 2**31, 2**63 - 1, -(2**63), 1000)
_TEXTS = ("", "x", "true", "-1", "é", "\x00", '"', '{"a":', "a" * 20_000)
_PARAMETERS = (
    "timeout", "priority", "sequence_id", "sequence_start", "sequence_end", "binary_data_output",
    "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset", "classification",
    "triton_enable_empty_final_response", "triton_final_response", "drop", "token", "inside", "",
    "a" * 5000,
)  # fmt: skip


def message(model: str, tensors: list[Tensor], request_id: str) -> Message:
    """A request as tritonclient would send it, with a time-out."""
    made = pb.ModelInferRequest(model_name=model, id=request_id)
    made.parameters["timeout"].int64_param = TIMEOUT_US
    for tensor in tensors:
        made.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        made.raw_input_contents.append(tensor.data)
    return made


def hostile_request(rng: random.Random, material: Material, request_id: str) -> Message | None:
    """The request's JSON mutated; None where it asks for much work."""
    text = documents.hostile(rng, documents.valid(rng, material.pipeline))
    if not documents.is_cheap(text):
        return None
    tensors = [text_tensor("request", text), flat("image", pictures.raw_pixels())]
    return message("segs_detailer", tensors, request_id)


def hostile_picture(rng: random.Random, material: Material, request_id: str) -> Message:
    """A picture's file, nearly always broken, with one SEG in it."""
    document = documents.valid(rng, material.pipeline)
    document["image"] = {"encoding": "file"}
    data = pictures.hostile_file(rng)
    if rng.random() < 0.1:
        shape = rng.choice([[1, 1, 3], [48, 64, 3], [16384, 16384, 3], [2**20, 2**20, 3]])
        document["image"] = {"encoding": "raw", "shape": shape}
    tensors = [text_tensor("request", documents.dumps(document)), flat("image", data)]
    return message("segs_detailer", tensors, request_id)


def hostile_buffers(rng: random.Random, material: Material, request_id: str) -> Message:
    """Masks, crops and control images that may lie about themselves."""
    document = documents.valid(rng, material.pipeline)
    buffers = pictures.with_buffers(rng, document)
    tensors = [text_tensor("request", documents.dumps(document))]
    tensors.append(flat("image", pictures.raw_pixels()))
    tensors += [flat(name, data) for name, data in buffers.items() if data or rng.random() < 0.1]
    return message("segs_detailer", tensors, request_id)


def hostile_stage(
    rng: random.Random, material: Material, model: Model, request_id: str
) -> Message | None:
    """A plan or outcome mutated, sent to a model that no client should call; None where it asks
    for much work."""
    tensors = material.tensors(rng, model)
    texts = [index for index, each in enumerate(tensors) if each.datatype == "BYTES"]
    others = [index for index in range(len(tensors)) if index not in texts]
    if texts and (rng.random() < 0.7 or not others):
        index = rng.choice(texts)
        tensors[index] = _mutated_text(rng, tensors[index])
    else:
        index = rng.choice(others)
        data = tensors[index].data
        cut = rng.choice(
            [b"", data[:-1], data + b"\x00", data[: len(data) // 2], rng.randbytes(99)]
        )
        tensors[index] = flat(tensors[index].name, cut)
    for tensor in tensors:
        if tensor.name == "plan" and not documents.is_cheap_plan(tensor.data[4:]):
            return None
        if tensor.name == "request" and not documents.is_cheap(tensor.data[4:]):
            return None
    return message(model.name, tensors, request_id)


def _mutated_text(rng: random.Random, tensor: Tensor) -> Tensor:
    text = tensor.data[4:]
    if rng.random() < 0.25:
        return text_tensor(tensor.name, documents.hostile_text(rng, text))
    return text_tensor(tensor.name, documents.dumps(documents.changed(rng, text)))


def hostile_message(
    rng: random.Random, material: Material, model: Model, request_id: str
) -> Message:
    """One to three mutations of what carries a valid request."""
    made = message(model.name, material.tensors(rng, model), request_id)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        rng.choice(_MUTATIONS)(rng, made)
    return made


def can_exist(made: Message) -> bool:
    """Whether there can be arrays of its inputs' shapes: no size is negative, and none has more
    than 2⁶³ − 1 bytes."""
    for tensor in made.inputs:
        size = SIZES.get(tensor.datatype, 1) * math.prod(axis or 1 for axis in tensor.shape)
        if size > 2**63 - 1 or any(axis < 0 for axis in tensor.shape):
            return False
    return True


def _axis(rng: random.Random, made: Message) -> None:
    tensor = _input(rng, made)
    if tensor is not None and tensor.shape:
        tensor.shape[rng.randrange(len(tensor.shape))] = rng.choice(_AXES)


def _wrapped(rng: random.Random, made: Message) -> None:
    """A shape whose bytes, in 64 bits, are as many as are sent."""
    tensor = _input(rng, made)
    if tensor is None or tensor.datatype not in SIZES:
        return
    rank = len(tensor.shape)
    shape = [rng.choice([*_AXES, 1, 1, 4, tensor.shape[axis]]) for axis in range(rank)]
    if rank:
        shape[0] = rng.choice([tensor.shape[0], 1, 2**32 + 1])
    if rank > 1 and rng.random() < 0.7:
        shape[1] = tensor.shape[1]
    size = SIZES[tensor.datatype]
    for axis in shape:
        size *= axis
    del tensor.shape[:]
    tensor.shape.extend(shape)
    place = list(made.inputs).index(tensor)
    if size % 2**64 <= _MOST_BYTES and place < len(made.raw_input_contents):
        made.raw_input_contents[place] = bytes(size % 2**64)


def _shape(rng: random.Random, made: Message) -> None:
    tensor = _input(rng, made)
    if tensor is not None:
        del tensor.shape[:]
        tensor.shape.extend(rng.choice(_AXES) for _ in range(rng.choice([0, 1, 2, 3, 4, 5, 40])))


def _datatype(rng: random.Random, made: Message) -> None:
    if (tensor := _input(rng, made)) is not None:
        tensor.datatype = rng.choice(_DATATYPES)


def _rename(rng: random.Random, made: Message) -> None:
    if (tensor := _input(rng, made)) is not None:
        tensor.name = rng.choice([*_NAMES, *(each.name for each in made.inputs)])


def _drop(rng: random.Random, made: Message) -> None:
    if made.inputs:
        place = rng.randrange(len(made.inputs))
        del made.inputs[place]
        if rng.random() < 0.7 and place < len(made.raw_input_contents):
            del made.raw_input_contents[place]


def _repeat(rng: random.Random, made: Message) -> None:
    if (tensor := _input(rng, made)) is not None:
        made.inputs.add().CopyFrom(tensor)
        if rng.random() < 0.7:
            made.raw_input_contents.append(rng.choice([b"", bytes(8), bytes(1000)]))


def _extra(rng: random.Random, made: Message) -> None:
    made.inputs.add(name=rng.choice(_NAMES), datatype="UINT8", shape=[4])
    if rng.random() < 0.7:
        made.raw_input_contents.append(bytes(4))


def _raw(rng: random.Random, made: Message) -> None:
    """Contents of another length than the shape says."""
    if not made.raw_input_contents:
        return
    place = rng.randrange(len(made.raw_input_contents))
    data = made.raw_input_contents[place]
    made.raw_input_contents[place] = rng.choice(
        [
            b"",
            data[:-1],
            data + b"\x00",
            data[: rng.randrange(len(data) + 1)],
            data * 2,
            b"\xff" * 4,
        ]
    )


def _lengths(rng: random.Random, made: Message) -> None:
    """A BYTES tensor whose elements' lengths lie."""
    for place, tensor in enumerate(made.inputs):
        if tensor.datatype == "BYTES" and place < len(made.raw_input_contents):
            data = made.raw_input_contents[place]
            length = rng.choice([0, 1, len(data) - 5, len(data), 2**31 - 1, 2**31, 2**32 - 1])
            made.raw_input_contents[place] = struct.pack("<I", length % 2**32) + data[4:]
            return


def _surplus(rng: random.Random, made: Message) -> None:
    if rng.random() < 0.5:
        made.raw_input_contents.append(bytes(rng.choice([0, 1, 100])))
    else:
        del made.raw_input_contents[rng.randrange(len(made.raw_input_contents) + 1) :]


def _contents(rng: random.Random, made: Message) -> None:
    """Typed contents, beside the raw ones or in their place."""
    if (tensor := _input(rng, made)) is None:
        return
    count = rng.choice([0, 1, 3, 100])
    contents = tensor.contents
    for field, value in rng.sample(
        [
            (contents.bool_contents, True),
            (contents.int_contents, -5),
            (contents.int64_contents, 2**40),
            (contents.uint_contents, 300),
            (contents.uint64_contents, 2**63),
            (contents.fp32_contents, float("nan")),
            (contents.fp64_contents, 1e300),
            (contents.bytes_contents, b'{"pipeline":"sd15"}'),
        ],
        rng.choice([1, 1, 2]),
    ):
        field.extend([value] * count)
    if rng.random() < 0.5:
        del made.raw_input_contents[:]


def _parameter(rng: random.Random, made: Message) -> None:
    holders = [made, *made.inputs, *made.outputs]
    parameter = rng.choice(holders).parameters[rng.choice(_PARAMETERS)]
    kind = rng.randrange(6)
    if kind < 2:
        parameter.int64_param = rng.choice(_INTEGERS)
    elif kind == 2:
        parameter.string_param = rng.choice(_TEXTS)
    elif kind == 3:
        parameter.bool_param = rng.random() < 0.5
    elif kind == 4:
        parameter.double_param = rng.choice([0.0, -1.0, 1e308, float("nan"), float("inf")])
    else:
        parameter.uint64_param = rng.choice([0, 2**64 - 1])


def _shared_memory(rng: random.Random, made: Message) -> None:
    target = rng.choice([*made.inputs, made.outputs.add(name=rng.choice(["report", "x"]))])
    target.parameters["shared_memory_region"].string_param = rng.choice([*_TEXTS, "/segs"])
    target.parameters["shared_memory_byte_size"].int64_param = rng.choice(_INTEGERS)
    target.parameters["shared_memory_offset"].int64_param = rng.choice(_INTEGERS)


def _name(rng: random.Random, made: Message) -> None:
    if rng.random() < 0.5:
        made.model_name = rng.choice(_MODELS)
    else:
        made.model_version = rng.choice(["1", "0", "-1", "2", "99999999999999999999", "x", "\x00"])


def _id(rng: random.Random, made: Message) -> None:
    made.id = rng.choice([*_TEXTS, "a" * 1_000_000, "\r\nx: y", "../../x", "\u202e"])


def _outputs(rng: random.Random, made: Message) -> None:
    for _ in range(rng.choice([1, 2, 500])):
        output = made.outputs.add(name=rng.choice([*_NAMES, "report", "detailed_image", "plan"]))
        if rng.random() < 0.5:
            output.parameters["classification"].int64_param = rng.choice(_INTEGERS)


def _input(rng: random.Random, made: Message) -> Message | None:
    return rng.choice(made.inputs) if made.inputs else None


_MUTATIONS = (
    _axis, _wrapped, _wrapped, _shape, _datatype, _rename, _drop, _repeat, _extra, _raw, _lengths,
    _surplus, _contents, _parameter, _shared_memory, _name, _id, _outputs,
)  # fmt: skip


def hostile_bytes(rng: random.Random, made: Message) -> bytes:
    """A request whose protobuf is broken."""
    data = bytearray(made.SerializeToString())
    for _ in range(rng.choice([1, 3, 10])):
        kind = rng.randrange(5)
        # What comes first says the most: names, shapes, lengths.
        place = rng.randrange(min(len(data), 300) or 1)
        if kind == 0:
            del data[rng.randrange(len(data) + 1) :]
        elif kind == 1 and data:
            data[place] = rng.randrange(256)
        elif kind == 2:
            data[place:place] = rng.randbytes(rng.randint(1, 12))
        elif kind == 3:
            data[place:place] = b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
        else:
            del data[place : place + rng.randint(1, 12)]
    return bytes(data)
