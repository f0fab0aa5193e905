"""Graphs for engines: plain attention, half precision, what overflows, optimisation profiles."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
import torch

from build_engines.attention import PLAIN
from build_engines.errors import VerificationError
from build_engines.formats import open_checkpoint
from build_engines.graph import write_graph
from build_engines.pipeline import SourcePipeline, open_pipeline
from build_engines.verify import TOLERANCES, references
from build_engines.weights import load_network
from networks import Adapter, NetworkExport
from networks.precision import lower
from pipelines.descriptor import BatchBox, Network, Precision
from pipelines.reference import cosine
from tests.conftest import CHECKPOINTS, CONTROLNET

FLOATS = {
    "fp32": onnx.TensorProto.FLOAT,
    "fp16": onnx.TensorProto.FLOAT16,
    "bf16": onnx.TensorProto.BFLOAT16,
}


def pipeline(name: str, controlled: bool = False) -> SourcePipeline:
    controlnets = {"x": CHECKPOINTS / CONTROLNET} if controlled else {}
    return open_pipeline("p", open_checkpoint(CHECKPOINTS / name), controlnets)


def write(opened: SourcePipeline, role: str, folder: Path, precision: Precision) -> onnx.ModelProto:
    """The graph of one network, which was compared with torch in float32."""
    ((network, checkpoint),) = [each for each in opened.exports if each[0].role == role]
    path, _ = write_graph(
        network, checkpoint, folder, lambda stage: None, precision=precision, attention=PLAIN
    )
    return onnx.load(path, load_external_data=False)


def weight_types(graph: onnx.ModelProto) -> Counter[int]:
    return Counter(tensor.data_type for tensor in graph.graph.initializer)


def assert_plain(graph: onnx.ModelProto) -> None:
    """The ONNX standard's own operators, and FP32 or INT32 at the border."""
    assert {each.domain for each in graph.opset_import} == {""}
    assert {node.domain for node in graph.graph.node} <= {"", "ai.onnx"}
    border = [*graph.graph.input, *graph.graph.output]
    types = {value.type.tensor_type.elem_type for value in border}
    assert types <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT32}


@pytest.mark.parametrize(
    ("name", "role", "precision"),
    [
        ("sd15", "text_encoder", "fp16"),
        ("sd15", "unet", "fp32"),
        ("sd15", "unet", "fp16"),
        ("sd15", "unet", "bf16"),
        ("sd15", "controlnet_x", "fp16"),
        ("sd15", "vae_encoder", "fp16"),
        ("sd15", "vae_decoder", "fp16"),
        ("sd15", "vae_decoder", "bf16"),
        ("sd15-inpaint", "unet", "fp16"),
        ("sdxl", "text_encoder_2", "fp16"),
        ("sdxl", "unet", "fp16"),
        ("sdxl-refiner", "unet", "bf16"),
    ],
)
def test_graphs_of_every_family_agree_with_torch(
    tmp_path: Path, name: str, role: str, precision: Precision
) -> None:
    graph = write(pipeline(name, controlled=name == "sd15"), role, tmp_path, precision)
    assert_plain(graph)
    (kind, _), *others = weight_types(graph).most_common()
    assert kind == FLOATS[precision]
    assert not others or precision == "fp16"  # blocks that overflow may stay FP32
    assert all(tensor.data_location == 1 for tensor in graph.graph.initializer)


def decoder(scale: float) -> tuple[NetworkExport, Adapter]:
    """The small VAE's decoder, whose first stage's values are scaled; the norm that follows takes
    the scale out again."""
    opened = pipeline("sd15")
    ((network, checkpoint),) = [each for each in opened.exports if each[0].role == "vae_decoder"]
    module = load_network(network, checkpoint)
    with torch.no_grad():
        resnet = cast(Any, module.model).decoder.mid_block.resnets[0]
        for parameter in (*resnet.conv2.parameters(),):
            parameter.mul_(scale)
    return network, module


def probes(network: NetworkExport, module: Adapter) -> list[list[torch.Tensor]]:
    found = references(network, module, network.cases()[:1])
    return [[torch.from_numpy(array) for array in each.inputs.values()] for each in found]


@torch.inference_mode()
def test_blocks_that_overflow_stay_in_float32() -> None:
    network, module = decoder(1e5)
    inputs = probes(network, module)
    expected = module(*inputs[0])
    lowered = lower(network, module, "fp16", inputs)
    kept = {p.dtype for p in cast(Any, module.model).decoder.mid_block.resnets[0].parameters()}
    last = {p.dtype for p in cast(Any, module.model).decoder.conv_out.parameters()}
    assert (kept, last) == ({torch.float32}, {torch.float16})
    output = lowered(*inputs[0])
    assert output.dtype == torch.float32
    assert torch.isfinite(output).all()
    assert cosine(output.numpy(), expected.numpy()) > TOLERANCES["fp16"].cosine


@torch.inference_mode()
def test_without_that_they_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    network, module = decoder(1e5)
    inputs = probes(network, module)
    monkeypatch.setattr(type(network), "sensitive", lambda self, module: ())
    output = lower(network, module, "fp16", inputs)(*inputs[0])
    assert not torch.isfinite(output).all()


@torch.inference_mode()
def test_bfloat16_needs_no_block_in_float32() -> None:
    network, module = decoder(1e5)
    lowered = lower(network, module, "bf16", probes(network, module))
    assert {p.dtype for p in lowered.parameters()} == {torch.bfloat16}


def test_a_graph_that_is_not_precise_enough_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TOLERANCES, "bf16", TOLERANCES["fp32"])
    with pytest.raises(VerificationError, match=r"text_encoder at batch=1.*differs from torch"):
        write(pipeline("sd15"), "text_encoder", tmp_path, "bf16")


def test_the_cosine_is_the_least_of_the_rows() -> None:
    a = np.array([[1, 0], [1, 1], [0, 0]], np.float32)
    assert cosine(a, a) == pytest.approx(1)
    assert cosine(a, np.array([[1, 0], [1, 0], [0, 0]], np.float32)) == pytest.approx(0.5**0.5)
    assert cosine(a, np.array([[1, 0], [1, 1], [0, 1]], np.float32)) == 0
    assert cosine(a * np.float32("nan"), a) == 0


@pytest.mark.parametrize("memory_gb", [8, 24, 80])
@pytest.mark.parametrize("name", ["sd15", "sdxl", "sdxl-refiner"])
def test_profiles_hold_what_the_limits_allow(name: str, memory_gb: float) -> None:
    opened = pipeline(name, controlled=name == "sd15")
    for network, _ in opened.exports:
        profiles = network.profiles(memory_gb)
        limits = network.limits(memory_gb)
        for profile in profiles:
            assert profile.sizes.keys() == {axis.name for axis in network.axes}
            for tensor in network.inputs:
                least, usual, most = (np.array(shape) for shape in profile.shapes(tensor))
                assert (least <= usual).all()
                assert (usual <= most).all()
        assert max(profile.rows[2] for profile in profiles) == limits.max_batch
        first = network.inputs[0]
        greatest = [profile.shapes(first)[2] for profile in profiles]
        assert [(box.rows, *box.shape) for box in limits.boxes] == (
            greatest if network.axes else []
        )


def test_every_memory_takes_every_latent() -> None:
    """A smaller GPU takes fewer rows, not smaller pictures; the VAE goes in tiles."""
    unet = pipeline("sd15").unet
    for memory_gb in (8, 24, 80):
        assert max(box.shape[1] for box in unet.limits(memory_gb).boxes) == 256
    rows = [Network(**limited(unet, gb)).batch_limit((4, 64, 64)) for gb in (8, 24, 80)]
    assert rows == [8, 16, 16]


def limited(network: NetworkExport, memory_gb: float) -> dict[str, Any]:
    limits = network.limits(memory_gb)
    return {
        "model": "m",
        "max_batch": limits.max_batch,
        "max_batch_elements": limits.max_batch_elements,
        "boxes": limits.boxes,
        "inputs": {},
        "outputs": {},
        "files": {},
    }


def test_boxes_bound_the_batch() -> None:
    boxes = (BatchBox(rows=8, shape=(4, 64, 64)), BatchBox(rows=2, shape=(4, 128, 128)))
    network = Network(model="m", max_batch=8, boxes=boxes, inputs={}, outputs={}, files={})
    shapes = ((4, 8, 8), (4, 64, 64), (4, 65, 8), (4, 128, 128), (4, 129, 8))
    assert [network.batch_limit(shape) for shape in shapes] == [8, 8, 2, 2, 1]
