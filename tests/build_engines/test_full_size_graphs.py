"""Graphs of full size, made for engines, against torch: SD1.5 with a ControlNet, and SDXL's.

Random weights. float32 has to agree to 1e-4 of the output's greatest magnitude, float16 to a
cosine of 0.999 with torch in float32, latent by latent.
"""

from __future__ import annotations

import gc
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch

from build_engines.attention import PLAIN
from build_engines.checkpoint import Checkpoint
from build_engines.export import export_onnx
from build_engines.formats import open_checkpoint
from build_engines.pipeline import SourcePipeline, open_pipeline
from build_engines.verify import run_in_torch
from build_engines.weights import load_network
from examples.random_checkpoint import write_checkpoint, write_controlnet
from networks import Adapter, NetworkExport, ShapeCase, VaeEncoder
from networks.precision import lower
from pipelines.descriptor import Precision
from pipelines.reference import cosine
from tests.conftest import CHECKPOINTS

pytestmark = pytest.mark.slow

log = logging.getLogger(__name__)

Array = npt.NDArray[np.float32]
Arrays = dict[str, Array]

LATENTS = ((64, 64), (64, 96))
"""Of 512² and of 768 × 512."""
ROWS = (1, 4)
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")


@pytest.fixture(scope="module")
def sd15() -> Iterator[SourcePipeline]:
    with FullSize("sd15") as pipeline:
        yield pipeline


class FullSize:
    """A pipeline of full size with a ControlNet, its checkpoint removed at the end."""

    def __init__(self, size: str) -> None:
        self._size = size

    def __enter__(self) -> SourcePipeline:
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        write_checkpoint(folder / "base", self._size, CHECKPOINTS / "sd15" / "tokenizer")
        write_controlnet(folder / "control", self._size)
        base = open_checkpoint(folder / "base")
        return open_pipeline("p", base, {"x": folder / "control"})

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()


def part(pipeline: SourcePipeline, role: str) -> tuple[NetworkExport, Checkpoint]:
    ((network, checkpoint),) = [each for each in pipeline.exports if each[0].role == role]
    return network, checkpoint


def case(network: NetworkExport, height: int, width: int, rows: int) -> ShapeCase:
    """A latent of that size, and what follows from it; 77 tokens."""
    cell = 8 if isinstance(network, VaeEncoder) else 1
    sizes = {axis.name: axis.opt for axis in network.axes}
    by_height, by_width = network.sizes_at(height * cell), network.sizes_at(width * cell)
    for name in by_height:
        along = by_width if "width" in name or name.endswith("_w") else by_height
        sizes[name] = along[name]
    return ShapeCase(rows, sizes)


def export(
    network: NetworkExport,
    module: Adapter,
    folder: Path,
    precision: Precision,
    probes: Sequence[Arrays],
) -> Path:
    folder.mkdir(parents=True)
    network.prepare(module, PLAIN)
    inputs = [[torch.from_numpy(each[t.name]) for t in network.inputs] for each in probes]
    return export_onnx(network, lower(network, module, precision, inputs), folder, {})


def run(path: Path, cases: Sequence[Arrays]) -> list[list[Array]]:
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = False
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    return [session.run(None, {name: each[name] for name in names}) for each in cases]


def run_torch(network: NetworkExport, module: Adapter, inputs: Arrays) -> list[Array]:
    tensors = [torch.from_numpy(inputs[tensor.name]) for tensor in network.inputs]
    return list(run_in_torch(module, tensors))


@dataclass(frozen=True)
class Agreement:
    error: float
    cosine: float

    @classmethod
    def of(cls, output: Array, expected: Array) -> Agreement:
        assert output.shape == expected.shape
        error = float(np.abs(output - expected).max() / np.abs(expected).max())
        return cls(error, cosine(output, expected))

    def check(self, precision: Precision) -> None:
        assert self.error <= 1e-4 if precision == "fp32" else self.cosine >= 0.999


def examples(network: NetworkExport, cases: Sequence[ShapeCase]) -> list[Arrays]:
    generator = torch.Generator().manual_seed(1)
    return [{k: v.numpy() for k, v in network.example(c, generator).items()} for c in cases]


@pytest.mark.parametrize("role", ["text_encoder", "vae_encoder", "vae_decoder"])
def test_a_network_alone(sd15: SourcePipeline, role: str, tmp_path: Path) -> None:
    network, checkpoint = part(sd15, role)
    if network.axes:
        cases = [case(network, *latent, rows) for latent in LATENTS for rows in ROWS]
    else:
        cases = [ShapeCase(rows, {}) for rows in ROWS]
    inputs = examples(network, cases)
    module = load_network(network, checkpoint)
    expected = [run_torch(network, module, each) for each in inputs]
    for precision in PRECISIONS:
        path = export(network, module, tmp_path / precision, precision, inputs[:1])
        module = load_network(network, checkpoint)
        for where, outputs, wanted in zip(cases, run(path, inputs), expected, strict=True):
            agreement = Agreement.of(outputs[0], wanted[0])
            log.info("%s %s %s: %s", role, precision, where, agreement)
            agreement.check(precision)


def test_a_controlnet_and_the_unet(sd15: SourcePipeline, tmp_path: Path) -> None:
    check_control(sd15, tmp_path, [(*latent, rows) for latent in LATENTS for rows in ROWS])


def test_sdxl_with_a_controlnet(tmp_path: Path) -> None:
    with FullSize("sdxl") as pipeline:
        check_control(pipeline, tmp_path, [(32, 24, 1)])


def check_control(
    pipeline: SourcePipeline, folder: Path, shapes: Sequence[tuple[int, int, int]]
) -> None:
    """The UNet behind the ControlNet, both as graphs, against both in torch."""
    control, control_weights = part(pipeline, "controlnet_x")
    unet, unet_weights = part(pipeline, "unet")
    inputs = examples(control, [case(control, *shape) for shape in shapes])
    residuals = run_all_in_torch(control, control_weights, inputs)
    expected = run_all_in_torch(unet, unet_weights, told(control, inputs, residuals))
    del residuals
    for precision in PRECISIONS:
        path = exported(control, control_weights, folder / precision / "control", precision)
        made = run(path, inputs)
        path = exported(unet, unet_weights, folder / precision / "unet", precision)
        size = (path.parent / "model.onnx.data").stat().st_size
        log.info("%s: %.2f GB of weights beside the graph", precision, size / 1e9)
        results = run(path, told(control, inputs, made))
        for shape, (output,), (wanted,) in zip(shapes, results, expected, strict=True):
            agreement = Agreement.of(output, wanted)
            log.info("controlnet and unet %s %s: %s", precision, shape, agreement)
            agreement.check(precision)


def run_all_in_torch(
    network: NetworkExport, checkpoint: Checkpoint, inputs: Sequence[Arrays]
) -> list[list[Array]]:
    module = load_network(network, checkpoint)
    return [run_torch(network, module, each) for each in inputs]


def exported(
    network: NetworkExport, checkpoint: Checkpoint, folder: Path, precision: Precision
) -> Path:
    gc.collect()  # of the modules before
    return export(network, load_network(network, checkpoint), folder, precision, [])


def told(
    control: NetworkExport, inputs: Sequence[Arrays], residuals: Sequence[Sequence[Array]]
) -> list[Arrays]:
    """The UNet's inputs: the ControlNet's and its outputs."""
    names = [tensor.name for tensor in control.outputs]
    pairs = zip(inputs, residuals, strict=True)
    return [each | dict(zip(names, maps, strict=True)) for each, maps in pairs]
