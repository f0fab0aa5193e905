"""Pictures through this host's shared memory instead of gRPC; Linux only.

For servers on the same host whose shared-memory protocol is open to clients, with the risks in
docs/hardening.md.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.utils import shared_memory

from segs_client.arrays import ByteArray
from segs_client.messages import OUTPUTS, BuiltRequest

_FOLDER = Path("/dev/shm")
_PICTURE_INPUT, _PICTURE_OUTPUT = "image", "detailed_image"
_BOUNDED = ("raw", "png")
"""Forms of a result whose size is known in advance; others are small and sent by gRPC."""
_PNG_OVERHEAD = 1.01
_PNG_HEADERS_BYTES = 1 << 16


@dataclass(frozen=True, eq=False)
class RegionSpec:
    """The shared memory of a request.

    Attributes:
        picture: uint8 [n], the ``image`` tensor.
        result_bytes: room for ``detailed_image``; 0 if it is sent by gRPC.
    """

    picture: ByteArray
    result_bytes: int

    @classmethod
    def of(cls, built: BuiltRequest) -> RegionSpec:
        """The shared memory that a request needs."""
        height, width = built.image_size
        data_bytes = height * width * 3 + len(built.profile or b"")
        most = int(data_bytes * _PNG_OVERHEAD) + _PNG_HEADERS_BYTES
        is_bounded = built.request.output.image in _BOUNDED
        return cls(built.image, most if is_bounded else 0)


class Region:
    """A region of shared memory for one try of one request; a context manager, which fills and
    frees it. If this process dies, Python's resource tracker frees it.

    Raises:
        OSError: there is not enough shared memory.
    """

    def __init__(self, room: RegionSpec) -> None:
        self.name = f"segs-client-{uuid.uuid4().hex}"
        self._room = room
        self.size_bytes = room.picture.nbytes + room.result_bytes

    def __enter__(self) -> Region:
        self._handle = shared_memory.create_shared_memory_region(
            self.name, self.name, self.size_bytes, create_only=True
        )
        try:
            # Allocates the pages now: a missing page would kill the server when it writes.
            with (_FOLDER / self.name).open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, self.size_bytes)
            shared_memory.set_shared_memory_region(self._handle, [self._room.picture])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        shared_memory.destroy_shared_memory_region(self._handle)

    def registration(self) -> dict[str, Any]:
        """Arguments of tritonclient's ``register_system_shared_memory``."""
        return {"name": self.name, "key": self.name, "byte_size": self.size_bytes}

    def arguments(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of ``infer``, with the pictures in this region."""
        picture = InferInput(_PICTURE_INPUT, [self._room.picture.size], "UINT8")
        picture.set_shared_memory(self.name, self._room.picture.nbytes)
        others = [each for each in arguments["inputs"] if each.name() != _PICTURE_INPUT]
        changed = {**arguments, "inputs": [*others, picture]}
        if self._room.result_bytes:
            outputs = {name: InferRequestedOutput(name) for name in OUTPUTS}
            outputs[_PICTURE_OUTPUT].set_shared_memory(
                self.name, self._room.result_bytes, self._room.picture.nbytes
            )
            changed["outputs"] = list(outputs.values())
        return changed

    def results(self, answer: Any) -> dict[str, ByteArray]:
        """Copies of the outputs in this region, by name."""
        if not self._room.result_bytes:
            return {}
        output = answer.get_output(_PICTURE_OUTPUT)
        length = min(int(np.prod(output.shape)), self._room.result_bytes)
        here = shared_memory.get_contents_as_numpy(
            self._handle, np.uint8, [length], self._room.picture.nbytes
        )
        return {_PICTURE_OUTPUT: here.copy()}
