"""The synchronous client."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import grpc
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from segs_client import access, transport
from segs_client.access import Tls
from segs_client.contract import MODEL_NAME
from segs_client.errors import InvalidRequest, SegsError, ServerUnavailable, from_transport
from segs_client.messages import DetailResult, build
from segs_client.pictures import Picture
from segs_client.segs import Segs

DEFAULT_TIMEOUT_S = 300.0
_PROBE_TIMEOUT_S = 5.0
_PROBE_PAUSE_S = 0.2


class Client:
    """A connection to one server; safe to share between threads; close it or use ``with``.

    Args:
        url: host and port of Triton's gRPC.
        pipeline: the compiled checkpoint used where a call names none.
        timeout_s: seconds after which a call is given up, where it names no other.
        api_key: sent with every call, for a server that wants one.
        tls: whether, or with which files, the connection is encrypted. Key and TLS that are not
            given are looked for in the environment, see :mod:`segs_client.access`.

    Raises:
        InvalidRequest: an argument is malformed.
        OSError: a certificate cannot be read.

    Example:
        >>> with Client("127.0.0.1:8001", pipeline="base") as client:  # doctest: +SKIP
        ...     result = client.detail("photo.png", [(40, 50, 80, 100)], prompt="a smiling face")
        ...     result.image.save("detailed.png")
    """

    def __init__(
        self,
        url: str = "127.0.0.1:8001",
        *,
        pipeline: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        api_key: str | None = None,
        tls: Tls | bool | None = None,
    ) -> None:
        transport.check_timeout(timeout_s)
        self.url = url
        self.pipeline = pipeline
        self.timeout_s = timeout_s
        self._headers = access.headers(api_key)
        self._triton = InferenceServerClient(
            url, channel_args=transport.CHANNEL_ARGS, **access.connection(tls)
        )

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
        """Closes the connection."""
        self._triton.close()

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
            timeout_s: seconds until the call is given up, on both sides.
            options: other fields of :class:`~segs_client.contract.DetailRequest`, such as
                ``steps=30`` or ``output={"seg_images": "png"}``.

        Raises:
            InvalidRequest: the request breaks the contract.
            Unauthenticated: the server wants an API key, or another one.
            ServerUnavailable: not reachable, not ready or overloaded; try again later.
            DeadlineExceeded: the time-out passed.
            Cancelled: the call was cancelled.
            ServerError: the server failed.
            OSError: the image's path cannot be read.
        """
        name = self.pipeline if pipeline is None else pipeline
        if name is None:
            allowed = "the name of a pipeline that the server has"
            raise InvalidRequest(
                f"pipeline: required, as the client has no default; allowed: {allowed}",
                field="pipeline",
                allowed=allowed,
            )
        built = build(image, segs, pipeline=name, prompt=prompt, negative=negative, **options)
        request_id = request_id or transport.new_request_id()
        arguments = transport.infer_arguments(
            built, request_id, self.timeout_s if timeout_s is None else timeout_s
        )
        try:
            answer = self._triton.infer(**arguments, headers=self._headers)
            return transport.read_answer(built, answer)
        except (InferenceServerException, grpc.RpcError) as error:
            raise from_transport(error, request_id=request_id) from error

    def is_ready(self, timeout_s: float = _PROBE_TIMEOUT_S) -> bool:
        """Whether the server and the detailer's model accept requests now."""
        return self._obstacle(timeout_s) is None

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Waits until the server and the detailer's model accept requests.

        Raises:
            ServerUnavailable: not within ``timeout_s``; the message says what was last seen.
        """
        transport.check_timeout(timeout_s)
        end = time.monotonic() + timeout_s
        while True:
            left_s = end - time.monotonic()
            obstacle = self._obstacle(min(max(left_s, 0.05), _PROBE_TIMEOUT_S))
            if obstacle is None:
                return
            if time.monotonic() + _PROBE_PAUSE_S >= end:
                raise ServerUnavailable(
                    f"{self.url} is not ready after {timeout_s:g} s; last seen: {obstacle}"
                )
            time.sleep(_PROBE_PAUSE_S)

    def _obstacle(self, timeout_s: float) -> str | None:
        """What keeps the server from answering requests now, or None."""
        try:
            if not self._triton.is_server_live(client_timeout=timeout_s):
                return "the server is not live"
            if not self._triton.is_server_ready(client_timeout=timeout_s):
                return "the server is live, but not ready: models are loading or have failed"
            if not self._triton.is_model_ready(MODEL_NAME, client_timeout=timeout_s):
                return f"the server is ready, but its model {MODEL_NAME} is not"
        except (InferenceServerException, grpc.RpcError) as error:
            seen: SegsError = from_transport(error)
            return f"{seen.code}: {seen.message}"
        return None
