"""The synchronous client."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, TypeVar

from tritonclient.grpc import InferenceServerClient

from segs_client.base_client import BaseClient
from segs_client.exchange import LONGEST_PROBE_S, Pause, Program, Step
from segs_client.messages import DetailResult
from segs_client.pictures import Picture
from segs_client.segs import Segs

T = TypeVar("T")


class Client(BaseClient):
    """A connection to a server, or to several of the same; safe to share between threads; close it
    or use ``with``. Its arguments are those of :class:`~segs_client.base_client.BaseClient`.

    Example:
        >>> with Client("127.0.0.1:8001", pipeline="base") as client:  # doctest: +SKIP
        ...     result = client.detail("photo.png", [(40, 50, 80, 100)], prompt="a smiling face")
        ...     result.image.save("detailed.png")
    """

    def _connect(self) -> None:
        self._tritons = [InferenceServerClient(each, **self._connection) for each in self.urls]

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        for triton in self._tritons:
            triton.close()

    def detail(
        self,
        image: Picture,
        segs: Segs | Sequence[Sequence[int]],
        *,
        pipeline: str | None = None,
        prompt: str = "",
        negative: str = "",
        request_id: str | None = None,
        timeout_s: float | None = None,
        **options: Any,
    ) -> DetailResult:
        """Redraws the segments of a picture and waits for the result.

        Args:
            image: PIL image, array [H, W, 3] (uint8, or float in 0..1), file bytes, or path.
            segs: SEGS, or boxes x1, y1, x2, y2 in half-open pixels.
            pipeline: the compiled checkpoint; required unless the client has a default.
            prompt: what is to be drawn.
            negative: what is to be avoided.
            request_id: found again in errors, the report and the server's log; made if not given.
            timeout_s: seconds until the call is given up, on both sides; retries included.
            options: other fields of :class:`~segs_client.contract.DetailRequest`, such as
                ``steps=30`` or ``output={"seg_images": "png"}``.

        Raises:
            InvalidRequest: the request breaks the contract.
            Unauthenticated: the server wants an API key, or another one.
            ServerUnavailable: not reachable, not ready or overloaded, after all retries.
            DeadlineExceeded: the time-out passed.
            Cancelled: the call was cancelled.
            ServerError: the server failed.
            OSError: the image's path cannot be read.
        """
        options = {"prompt": prompt, "negative": negative, **options}
        built = self._build(image, segs, pipeline, options)
        answered = self._run(self._ask(built, request_id, timeout_s))
        return self._read(built, answered)

    def is_ready(self, timeout_s: float = LONGEST_PROBE_S) -> bool:
        """Whether a server and its detailer's model accept requests now."""
        return self._run(self._obstacle(timeout_s)) is None

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Waits until a server and its detailer's model accept requests.

        Raises:
            ServerUnavailable: not within ``timeout_s``; the message says what was last seen.
        """
        self._run(self._readiness(timeout_s))

    def _run(self, program: Program[T]) -> T:
        try:
            step = next(program)
            while True:
                try:
                    led_to = self._take(step)
                except BaseException as error:
                    step = program.throw(error)
                else:
                    step = program.send(led_to)
        except StopIteration as end:
            result: T = end.value
            return result

    def _take(self, step: Step) -> Any:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        return getattr(self._tritons[step.server], step.method)(**step.arguments)
