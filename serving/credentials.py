"""The secrets of one start of a server."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

from segs_client.contract import API_KEY_HEADER
from triton_models import environment
from triton_models.api_keys import hash_key, new_key
from triton_models.internal_token import INTERNAL

_TRITON_PREFIX = "triton-grpc-protocol-"
ADMIN_HEADER = "admin-key"
"""Header of calls that change the server."""


@dataclass(frozen=True, repr=False)
class Credentials:
    """Random values for each start. They are never in a log or a file. Only the admin key is in a
    command line: tritonserver reads it from nowhere else."""

    admin_key: str = field(default_factory=secrets.token_hex)
    """The key of Triton's calls that change the server."""
    canary_key: str = field(default_factory=new_key)
    """The API key of canaries, where keys are required."""
    inside: str = field(default_factory=secrets.token_hex)
    """The token of calls between the project's models."""

    def __iter__(self) -> Iterator[str]:
        """All secrets, for the redaction of logs."""
        return (getattr(self, each.name) for each in fields(self))

    def admin_headers(self) -> dict[str, str]:
        """gRPC metadata of calls that change the server."""
        return {f"{_TRITON_PREFIX}{ADMIN_HEADER}": self.admin_key}

    def canary_headers(self) -> dict[str, str]:
        """gRPC metadata of the canary's calls."""
        return {API_KEY_HEADER: self.canary_key}

    def internal_parameters(self) -> dict[str, str]:
        """Request parameters of the canary's calls."""
        return {INTERNAL: self.inside}

    def environment(self, api_keys: Path | None) -> dict[str, str]:
        """Environment variables of the Python models."""
        always = {environment.INTERNAL_TOKEN: self.inside}
        if api_keys is None:
            return always
        return {
            environment.API_KEYS: str(api_keys.absolute()),
            environment.CANARY_KEY_SHA256: hash_key(self.canary_key),
            **always,
        }
