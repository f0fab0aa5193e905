"""A plan is run, on a double whose engine doubles ``sample`` and adds ``gain`` to it."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from build_engines.errors import VerificationError
from build_engines.tensorrt.plan import Plan
from tests.tensorrt.double import Double

PROFILES = [
    {"sample": [(1, 4), (1, 8), (1, 8)], "gain": [(1, 1)] * 3},
    {"sample": [(1, 4), (2, 4), (4, 4)], "gain": [(1, 1), (2, 1), (4, 1)]},
]


@pytest.fixture
def engine(trt: Double) -> Double:
    """The double with that engine."""

    def shape(context: Any, name: str, shape: tuple[int, ...]) -> bool:
        context.__dict__.setdefault("shapes", {})[name] = shape
        return True

    def address(context: Any, name: str, memory: int) -> bool:
        context.__dict__.setdefault("addresses", {})[name] = memory
        return True

    def execute(context: Any, stream_handle: int) -> bool:
        shapes, addresses = context.__dict__["shapes"], context.__dict__["addresses"]
        sample, gain = (view(addresses[name], shapes[name]) for name in ("sample", "gain"))
        view(addresses["out"], shapes["sample"])[:] = 2 * sample + gain
        return True

    trt.handlers |= {
        "Runtime.deserialize_cuda_engine": lambda runtime, serialized_engine: trt.new(
            "ICudaEngine", num_optimization_profiles=len(PROFILES)
        ),
        "ICudaEngine.get_tensor_profile_shape": lambda engine, name, profile_index: PROFILES[
            profile_index
        ][name],
        "IExecutionContext.set_input_shape": shape,
        "IExecutionContext.get_tensor_shape": lambda context, name: context.__dict__["shapes"][
            "sample"
        ],
        "IExecutionContext.set_tensor_address": address,
        "IExecutionContext.execute_async_v3": execute,
    }
    return trt


def view(address: int, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The float32 tensor at an address."""
    pointer = ctypes.cast(address, ctypes.POINTER(ctypes.c_float))
    return np.ctypeslib.as_array(pointer, shape)


def load(trt: Double, folder: Path) -> Plan:
    (folder / "model.plan").write_bytes(b"plan")
    return Plan(trt, folder / "model.plan", ["out"], device="cpu")


def batch(rows: int, side: int) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    rng = np.random.default_rng(0)
    transposed = rng.standard_normal((side, rows)).astype(np.float32)  # not contiguous
    return {"sample": transposed.T, "gain": rng.standard_normal((rows, 1)).astype(np.float32)}


@pytest.mark.parametrize(
    ("rows", "side", "profile"), [(1, 8, 0), (3, 4, 1)], ids=["the first", "the second"]
)
def test_a_batch_is_run_with_the_profile_that_holds_it(
    engine: Double, tmp_path: Path, rows: int, side: int, profile: int
) -> None:
    plan = load(engine, tmp_path)
    inputs = batch(rows, side)
    for _ in range(2):
        (out,) = plan.run(inputs)
        np.testing.assert_array_equal(out, 2 * inputs["sample"] + inputs["gain"])
    chosen = engine.called("IExecutionContext.set_optimization_profile_async")
    assert chosen == [{"profile_index": profile, "stream_handle": 0}] * 2


def test_a_batch_that_no_profile_holds(engine: Double, tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match=r"no optimisation profile .*\(3, 8\)"):
        load(engine, tmp_path).run(batch(3, 8))


@pytest.mark.parametrize(
    ("call", "result"),
    [
        ("Runtime.deserialize_cuda_engine", None),
        ("ICudaEngine.create_execution_context", None),
        ("IExecutionContext.set_optimization_profile_async", False),
        ("IExecutionContext.set_input_shape", False),
        ("IExecutionContext.set_tensor_address", False),
        ("IExecutionContext.execute_async_v3", False),
    ],
)
def test_what_fails_is_told(engine: Double, tmp_path: Path, call: str, result: Any) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        return result

    engine.handlers[call] = fail
    with pytest.raises(VerificationError, match=r"TensorRT .*: it gives no reason"):
        load(engine, tmp_path).run(batch(1, 8))
