"""The real thing, where there are a GPU and TensorRT: engines built, run, and compared with torch.

Nothing here runs in ``make test`` on a machine without them.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from build_engines import TargetOptions, build
from build_engines.formats import open_checkpoint
from build_engines.pipeline import open_pipeline
from build_engines.tensorrt.find import import_tensorrt
from build_engines.verify import InputArrays, OutputArrays, references, verify
from build_engines.weights import load_network
from networks import NetworkExport
from tests.build_engines.conftest import copy_checkpoint


def why_not() -> str | None:
    """What is missing."""
    if not torch.cuda.is_available():
        return "needs an NVIDIA GPU and a torch with CUDA"
    try:
        import_tensorrt()
    except ImportError as error:
        return f"needs TensorRT's Python package: {error}"
    return None


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.tensorrt,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]


class Engine:
    """A plan, run on torch's tensors."""

    def __init__(self, network: NetworkExport, plan: Path) -> None:
        self.network = network
        trt = import_tensorrt()
        self.runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self.engine = self.runtime.deserialize_cuda_engine(plan.read_bytes())
        assert self.engine is not None

    def run(self, inputs: InputArrays) -> OutputArrays:
        """The outputs, in the network's order, by the first profile that holds the inputs."""
        context = self.engine.create_execution_context()
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        assert context.set_optimization_profile_async(self._profile(inputs), stream.cuda_stream)
        stream.synchronize()
        tensors = {name: torch.from_numpy(array).cuda() for name, array in inputs.items()}
        for name, tensor in tensors.items():
            assert context.set_input_shape(name, tuple(tensor.shape))
        for output in self.network.outputs:
            shape = tuple(context.get_tensor_shape(output.name))
            tensors[output.name] = torch.empty(shape, device="cuda")
        for name, tensor in tensors.items():
            assert context.set_tensor_address(name, tensor.data_ptr())
        torch.cuda.synchronize()
        assert context.execute_async_v3(stream.cuda_stream)
        stream.synchronize()
        return [tensors[output.name].cpu().numpy() for output in self.network.outputs]

    def _profile(self, inputs: InputArrays) -> int:
        for index in range(self.engine.num_optimization_profiles):
            shapes = {name: self.engine.get_tensor_profile_shape(name, index) for name in inputs}
            if all(
                all(a <= size <= b for a, size, b in zip(least, array.shape, most, strict=True))
                for name, array in inputs.items()
                for least, _, most in [shapes[name]]
            ):
                return index
        raise AssertionError("no profile holds these inputs")


def check(checkpoint: Path, repository: Path, precision: Any) -> None:
    """Every engine against torch in float32, at every shape that a build checks."""
    pipeline = open_pipeline("base", open_checkpoint(checkpoint), {}, None)
    for network, source in pipeline.exports:
        engine = Engine(network, repository / network.model_name("base") / "1" / "model.plan")
        verify(network, engine.run, references(network, load_network(network, source)), precision)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_engines_compute_what_torch_does(tmp_path: Path, precision: Any) -> None:
    checkpoint = copy_checkpoint("sd15-v", tmp_path / "checkpoint")
    target = TargetOptions(name="tensorrt", precision=precision, optimization_level=1)
    build(checkpoint, "base", tmp_path / "repository", target)
    check(checkpoint, tmp_path / "repository", precision)


def test_the_timing_cache_makes_the_next_build_faster(tmp_path: Path) -> None:
    checkpoint = copy_checkpoint("sd15-v", tmp_path / "checkpoint")
    target = TargetOptions(name="tensorrt", timing_cache=tmp_path / "timings")
    taken_s = []
    for name in ("first", "second"):
        started = time.monotonic()
        build(checkpoint, "base", tmp_path / name, target)
        taken_s.append(time.monotonic() - started)
    assert (tmp_path / "timings").stat().st_size > 0
    assert taken_s[1] < taken_s[0]


def test_a_refitted_engine_computes_what_the_new_checkpoint_does(tmp_path: Path) -> None:
    checkpoint = copy_checkpoint("sd15-v", tmp_path / "checkpoint")
    target = TargetOptions(name="tensorrt", refit=True, optimization_level=1)
    build(checkpoint, "base", tmp_path / "repository", target)
    path = checkpoint / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    generator = torch.Generator().manual_seed(0)
    noise = {key: torch.randn(value.shape, generator=generator) for key, value in state.items()}
    save_file({key: value + 0.01 * noise[key] for key, value in state.items()}, path)
    for _ in range(2):  # what was refitted can be refitted again
        build(checkpoint, "base", tmp_path / "repository", target)
        check(checkpoint, tmp_path / "repository", "fp16")
