"""The events of ``segs_detailer_stream``: versioned JSON, one event per response.

Every response has the output ``event`` (UINT8 [n], JSON of one of these models). If the event has a
picture, the output ``picture`` (UINT8 [n]) contains its file. The last event is ``error``, or
``result``, whose response also has all outputs of ``segs_detailer``.

If events are made faster than they are sent, steps and previews are dropped in favour of newer
ones. Other events are never dropped while the server's processes live.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from segs_client.contract import ErrorDetail, SegError, SegStatus
from segs_client.wire import Model

EVENT_OUTPUT = "event"
PICTURE_OUTPUT = "picture"
CANCEL_PARAMETER = "cancel"
"""Request parameter of a call without inputs: the id of the request to cancel."""

_Index = Annotated[int, Field(ge=0)]


class PictureInfo(Model):
    """The form of the response's ``picture``."""

    encoding: Literal["png", "jpeg", "webp"]
    shape: Annotated[tuple[int, int, Literal[3]], Field(description="[height, width, 3]")]


class EventBase(Model):
    """The fields of every event."""

    version: Literal[1] = 1
    request_id: str
    seq: Annotated[int, Field(ge=0, description="0, 1, 2 … in the order of the responses")]
    at_s: Annotated[float, Field(ge=0, description="seconds since the server received the request")]


class SegEvent(EventBase):
    """The fields of every event of a SEG."""

    seg: Annotated[_Index, Field(description="position among the request's segs")]
    batch_pass: Annotated[_Index, Field(description="0 … batch_size−1")] = 0


class QueuedEvent(EventBase):
    """The request waits; sent again every few seconds."""

    event: Literal["queued"] = "queued"
    position: Annotated[_Index, Field(description="requests before it")]
    estimate_s: Annotated[
        float | None, Field(ge=0, description="until its end; null: nothing measured yet")
    ]


class AcceptedEvent(EventBase):
    """The step engine has started the request. Sent again if a process of the server died and the
    request was started again."""

    event: Literal["accepted"] = "accepted"
    position: Annotated[_Index, Field(description="requests in the engine before it")]
    estimate_s: Annotated[
        float | None,
        Field(ge=0, description="until its end, with the others; null: nothing measured yet"),
    ]
    seg_passes: Annotated[_Index, Field(description="SEGs to be sampled, in all passes")]
    previews: Annotated[bool, Field(description="whether there will be previews")] = False


class SegmentStartedEvent(SegEvent):
    """A SEG has started."""

    event: Literal["segment_started"] = "segment_started"
    label: str = ""
    sampled_size: Annotated[tuple[int, int], Field(description="height, width")]
    cycles: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=0, description="requested steps of each cycle")]


class StepEvent(SegEvent):
    """A sampling step of a SEG has ended."""

    event: Literal["step"] = "step"
    cycle: Annotated[_Index, Field(description="0 … cycles−1")]
    step: Annotated[int, Field(ge=1, description="finished steps of this cycle")]
    steps: Annotated[int, Field(ge=1, description="steps of this cycle that are run")]


class PreviewEvent(SegEvent):
    """A preview of a SEG: its latent's approximate colours, not decoded."""

    event: Literal["preview"] = "preview"
    cycle: _Index
    step: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=1)]
    picture: PictureInfo


class SegmentEvent(SegEvent):
    """The result of a SEG."""

    event: Literal["segment"] = "segment"
    status: SegStatus
    error: Annotated[SegError | None, Field(description="if status is failed")] = None
    steps_run: _Index = 0
    sample_s: Annotated[float, Field(ge=0, description="seconds from encode to decode")] = 0.0
    picture: Annotated[PictureInfo | None, Field(description="the detailed crop, if requested")] = (
        None
    )


class ResultEvent(EventBase):
    """The last event: this response has all outputs of ``segs_detailer``."""

    event: Literal["result"] = "result"


class ErrorEvent(EventBase):
    """The last event: the error that a call of ``segs_detailer`` would have had."""

    event: Literal["error"] = "error"
    error: ErrorDetail


class CancelledEvent(EventBase):
    """The response to a cancelling call: the named request is being ended."""

    event: Literal["cancelled"] = "cancelled"


StreamEvent = Annotated[
    QueuedEvent
    | AcceptedEvent
    | SegmentStartedEvent
    | StepEvent
    | PreviewEvent
    | SegmentEvent
    | ResultEvent
    | ErrorEvent
    | CancelledEvent,
    Field(discriminator="event"),
]
"""Any of the events; ``event`` is its kind."""
EVENT_ADAPTER: TypeAdapter[StreamEvent] = TypeAdapter(StreamEvent)


def parse_event(text: str | bytes) -> StreamEvent:
    """Reads the output ``event``.

    Raises:
        ValueError: it is no event of this version.

    Example:
        >>> parse_event('{"event": "result", "request_id": "r", "seq": 3, "at_s": 1.5}').seq
        3
    """
    try:
        return EVENT_ADAPTER.validate_json(text)
    except ValidationError as error:
        raise ValueError(f"not an event: {error}") from error
