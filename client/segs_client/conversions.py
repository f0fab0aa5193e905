"""Callers' arrays and PIL pictures as pixel values 0..255."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from segs_client.arrays import AnyArray, ByteArray, to_pixels
from segs_client.contract import invalid

OVERSHOOT = 0.3
"""How far floats of a picture may be beyond 0..1: as far as Lanczos goes at sharp edges."""


class SupportsArray(Protocol):
    """What numpy makes an array of, such as a tensor of torch."""

    def __array__(self) -> npt.NDArray[Any]: ...


def as_array(value: Any, name: str) -> AnyArray:
    """A value as an array: of numpy, of nested lists, or a tensor of torch on any device.

    Raises:
        ContractError: numpy cannot make an array of it.
    """
    try:
        if hasattr(value, "detach"):
            value = value.detach().cpu()
            is_bfloat16 = str(getattr(value, "dtype", "")).endswith("bfloat16")  # numpy has none
            return np.asarray((value.float() if is_bfloat16 else value).numpy())
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        allowed = "what numpy makes an array of"
        raise invalid(name, f"not an array: {error}", allowed=allowed) from None


def as_number(value: Any, name: str) -> float:
    """A number of Python or numpy, or the only one of an array or tensor.

    Raises:
        ContractError: not one finite number.

    Example:
        >>> as_number(np.array([0.5]), "confidence")
        0.5
    """
    array = as_array(value, name)
    if array.size != 1 or array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        raise invalid(name, "not a number", value=value, allowed="a finite number")
    return float(array.reshape(-1)[0])


def to_levels(array: AnyArray, name: str) -> ByteArray:
    """Numbers of any dtype as pixel values 0..255, in the same shape.

    Args:
        array: bool; whole numbers in 0..255; uint16 with greater ones, of which the upper 8 bits
            are used; or float in 0..1, which becomes ``trunc(clip(255 * x, 0, 255))`` and may
            be beyond by :data:`OVERSHOOT`.
        name: in errors.

    Raises:
        ContractError: another dtype, or values out of range.

    Example:
        >>> to_levels(np.array([0, 0.5, 1.1]), "image")
        array([  0, 127, 255], dtype=uint8)
    """
    kind = array.dtype.kind
    if array.dtype == np.uint8:
        return array
    if kind == "b":
        return array.astype(np.uint8) * np.uint8(255)
    if kind == "f":
        return _float_levels(array, name)
    if kind not in "iu":
        allowed = "bool, whole numbers in 0..255, uint16, or float in 0..1"
        raise invalid(name, "wrong dtype", value=str(array.dtype), allowed=allowed)
    low, high = int(array.min()), int(array.max())
    if high > 255 and array.dtype == np.uint16:
        array = array >> 8
    elif low < 0 or high > 255:
        allowed = "0 … 255; uint16 may have 0 … 65535"
        raise invalid(name, f"values from {low} to {high}", allowed=allowed)
    return array.astype(np.uint8)


def to_mode(picture: Image.Image, mode: Literal["RGB", "L"], field: str = "image") -> Image.Image:
    """Converts a picture, without its transparency; where Pillow would clip, by the values.

    Of 16 bits the upper 8 are used. Mode I counts as 16 bits if it has values above 255, else as 8;
    mode F has values in 0..1.

    Raises:
        ContractError: values out of range, or a mode that Pillow cannot convert.

    Example:
        >>> grey = Image.fromarray(np.full((2, 4), 0x80FF, np.uint16))
        >>> to_mode(grey, "L").getextrema()
        (128, 128)
    """
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    elif picture.mode in ("I", "F"):
        values = np.asarray(picture)
        if picture.mode == "I" and values.min() >= 0 and values.max() <= 0xFFFF:
            values = values.astype(np.uint16)
        picture = Image.fromarray(to_levels(values, field))
    try:
        return picture.convert(mode)
    except ValueError:
        allowed = "a mode that Pillow converts to RGB"
        raise invalid(field, "wrong mode", value=picture.mode, allowed=allowed) from None


def _float_levels(array: AnyArray, name: str) -> ByteArray:
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise invalid(name, "not finite", allowed="values 0 … 1")
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        allowed = (
            f"0 … 1 (up to {OVERSHOOT:g} beyond is clipped): x / 255 of 0 … 255, "
            "(x + 1) / 2 of -1 … 1"
        )
        raise invalid(name, f"values from {low:g} to {high:g}", allowed=allowed)
    # float32 first, as in the reference: truncation depends on it.
    return to_pixels(array.astype(np.float32))
