"""Keeps a shape that wraps from ending the process of a Python model of Triton 2.51.

Triton checks a tensor's bytes against the product of its shape in 64 bits, which wraps: FP32
``[1, 4, 2**60, 1]`` is 0 bytes to it and ``[1, 4, -4, -4]`` 256. Before any code of ours runs, its
Python stub asks numpy for such an array; numpy refuses, and the stub, which expects no exception
there, ends. Later servers refuse such shapes themselves.

The stub's binding to numpy (pybind11) fetches numpy's functions once, from the table behind
``_ARRAY_API``. So it is given a copy of that table, in which the function that makes arrays gives
one of shape ``[0, …]`` where numpy would refuse. Nobody else in the process sees the copy. What is
left to a model is to refuse tensors that have a 0 in their shape.

Importable in a stub only.
"""

from __future__ import annotations

import ctypes
import importlib
import os
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from runners.tensor_rules import wraps
from serving.options import SURVIVE_WRAPPED_VARIABLE

_TABLE_LENGTH = 283
"""Of the table, what pybind11 reads."""
_NEW_FROM_DESCR = 94
"""The place of ``PyArray_NewFromDescr``, which numpy's binary interface fixes."""

_NewFromDescr = ctypes.PYFUNCTYPE(
    ctypes.c_void_p,  # the array
    ctypes.c_void_p,  # its type
    ctypes.c_void_p,  # dtype
    ctypes.c_int,  # number of axes
    ctypes.POINTER(ctypes.c_ssize_t),  # their sizes
    ctypes.c_void_p,  # strides
    ctypes.c_void_p,  # data
    ctypes.c_int,  # flags
    ctypes.c_void_p,  # object that the array is made for
)
_kept: list[object] = []
"""What the binding points at from then on."""


def survive_wrapped_shapes() -> None:
    """To be called in ``initialize``, before the process has seen a tensor; does nothing where
    the server is not one of those."""
    if _kept or SURVIVE_WRAPPED_VARIABLE not in os.environ:
        return
    numpy_module: Any = importlib.import_module("numpy.core.multiarray")
    original = numpy_module._ARRAY_API
    table = (ctypes.c_void_p * _TABLE_LENGTH).from_address(_capsule_address(original))
    make: Any = _NewFromDescr(table[_NEW_FROM_DESCR] or 0)

    def make_or_empty(
        kind: int,
        dtype: int,
        axes: int,
        sizes: Any,
        strides: int,
        data: int,
        flags: int,
        owner: int,
    ) -> Any:
        itemsize = ctypes.cast(dtype, ctypes.py_object).value.itemsize
        if not wraps(sizes[:axes], itemsize):
            return make(kind, dtype, axes, sizes, strides, data, flags, owner)
        return make(kind, dtype, axes, (ctypes.c_ssize_t * axes)(), None, data, flags, owner)

    entry = _NewFromDescr(make_or_empty)
    copy = (ctypes.c_void_p * _TABLE_LENGTH)(*table)
    copy[_NEW_FROM_DESCR] = ctypes.cast(entry, ctypes.c_void_p).value
    _kept.extend((copy, entry))
    numpy_module._ARRAY_API = _new_capsule(ctypes.addressof(copy))
    try:
        pb_utils.Tensor("first", np.zeros(1, np.float32))  # the binding fetches its functions
    finally:
        numpy_module._ARRAY_API = original


_capsule_address = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi), ((1,), (1, None, None))
)
_new_capsule = ctypes.PYFUNCTYPE(
    ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p
)(("PyCapsule_New", ctypes.pythonapi), ((1,), (1, None, None), (1, None, None)))
