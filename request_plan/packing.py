"""Packing of arrays into one flat uint8 tensor, and reading them from it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from request_plan.plan import Bytes, Piece
from segs_client.arrays import ByteArray, FloatArray
from segs_client.boxes import Box

_CHANNELS = 3


class Packer:
    """Collects arrays; their bytes become one tensor, in order."""

    def __init__(self) -> None:
        self._parts: list[ByteArray] = []
        self._size_bytes = 0

    def add(self, array: NDArray[np.float32] | ByteArray) -> Piece:
        """Appends ``[h, w]`` or ``[h, w, 3]``; returns its place."""
        piece = Piece(offset=self._size_bytes, height=array.shape[0], width=array.shape[1])
        self.add_bytes(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        return piece

    def add_bytes(self, flat: ByteArray) -> int:
        """Appends bytes; returns their offset."""
        offset = self._size_bytes
        self._parts.append(flat)
        self._size_bytes += flat.size
        return offset

    def tensor(self) -> ByteArray:
        """All bytes, flat."""
        return np.concatenate(self._parts) if self._parts else np.empty(0, dtype=np.uint8)


def pixels_at(tensor: ByteArray, piece: Piece) -> ByteArray:
    """The uint8 ``[h, w, 3]`` at a place; a view."""
    size = piece.height * piece.width * _CHANNELS
    return tensor[piece.offset : piece.offset + size].reshape(piece.height, piece.width, _CHANNELS)


def mask_at(tensor: ByteArray, piece: Piece) -> FloatArray:
    """The float32 ``[h, w]`` at a place."""
    return _floats(tensor, piece, 1).reshape(piece.height, piece.width)


def mask_window_at(tensor: ByteArray, piece: Piece, box: Box) -> FloatArray:
    """The float32 ``[h, w]`` inside a box of the mask at a place; copies only the box."""
    x1, y1, x2, y2 = box
    size = piece.height * piece.width * 4
    rows = tensor[piece.offset : piece.offset + size].reshape(piece.height, piece.width * 4)
    return rows[y1:y2, x1 * 4 : x2 * 4].copy().view(np.float32)


def values_at(tensor: ByteArray, piece: Piece) -> FloatArray:
    """The float32 ``[h, w, 3]`` at a place."""
    return _floats(tensor, piece, _CHANNELS).reshape(piece.height, piece.width, _CHANNELS)


def bytes_at(tensor: ByteArray, place: Bytes | None) -> bytes | None:
    """The bytes at a place, a copy; None if there is none."""
    return None if place is None else tensor[place.offset : place.offset + place.length].tobytes()


def _floats(tensor: ByteArray, piece: Piece, channels: int) -> NDArray[np.float32]:
    size = piece.height * piece.width * channels * 4
    return tensor[piece.offset : piece.offset + size].copy().view(np.float32)
