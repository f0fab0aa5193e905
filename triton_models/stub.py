"""Functions of the models inside Triton's Python stub: tensors, errors, configuration."""

from __future__ import annotations

import logging
import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines import PipelineDescriptor, load_all
from preprocessing.prepare import RequestTensors
from request_plan.limits import Limits
from request_plan.refusals import CancelledByClientError, DeadlineExceededError, UnavailableError
from sampling.faults import IncidentError, incident_message, open_incident
from segs_client.contract import ContractError, ErrorDetail
from triton_models import environment, pb_utils
from triton_models.internal_token import read_parameters

log = logging.getLogger(__name__)

StubTensor = NDArray[Any] | bytes

# Names of TritonError's codes, which exist only in a running stub.
_CODES = {
    "INVALID_ARGUMENT": "INVALID_ARG",
    "UNAVAILABLE": "UNAVAILABLE",
    # A code that callers do not retry.
    "UNAUTHENTICATED": "INVALID_ARG",
    "NOT_FOUND": "NOT_FOUND",
    # Triton has no such code; clients use the detail in the message.
    "DEADLINE_EXCEEDED": "CANCELLED",
    "CANCELLED": "CANCELLED",
    "INTERNAL": "INTERNAL",
}


def repositories() -> list[Path]:
    """The folders with pipelines."""
    value = os.environ.get(environment.REPOSITORIES, "")
    return [Path(part) for part in value.split(os.pathsep) if part]


def pipelines() -> dict[str, PipelineDescriptor]:
    """The pipelines in them, by name."""
    return {name: descriptor for name, (descriptor, _) in load_all(repositories()).items()}


def limits() -> Limits:
    """The limits of this server.

    Raises:
        ValueError: the environment variable is invalid.
    """
    return Limits.from_mapping(Limits.read(os.environ.get(environment.LIMITS, "{}")))


def flat(request: Any, name: str) -> NDArray[np.uint8] | None:
    """A flat uint8 input; None if an optional one is missing."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return None
    array: NDArray[np.uint8] = tensor.as_numpy()
    return array


def required(request: Any, name: str) -> NDArray[np.uint8]:
    """A required flat uint8 input."""
    array = flat(request, name)
    return np.empty(0, dtype=np.uint8) if array is None else array


def size_bytes(request: Any) -> int:
    """Bytes of all tensors of a request."""
    arrays = (tensor.as_numpy() for tensor in request.inputs())
    return sum(
        sum(map(len, array.ravel())) if array.dtype == object else array.nbytes for array in arrays
    )


def text(request: Any, name: str) -> bytes:
    """The one element of a BYTES input."""
    value: bytes = pb_utils.get_input_tensor_by_name(request, name).as_numpy()[0]
    return value


def id_of(request: Any) -> str:
    """A request's id, or a random one."""
    return request.request_id() or uuid.uuid4().hex


def parameter(request: Any, name: str) -> str | None:
    """A text parameter of a request; None if it is missing."""
    value = read_parameters(request.parameters()).get(name)
    return value if isinstance(value, str) else None


def inputs(request: Any) -> RequestTensors:
    """The tensors of a request for detailing."""
    return RequestTensors(
        text(request, "request"),
        required(request, "image"),
        flat(request, "masks"),
        flat(request, "seg_images"),
        flat(request, "control_images"),
    )


def as_flat(text: bytes) -> NDArray[np.uint8]:
    """Text as a flat uint8 output. (BYTES would be unsafe: if a client requests classification of
    an output, Triton 2.51 divides by the size of a value, which is 0 for BYTES, and crashes.)"""
    return np.frombuffer(text, np.uint8)


def answer(**tensors: StubTensor) -> Any:
    """A response with these outputs: bytes as BYTES [1], arrays unchanged."""
    return pb_utils.InferenceResponse(
        [
            pb_utils.Tensor(
                name, np.array([value], dtype=object) if isinstance(value, bytes) else value
            )
            for name, value in tensors.items()
        ]
    )


def error_detail(error: BaseException, request_id: str) -> ErrorDetail:
    """The error for the caller of a failed request; for an internal error with the id of its
    traceback in the log."""
    if isinstance(error, ContractError):
        return error.detail.model_copy(update={"request_id": request_id})
    if isinstance(error, DeadlineExceededError):
        return _detail("DEADLINE_EXCEEDED", "the request's time ran out", request_id)
    if isinstance(error, CancelledByClientError):
        return _detail("CANCELLED", str(error), request_id)
    if isinstance(error, UnavailableError):
        detail = _detail("UNAVAILABLE", str(error), request_id)
        return detail.model_copy(update={"retry_after_s": round(error.retry_after_s, 2)})
    if isinstance(error, IncidentError):
        incident = error.incident
    else:
        incident = open_incident(error, request_id)
    return _detail("INTERNAL", incident_message(incident), request_id)


def send_last(sender: Any, response: Any) -> None:
    """Sends a request's only response; may block, never raises."""
    try:
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
    except Exception:
        log.exception("a response cannot be sent")


def refusal(error: BaseException, request_id: str) -> Any:
    """The response to a failed request, with :func:`error_detail`."""
    return refused(error_detail(error, request_id))


def refused(detail: ErrorDetail) -> Any:
    """The response with an error."""
    return pb_utils.InferenceResponse(
        output_tensors=[],
        error=pb_utils.TritonError(
            detail.to_status_message(), getattr(pb_utils.TritonError, _CODES[detail.code])
        ),
    )


def _detail(code: Any, message: str, request_id: str) -> ErrorDetail:
    return ErrorDetail(code=code, message=message, request_id=request_id)
