"""Connections to a server from its own machine, such as the supervisor's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
from tritonclient.grpc import InferenceServerClient

from segs_client import access


@dataclass(frozen=True)
class Connection:
    """Address and access of one server.

    Args:
        url: ``host:port`` of gRPC.
        headers: metadata of inference calls, such as an API key.
        parameters: of inference requests, such as the token of this start.
        options: further keyword arguments of tritonclient's ``InferenceServerClient``.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    parameters: Mapping[str, str] = field(default_factory=dict, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def open_channel(self) -> Any:
        """A gRPC channel, to be closed."""
        if (credentials := self.options.get("creds")) is not None:
            arguments = self.options.get("channel_args")
            return grpc.secure_channel(self.url, credentials, arguments)
        return access.open_channel(self.url, self.options, grpc)

    def open(self) -> InferenceServerClient:
        """A client, to be closed."""
        return InferenceServerClient(self.url, **self.options)
