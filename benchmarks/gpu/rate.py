"""The device's own rate."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

import torch

from benchmarks.gpu.cases import Case, Options, Row, tflops, timed

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
_PRODUCTS = 10


def rate(options: Options, stack: ExitStack) -> list[Case]:
    """One row per precision of tensor cores."""
    side = options.rate_side
    return [
        Case({"precision": precision, "side": side}, partial(_products, options, dtype))
        for precision, dtype in _DTYPES.items()
    ]


def _products(options: Options, dtype: torch.dtype, seconds: float) -> Row:
    side = options.rate_side
    a, b = (torch.randn(side, side, device=options.device).to(dtype) for _ in range(2))

    def run() -> None:
        for _ in range(_PRODUCTS):
            a @ b
        if a.is_cuda:
            torch.cuda.synchronize()

    taken_s = timed(run, min(options.seconds, seconds / 2))
    return {"TFLOP/s": tflops(_PRODUCTS * 2 * side**3, taken_s)}
