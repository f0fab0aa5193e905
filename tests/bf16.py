"""Tests of bfloat16 on a CPU run where it has it."""

from __future__ import annotations

import pytest

from pipelines.cpu import CpuError, require_bf16


def _reason() -> str:
    try:
        require_bf16()
    except CpuError as error:
        return str(error)
    return ""


needs_bf16 = pytest.mark.skipif(bool(_reason()), reason=_reason())
