"""The errors of refused and failed requests: their wire form and messages.

:mod:`segs_client.contract` exports these names. The request's fields are known here only by the
JSON Schema that is passed in.
"""

from __future__ import annotations

import difflib
import json
import reprlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from segs_client.ranges import allowed_values, node_at

ErrorCode = Literal[
    "INVALID_ARGUMENT",
    "UNAUTHENTICATED",
    "NOT_FOUND",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "CANCELLED",
    "INTERNAL",
]

VALUE_CHARS = 80
MESSAGE_CHARS = 1000
STATUS_BYTES = 6000  # gRPC refuses metadata above 8 KiB, with the status message
CUSTOM_KIND = "refused"
_MISTAKES = 10_000
_NAME_CHARS = 64

_MESSAGES = {
    "extra_forbidden": "unknown field",
    "missing": "required",
    "literal_error": "unknown value",
    "greater_than": "too small",
    "greater_than_equal": "too small",
    "less_than": "too large",
    "less_than_equal": "too large",
    "finite_number": "not a finite number",
    "int_from_float": "not a whole number",
    "int_parsing_size": "too large",
    "string_too_long": "too long",
    "string_too_short": "too short",
    "string_pattern_mismatch": "malformed",
    "too_long": "too many items",
    "too_short": "too few items",
}


class ErrorDetail(BaseModel):
    """A refused or failed request: the last line of the gRPC status message, as JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: ErrorCode
    message: Annotated[str, Field(description="one sentence for people")]
    field: Annotated[
        str | None, Field(description="path in the request, e.g. segs.items.2.mask")
    ] = None
    value: Annotated[str | None, Field(description="what was sent, shortened")] = None
    allowed: Annotated[str | None, Field(description="what would have been accepted")] = None
    request_id: Annotated[str, Field(description="id of the call, found in the server's log")] = ""
    retry_after_s: Annotated[
        float | None, Field(description="when an overloaded server may have room, by its estimate")
    ] = None

    def to_status_message(self) -> str:
        """The gRPC status message: a sentence, a newline, and this detail as one line of JSON.

        Texts longer than gRPC allows are cut.

        Example:
            >>> ErrorDetail(code="INTERNAL", message="failed").to_status_message().splitlines()[0]
            'failed'
        """
        limit = MESSAGE_CHARS
        while len(quote(text := self._as_text(limit))) > STATUS_BYTES:
            limit //= 2
        return text

    @classmethod
    def from_status_message(cls, text: str) -> ErrorDetail | None:
        """Reads the detail from the last line of a status message.

        Returns:
            None if there is no detail.

        Example:
            >>> detail = ErrorDetail(code="CANCELLED", message="the client went away")
            >>> ErrorDetail.from_status_message("in ensemble: " + detail.to_status_message())
            ErrorDetail(code='CANCELLED', message='the client went away', field=None, ...)
        """
        last_line = text.rstrip().rpartition("\n")[2]
        start = last_line.find("{")
        if start < 0:
            return None
        try:
            return cls.model_validate_json(last_line[start:])
        except ValidationError:
            return None

    def _as_text(self, limit: int) -> str:
        texts = {
            name: _cut(value, limit)
            for name, value in self.model_dump(exclude_none=True).items()
            if isinstance(value, str) and name != "code"
        }
        detail = self.model_copy(update=texts)
        # NUL would end Triton's C strings; other control characters affect logs and terminals.
        sentence = _printable(" ".join(detail.message.split()))
        return f"{sentence}\n{detail.model_dump_json(exclude_none=True)}"


class ContractError(ValueError):
    """Input that breaks the contract, with the :class:`ErrorDetail` of the response."""

    def __init__(self, detail: ErrorDetail) -> None:
        super().__init__(detail.message)
        self.detail = detail


def invalid(
    field: str, message: str, *, value: object = None, allowed: str | None = None
) -> ContractError:
    """The error for one wrong ``field``; ``value`` is shortened to 80 characters.

    Example:
        >>> str(invalid("image", "not a picture", value="GIF", allowed="PNG, JPEG or WebP"))
        "image: not a picture (got 'GIF'); allowed: PNG, JPEG or WebP"
    """
    return _refused(field, message, None if value is None else _shorten(value), allowed)


def refuse(field: str, message: str, *, value: object, allowed: str) -> PydanticCustomError:
    """The error to raise inside a pydantic validator; ``field`` is relative to its model."""
    context = {"field": field, "message": message, "value": _shorten(value), "allowed": allowed}
    return PydanticCustomError(CUSTOM_KIND, "{field}: {message}", context)


def from_validation_error(error: ValidationError, schema: Mapping[str, Any]) -> ContractError:
    """The ContractError for pydantic's first error.

    Args:
        error: any ValidationError.
        schema: JSON Schema of the validated model, for the allowed values.
    """
    if error.error_count() > _MISTAKES:  # listing them would take seconds
        count = error.error_count()
        return invalid("request", "too many mistakes", value=count, allowed="what the schema says")
    first = error.errors(include_url=False)[0]
    kind, location = first["type"], first["loc"]
    context: Mapping[str, Any] = first.get("ctx") or {}
    field = ".".join(_cut(str(part), 60) for part in location)
    if kind == CUSTOM_KIND:
        path = ".".join(part for part in (field, context["field"]) if part)
        return _refused(path, context["message"], context["value"], context["allowed"])
    if kind == "json_invalid":
        allowed: str | None = "one JSON object, in UTF-8"
    elif kind == "extra_forbidden":
        allowed = _known_names(str(location[-1]), node_at(schema, location[:-1]))
    else:
        allowed = allowed_values(node_at(schema, location), schema)
    return _refused(
        field or "request",
        _message(kind, context, first["msg"]),
        _shown_input(kind, first.get("input")),
        allowed,
    )


def closest_name(name: str, known: Sequence[str]) -> str | None:
    """The known name most like ``name``, or None.

    Example:
        >>> closest_name("guidesize", ["guide_size", "max_size"])
        'guide_size'
    """
    short = name[:_NAME_CHARS]  # limits the time of the comparison
    return next(iter(difflib.get_close_matches(short, known, n=1, cutoff=0.5)), None)


def _known_names(name: str, parent: Mapping[str, Any] | None) -> str | None:
    known = list((parent or {}).get("properties", ()))
    if not known:
        return None
    closest = closest_name(name, known)
    names = ", ".join(known)
    return f"closest is '{closest}' among {names}" if closest else names


def _message(kind: str, context: Mapping[str, Any], pydantic_text: str) -> str:
    if kind == "json_invalid":
        return f"not valid JSON: {context.get('error', pydantic_text)}"
    if kind == "value_error":
        return str(context.get("error", pydantic_text))
    if kind in _MESSAGES:
        return _MESSAGES[kind]
    if kind.endswith(("_type", "_parsing")):
        return "wrong type"
    return pydantic_text


def _shown_input(kind: str, value: object) -> str | None:
    if kind in ("missing", "json_invalid") or isinstance(value, dict):
        return None
    if value is None or isinstance(value, (bool, float)):
        return json.dumps(value)  # null, true and NaN as in the JSON
    return _shorten(value)


def _refused(field: str, message: str, shown: str | None, allowed: str | None) -> ContractError:
    text = f"{field}: {message}"
    if shown is not None:
        text += f" (got {shown})"
    if allowed is not None:
        text += f"; allowed: {allowed}"
    detail = ErrorDetail(
        code="INVALID_ARGUMENT", message=text, field=field, value=shown, allowed=allowed
    )
    return ContractError(detail)


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = VALUE_CHARS
_REPR.maxlist = _REPR.maxtuple = 8


def _printable(text: str) -> str:
    """The text with control characters escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _shorten(value: object) -> str:
    return _cut(_REPR.repr(value), VALUE_CHARS)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
