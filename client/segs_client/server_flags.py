"""Command line flags for the server and the connection to it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segs_client.access import (
    API_KEY_VARIABLE,
    TLS_FILE_VARIABLES,
    TLS_VARIABLE,
    Tls,
    from_environment,
)
from segs_client.base_client import DEFAULT_TIMEOUT_S, DEFAULT_URL
from segs_client.retries import Retries


def add_server_flags(group: argparse._ArgumentGroup, rounds: int = Retries().rounds) -> None:
    """Adds the flags, with ``rounds`` of retries by default. (There is no flag for the API key
    itself: other users can read a command line.)"""
    add = group.add_argument
    add(
        "--url",
        action="append",
        metavar="HOST:PORT",
        help=f"the server's gRPC address (default {DEFAULT_URL}); of several, each request goes to "
        "the one with the least work",
    )
    add(
        "--timeout",
        type=float,
        default=DEFAULT_TIMEOUT_S,
        metavar="SECONDS",
        help="give up a request after this time, retries included (default %(default)g)",
    )
    add(
        "--retries",
        type=int,
        default=rounds,
        metavar="N",
        help="retries with growing pauses if no server is available (default %(default)s; 0: "
        "none); an overloaded server is retried until the time-out",
    )
    add(
        "--shared-memory",
        action="store_true",
        help="send pictures through this host's shared memory, if the server allows it",
    )
    _add_access(add)


def server_settings(given: argparse.Namespace) -> dict[str, Any]:
    """The client's arguments from the flags.

    Raises:
        InvalidRequest: one is malformed.
        OSError: the API key's file cannot be read.
    """
    return {
        "url": given.url or DEFAULT_URL,
        "timeout_s": given.timeout,
        "retries": Retries(rounds=given.retries),
        "shared_memory": given.shared_memory,
        "api_key": _api_key(given),
        "tls": _tls(given),
    }


def _add_access(add: Callable[..., Any]) -> None:
    add(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help=f"contains the API key; or set {API_KEY_VARIABLE}",
    )
    add("--tls", action="store_true", help=f"encrypt the connection; or set {TLS_VARIABLE}=1")
    for name, text in (
        ("ca", "check the server's certificate with these (PEM), not the well-known ones"),
        ("cert", "the client's own certificate (PEM)"),
        ("key", "its private key (PEM)"),
    ):
        add(
            f"--tls-{name}",
            type=Path,
            metavar="FILE",
            help=f"{text}; implies --tls; or set {TLS_FILE_VARIABLES[name]}",
        )


def _api_key(given: argparse.Namespace) -> str | None:
    path: Path | None = given.api_key_file
    return None if path is None else path.read_text(encoding="utf-8").strip()


def _tls(given: argparse.Namespace) -> Tls | bool | None:
    if given.tls_ca or given.tls_cert or given.tls_key:
        return from_environment(ca=given.tls_ca, cert=given.tls_cert, key=given.tls_key)
    return given.tls or None
