"""Client of SEGS Detailer: submit segments of a picture over gRPC, get them redrawn.

Example::

    from segs_client import Client, Segs

    segs = Segs.from_boxes([(40, 50, 80, 100)], size=(192, 256))
    with Client("127.0.0.1:8001", pipeline="base") as client:
        result = client.detail("photo.png", segs, prompt="a smiling face", seed=7)
    result.image.save("detailed.png")
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

from segs_client.access import Tls
from segs_client.compare import compare_image
from segs_client.contract import (
    DetailRequest,
    OutputOptions,
    PasteOptions,
    Report,
    SegError,
    SegReport,
    StreamOptions,
)
from segs_client.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    SegsError,
    ServerError,
    ServerUnavailable,
    Unauthenticated,
)
from segs_client.events import (
    AcceptedEvent,
    CancelledEvent,
    ErrorEvent,
    PreviewEvent,
    QueuedEvent,
    ResultEvent,
    SegmentEvent,
    SegmentStartedEvent,
    StepEvent,
    StreamEvent,
)
from segs_client.messages import DetailResult
from segs_client.pasting import paste
from segs_client.retries import Retries, Retry
from segs_client.scaling import scaled_to
from segs_client.segs import Seg, Segs, crop_region

if TYPE_CHECKING:
    from segs_client.async_client import AsyncClient
    from segs_client.client import Client
    from segs_client.streaming import StreamUpdate

__all__ = [
    "AcceptedEvent",
    "AsyncClient",
    "Cancelled",
    "CancelledEvent",
    "Client",
    "DeadlineExceeded",
    "DetailRequest",
    "DetailResult",
    "ErrorEvent",
    "InvalidRequest",
    "NotFound",
    "OutputOptions",
    "PasteOptions",
    "PreviewEvent",
    "QueuedEvent",
    "Report",
    "ResultEvent",
    "Retries",
    "Retry",
    "Seg",
    "SegError",
    "SegReport",
    "SegmentEvent",
    "SegmentStartedEvent",
    "Segs",
    "SegsError",
    "ServerError",
    "ServerUnavailable",
    "StepEvent",
    "StreamEvent",
    "StreamOptions",
    "StreamUpdate",
    "Tls",
    "Unauthenticated",
    "compare_image",
    "crop_region",
    "paste",
    "scaled_to",
]


def __getattr__(name: str) -> Any:
    # The server imports the contract from here, which must not import gRPC.
    if name == "Client":
        from segs_client.client import Client

        return Client
    if name == "AsyncClient":
        from segs_client.async_client import AsyncClient

        return AsyncClient
    if name == "StreamUpdate":
        from segs_client.streaming import StreamUpdate

        return StreamUpdate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
