"""Triton's ``triton_python_backend_utils``, which only its Python stub has: imported when one of
its names is used, so that what uses it can be imported anywhere."""

from typing import Any


def __getattr__(name: str) -> Any:
    import triton_python_backend_utils

    return getattr(triton_python_backend_utils, name)
