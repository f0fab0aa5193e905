"""What the server's models take, read from their configs, and valid tensors for each."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from pipelines import load_all
from preprocessing.prepare import RequestTensors, prepare
from request_plan.packing import Packer
from request_plan.plan import SampledSeg, SampleOutcome
from tests.fuzz import documents, pictures

SIZES = {"BOOL": 1, "UINT8": 1, "INT8": 1, "FP16": 2, "INT32": 4, "FP32": 4, "INT64": 8, "FP64": 8}


@dataclass(frozen=True)
class Input:
    """An input; −1 stands for any size, and the batch's axis is among ``dims``."""

    name: str
    datatype: str
    dims: tuple[int, ...]
    optional: bool


@dataclass(frozen=True)
class Model:
    """A Triton model as its config has it."""

    name: str
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Tensor:
    """An input's value as it is sent: bytes and shape need not agree."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes


def read_models(repositories: Iterable[Path]) -> dict[str, Model]:
    """Every model in the repositories, by name."""
    found = {}
    for folder in repositories:
        for path in sorted(folder.glob("*/config.pbtxt")):
            config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
            batch = (-1,) if config.max_batch_size else ()
            inputs = tuple(
                Input(
                    each.name,
                    _datatype(each.data_type),
                    (*batch, *each.dims),
                    each.optional,
                )
                for each in config.input
            )
            found[config.name] = Model(config.name, inputs, tuple(o.name for o in config.output))
    return found


def _datatype(number: int) -> str:
    name: str = model_config_pb2.DataType.Name(number).removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name


class Material:
    """Valid tensors for every model of a server: a small request, and what its stages hand on.

    Args:
        pipelines: the folders of pipelines.
        pipeline: the one that the requests are for.
    """

    def __init__(self, pipelines: Iterable[Path], pipeline: str) -> None:
        self.pipeline = pipeline
        self._descriptors = {name: each for name, (each, _) in load_all(pipelines).items()}

    def tensors(self, rng: random.Random, model: Model) -> list[Tensor]:
        """What the model takes; zeros and small free sizes for the networks."""
        names = {each.name for each in model.inputs}
        if "request" in names:
            document = documents.dumps(documents.valid(rng, self.pipeline))
            return [text_tensor("request", document), flat("image", pictures.raw_pixels())]
        if "plan" in names:
            return [each for each in self._stages(rng) if each.name in names]
        free = {axis: rng.choice([1, 2, 4, 8]) for axis in range(8)}
        return [_zeros(each, free) for each in model.inputs]

    def _stages(self, rng: random.Random) -> list[Tensor]:
        """A plan with its tensors, and an outcome that says that every SEG became grey."""
        document = documents.valid(rng, self.pipeline)
        inputs = RequestTensors(
            documents.dumps(document), np.frombuffer(pictures.raw_pixels(), np.uint8)
        )
        prepared = prepare(inputs, pipelines=self._descriptors)
        packer = Packer()
        segs = tuple(
            SampledSeg(
                index=index, batch_pass=0, status="enhanced", seed=1, steps_run=1, sample_s=0.1,
                pixels=packer.add(np.full((seg.crop.height, seg.crop.width, 3), 128, np.uint8)),
            )
            for index, seg in enumerate(prepared.plan.segs)
            if seg.crop is not None
        )  # fmt: skip
        outcome = SampleOutcome(segs=segs, sample_s=0.1)
        return [
            text_tensor("plan", prepared.plan.model_dump_json().encode()),
            text_tensor("outcome", outcome.model_dump_json().encode()),
            flat("canvas", prepared.canvas.tobytes()),
            flat("crops", prepared.crops.tobytes()),
            flat("sampled", packer.tensor().tobytes()),
            flat("seg_masks", prepared.masks.tobytes()),
            flat("given", prepared.given.tobytes()),
        ]


def text_tensor(name: str, text: bytes) -> Tensor:
    """A BYTES tensor of one element."""
    return Tensor(name, "BYTES", (1,), struct.pack("<I", len(text)) + text)


def flat(name: str, data: bytes) -> Tensor:
    """A UINT8 tensor of one axis."""
    return Tensor(name, "UINT8", (len(data),), data)


def _zeros(each: Input, free: Mapping[int, int]) -> Tensor:
    shape = tuple(
        1 if axis == 0 else free[axis] if size < 0 else size for axis, size in enumerate(each.dims)
    )
    return Tensor(
        each.name, each.datatype, shape, bytes(int(np.prod(shape)) * SIZES[each.datatype])
    )
