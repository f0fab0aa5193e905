"""A stand-in for ``triton_python_backend_utils``, which only Triton's Python stub brings."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1


class TritonError(Exception):
    """An error as a response has it."""

    INVALID_ARG, UNAVAILABLE, NOT_FOUND = "INVALID_ARG", "UNAVAILABLE", "NOT_FOUND"
    CANCELLED, INTERNAL = "CANCELLED", "INTERNAL"

    def __init__(self, message: str, code: str = INTERNAL) -> None:
        super().__init__(message)
        self.code = code

    def message(self) -> str:
        return str(self)


class Tensor:
    """A named array."""

    def __init__(self, name: str, value: Any) -> None:
        self._name, self._value = name, value

    @classmethod
    def from_dlpack(cls, name: str, value: torch.Tensor) -> Tensor:
        return cls(name, from_dlpack(value))

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> Any:
        return np.asarray(self._value)

    def to_dlpack(self) -> Any:
        return torch.as_tensor(self._value).__dlpack__()


class InferenceResponse:
    """The answer to a call, or a response to a request."""

    def __init__(
        self, output_tensors: Sequence[Tensor] = (), error: TritonError | None = None
    ) -> None:
        self._tensors, self._error = list(output_tensors), error

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error

    def output_tensors(self) -> list[Tensor]:
        return self._tensors

    def named(self) -> dict[str, Any]:
        """The arrays by name."""
        return {tensor.name(): tensor.as_numpy() for tensor in self._tensors}


class InferenceRequest:
    """A call of another model, which a test answers."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def async_exec(self) -> asyncio.Future[InferenceResponse]:
        self.answer: asyncio.Future[InferenceResponse] = asyncio.get_running_loop().create_future()
        return self.answer


class Sender:
    """Keeps the responses to one request.

    Args:
        error: is raised by each call, as of a client that has gone.
    """

    def __init__(self, error: Exception | None = None) -> None:
        self.responses: list[InferenceResponse] = []
        self.is_final: list[bool] = []
        self._error = error

    def send(self, response: InferenceResponse, flags: int = 0) -> None:
        self.responses.append(response)
        self.is_final.append(bool(flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL))
        if self._error is not None:
            raise self._error


@dataclass(eq=False)
class Request:
    """A request as Triton hands it to a model."""

    tensors: Mapping[str, Any] = field(default_factory=dict)
    outputs: Sequence[str] = ()
    given: str = ""
    """Its parameters."""
    name: str = ""
    timeout_us: int = 0
    sender: Sender = field(default_factory=Sender)

    def inputs(self) -> list[Tensor]:
        return [Tensor(name, value) for name, value in self.tensors.items()]

    def requested_output_names(self) -> list[str]:
        return [*self.outputs]

    def parameters(self) -> str:
        return self.given

    def request_id(self) -> str:
        return self.name

    def timeout(self) -> int:
        return self.timeout_us

    def get_response_sender(self) -> Sender:
        return self.sender


def get_input_tensor_by_name(request: Request, name: str) -> Tensor | None:
    return Tensor(name, request.tensors[name]) if name in request.tensors else None
