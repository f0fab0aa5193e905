"""The exceptions of this package, and the mapping of the transport's errors to them.

::

    SegsError
    ├── InvalidRequest      the request breaks the contract; also a ValueError
    ├── Unauthenticated     the server requires a valid API key
    ├── NotFound            there is no such request to cancel
    ├── ServerUnavailable   not reachable, not ready or overloaded: try again
    ├── DeadlineExceeded    the time-out passed before the answer
    ├── Cancelled           the call was cancelled
    └── ServerError         the server failed; its log explains the request id
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from tritonclient.utils import InferenceServerException

from segs_client.contract import ContractError, ErrorCode, ErrorDetail
from segs_client.triton_messages import process_died, process_ended

LEAST_WAIT_S = 0.5
"""Least seconds until an unavailable server is tried again, and least ``retry_after_s``: a server
without measurements gives 0, and retries without a pause would overload it."""

if TYPE_CHECKING:  # importing gRPC is slow, and the server's models do not need it
    import grpc


class SegsError(Exception):
    """Root of this package's errors.

    Attributes:
        message: one sentence for people.
        code: the contract's error code.
        request_id: the call's id; empty if there was no call.
        retryable: whether the same call may succeed later.
    """

    code: ErrorCode = "INTERNAL"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, request_id: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.request_id = request_id


class InvalidRequest(SegsError, ValueError):  # noqa: N818 - named for what happened
    """The request was refused: ``field`` has ``value``; ``allowed`` describes valid values."""

    code: ErrorCode = "INVALID_ARGUMENT"

    def __init__(
        self,
        message: str,
        *,
        request_id: str = "",
        field: str | None = None,
        value: str | None = None,
        allowed: str | None = None,
    ) -> None:
        super().__init__(message, request_id=request_id)
        self.field = field
        self.value = value
        self.allowed = allowed


class Unauthenticated(SegsError):  # noqa: N818
    """The server requires an API key; none or an unknown one was sent."""

    code: ErrorCode = "UNAUTHENTICATED"


class NotFound(SegsError):  # noqa: N818
    """The server has no such request with this API key."""

    code: ErrorCode = "NOT_FOUND"


class ServerUnavailable(SegsError):  # noqa: N818
    """The server cannot be reached, is not ready or is overloaded; a later try may succeed.

    Attributes:
        retry_after_s: the server's estimate of seconds until a retry, at least 0.5; None if it
            gave none.
        is_loss: whether the server or a part of it was lost during the request, which may be the
            cause.
        is_refusal: whether the server refused the request and gave a time to try again.
    """

    code: ErrorCode = "UNAVAILABLE"
    retryable: ClassVar[bool] = True

    def __init__(
        self, message: str, *, request_id: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, request_id=request_id)
        self.retry_after_s = retry_after_s
        if retry_after_s is not None:
            self.retry_after_s = max(LEAST_WAIT_S, retry_after_s)  # in this order, also of NaN
        self.is_loss = process_died(message) or any(sign in message for sign in _LOSSES)
        self.is_refusal = retry_after_s is not None and not self.is_loss


class DeadlineExceeded(SegsError):  # noqa: N818
    """The call's time-out passed."""

    code: ErrorCode = "DEADLINE_EXCEEDED"


class Cancelled(SegsError):  # noqa: N818
    """The call was cancelled."""

    code: ErrorCode = "CANCELLED"


class ServerError(SegsError):
    """The server failed; its log has details under the request id."""


_UNCHANGED: Mapping[str, str] = MappingProxyType({})
_CLASSES: dict[ErrorCode, type[SegsError]] = {
    "UNAUTHENTICATED": Unauthenticated,
    "NOT_FOUND": NotFound,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "CANCELLED": Cancelled,
    "INTERNAL": ServerError,
}
_CODES: dict[str, ErrorCode] = {
    "INVALID_ARGUMENT": "INVALID_ARGUMENT",
    "OUT_OF_RANGE": "INVALID_ARGUMENT",
    "UNAUTHENTICATED": "UNAUTHENTICATED",
    "PERMISSION_DENIED": "UNAUTHENTICATED",
    "UNAVAILABLE": "UNAVAILABLE",
    "RESOURCE_EXHAUSTED": "UNAVAILABLE",
    "DEADLINE_EXCEEDED": "DEADLINE_EXCEEDED",
    "CANCELLED": "CANCELLED",
}
_REREAD: tuple[tuple[ErrorCode, str, ErrorCode], ...] = (
    ("UNAVAILABLE", "timeout expired", "DEADLINE_EXCEEDED"),  # it waited too long in a queue
    ("UNAVAILABLE", "protocol is restricted", "UNAUTHENTICATED"),
    ("UNAVAILABLE", "larger than max", "INVALID_ARGUMENT"),  # gRPC's own limit, RESOURCE_EXHAUSTED
)
"""Corrections of unspecific codes of Triton and gRPC: code, part of the message (in lower case),
and corrected code."""
_LOSSES = ("died meanwhile", "Socket closed", "Connection reset", "Broken pipe", "recvmsg",
           "GOAWAY", "keepalive")  # fmt: skip
"""Parts of messages of Triton, this service and gRPC about a lost connection."""


def from_transport(
    error: InferenceServerException | grpc.RpcError, *, request_id: str = ""
) -> SegsError:
    """Maps an error of tritonclient or gRPC to this package's.

    The class follows from the :class:`~segs_client.contract.ErrorDetail` in the status message, or
    without one from the gRPC status code.

    Example:
        >>> from_transport(InferenceServerException("no connection", "StatusCode.UNAVAILABLE"))
        ServerUnavailable('no connection')
    """
    if isinstance(error, InferenceServerException):
        text, status = error.message() or "", error.status() or ""
    else:
        text, status = _details_of(error)
    detail = ErrorDetail.from_status_message(text)
    if detail is None:
        code = _CODES.get(status.rpartition(".")[2], "INTERNAL")
        for unspecific, part, meant in _REREAD:
            if code == unspecific and part in text.lower():
                code = meant
                break
        if code == "INTERNAL" and process_ended(text):
            code = "UNAVAILABLE"
        message = text.strip() or f"the server answered {status or 'an unknown error'}"
        detail = ErrorDetail(code=code, message=message)
    return from_detail(detail, request_id=request_id)


def from_detail(detail: ErrorDetail, *, request_id: str = "") -> SegsError:
    """The exception for ``detail``; ``request_id`` is used if the detail has none."""
    request_id = detail.request_id or request_id
    if detail.code == "INVALID_ARGUMENT":
        return InvalidRequest(
            detail.message,
            request_id=request_id,
            field=detail.field,
            value=detail.value,
            allowed=detail.allowed,
        )
    if detail.code == "UNAVAILABLE":
        return ServerUnavailable(
            detail.message, request_id=request_id, retry_after_s=detail.retry_after_s
        )
    return _CLASSES[detail.code](detail.message, request_id=request_id)


@contextlib.contextmanager
def contract_checked() -> Iterator[None]:
    """Context manager or decorator: a ContractError raised inside becomes InvalidRequest."""
    try:
        yield
    except ContractError as error:
        raise from_detail(error.detail) from None


@contextlib.contextmanager
def within(place: str, label: str = "", names: Mapping[str, str] = _UNCHANGED) -> Iterator[None]:
    """Puts the place of a part before the field of an InvalidRequest raised inside.

    Args:
        place: of the part among those that the caller gave, such as ``segs.1``.
        label: of the SEG there, for the message.
        names: the caller's names of fields that have other ones in the error; "" for the part.

    Example:
        >>> with within("segs.1", "face", {"mask": "cropped_mask"}):
        ...     raise InvalidRequest("mask: wrong shape", field="mask")
        Traceback (most recent call last):
        segs_client.errors.InvalidRequest: segs.1.cropped_mask of 'face': wrong shape
    """
    try:
        yield
    except InvalidRequest as error:
        own = error.field or ""
        field = ".".join(filter(None, (place, names.get(own, own))))
        of = f" of {label!r:.40}" if label else ""
        raise InvalidRequest(
            field + of + error.message.removeprefix(own),
            request_id=error.request_id,
            field=field,
            value=error.value,
            allowed=error.allowed,
        ) from None


def _details_of(error: grpc.RpcError) -> tuple[str, str]:
    # A raised RpcError is in practice a grpc.Call too, but the base class promises neither method.
    details = getattr(error, "details", None)
    code = getattr(error, "code", None)
    text = details() if callable(details) else str(error)
    return text or "", str(code()) if callable(code) else ""
