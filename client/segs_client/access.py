"""Authentication of client and server: API key and TLS.

Missing values are read from the environment: ``SEGS_API_KEY``; ``SEGS_TLS`` (0 or 1);
``SEGS_TLS_CA``, ``SEGS_TLS_CERT`` and ``SEGS_TLS_KEY``, each of which implies TLS.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segs_client.contract import API_KEY_HEADER
from segs_client.errors import InvalidRequest

API_KEY_VARIABLE = "SEGS_API_KEY"
TLS_VARIABLE = "SEGS_TLS"
TLS_FILE_VARIABLES = {"ca": "SEGS_TLS_CA", "cert": "SEGS_TLS_CERT", "key": "SEGS_TLS_KEY"}
"""Field of :class:`Tls` → environment variable."""

_KEY = re.compile(r"[\x21-\x7e]{1,1024}")
_SWITCH = {"": False, "0": False, "1": True}


@dataclass(frozen=True)
class Tls:
    """Files (PEM) of an encrypted connection.

    Args:
        ca: CA certificates to check the server's; None: the well-known ones.
        cert: the client's certificate, for a server that requires one.
        key: its private key.

    Raises:
        InvalidRequest: only one of ``cert`` and ``key`` is given.
    """

    ca: Path | str | None = None
    cert: Path | str | None = None
    key: Path | str | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise _invalid("tls", "a certificate and its key belong together", "both or none")


def from_environment(**given: Path | str | None) -> Tls:
    """The given files, and for the others those of the environment.

    Raises:
        InvalidRequest: only one of certificate and key is there.
    """
    return Tls(
        **{
            name: given.get(name) or os.environ.get(variable) or None
            for name, variable in TLS_FILE_VARIABLES.items()
        }
    )


def headers(api_key: str | None) -> dict[str, str]:
    """Metadata of every call.

    Args:
        api_key: None: the environment's, if any.

    Raises:
        InvalidRequest: it is not valid in a header.
    """
    key = os.environ.get(API_KEY_VARIABLE) if api_key is None else api_key
    if not key:
        return {}
    if not _KEY.fullmatch(key):
        # The value is not shown: it is probably a valid key with a line break.
        raise _invalid("api_key", "malformed", "1 … 1024 visible ASCII characters")
    return {API_KEY_HEADER: key}


def connection(tls: Tls | bool | None) -> dict[str, Any]:
    """Keyword arguments of tritonclient's ``InferenceServerClient``.

    Args:
        tls: False: plain; True: encrypted; None: by the environment.

    Raises:
        InvalidRequest: the environment contradicts itself.
    """
    if tls is False:
        return {}
    if not isinstance(tls, Tls):
        files = from_environment()
        if tls is None and files == Tls() and not _switched_on():
            return {}
        tls = files
    named = {"root_certificates": tls.ca, "certificate_chain": tls.cert, "private_key": tls.key}
    return {"ssl": True, **{name: str(path) for name, path in named.items() if path is not None}}


def open_channel(url: str, settings: Mapping[str, Any], library: Any) -> Any:
    """A gRPC channel for calls that tritonclient does not support.

    Args:
        settings: :func:`connection`, and ``channel_args``.
        library: grpc or grpc.aio.

    Raises:
        OSError: a certificate cannot be read.
    """
    import grpc  # here: readers of the contract do not need it

    options = settings.get("channel_args")
    if not settings.get("ssl"):
        return library.insecure_channel(url, options)
    names = ("root_certificates", "private_key", "certificate_chain")
    files = {name: Path(settings[name]).read_bytes() for name in names if name in settings}
    return library.secure_channel(url, grpc.ssl_channel_credentials(**files), options)


def _switched_on() -> bool:
    value = os.environ.get(TLS_VARIABLE, "")
    if value not in _SWITCH:
        raise _invalid(TLS_VARIABLE, f"unknown value {value!r}", "0 or 1")
    return _SWITCH[value]


def _invalid(field: str, message: str, allowed: str) -> InvalidRequest:
    return InvalidRequest(f"{field}: {message}; allowed: {allowed}", field=field, allowed=allowed)
