"""Command line flags for a server's options and limits."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from request_plan.limits import Limits
from serving.errors import LimitsError, TlsError
from serving.options import ServerOptions, TlsFiles

_COMMON = ("log_level", "log_format")
_ACCESS = ("api_keys", "open_protocols", "allow_old_server", "verify")
_FIELDS = {each.name: each for each in fields(ServerOptions) if "flag" in each.metadata}


def add_log_options(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of every command."""
    _add(parser, _COMMON)


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """Adds a flag for each of :class:`ServerOptions`, its TLS files and its limits."""
    _add(parser, (name for name in _FIELDS if name not in (*_COMMON, *_ACCESS)))
    access = parser.add_argument_group("who may call, and what", "more in docs/hardening.md")
    _add(access, _ACCESS)
    for flag, text in (
        ("--tls-cert", "gRPC with TLS: certificate chain (PEM)"),
        ("--tls-key", "its private key (PEM)"),
        ("--tls-client-ca", "mutual TLS: take clients with a certificate that one of these (PEM) "
         "signed only"),
    ):  # fmt: skip
        access.add_argument(flag, type=Path, metavar="FILE", help=text)
    add_limits(parser)


def server_options(parsed: argparse.Namespace) -> ServerOptions:
    """The options from the flags of :func:`add_server_options` and :func:`add_log_options`.

    Raises:
        LimitsError, TlsError: they contradict each other.
    """
    chosen = {name: getattr(parsed, name) for name in _FIELDS}
    chosen["repositories"] = tuple(parsed.repositories)
    return ServerOptions(**chosen, tls=_tls(parsed), limits=chosen_limits(parsed))


def _add(parser: argparse._ActionsContainer, names: Iterable[str]) -> None:
    for name in names:
        argument = dict(_FIELDS[name].metadata)
        if not argument.get("required"):
            argument["default"] = _FIELDS[name].default
        parser.add_argument(argument.pop("flag"), dest=name, **argument)


def _tls(parsed: argparse.Namespace) -> TlsFiles | None:
    cert, key, client_ca = parsed.tls_cert, parsed.tls_key, parsed.tls_client_ca
    if cert is None and key is None and client_ca is None:
        return None
    if cert is None or key is None:
        raise TlsError("TLS takes --tls-cert and --tls-key; --tls-client-ca comes beside them")
    return TlsFiles(cert, key, client_ca)


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Adds ``--limits FILE`` and a flag of the same name for each limit."""
    group = parser.add_argument_group("limits", "what happens beyond each is in docs/limits.md")
    group.add_argument(
        "--limits",
        type=Path,
        metavar="FILE",
        help='JSON of those that differ from their defaults, such as {"max_segs": 100}; a flag '
        "wins over it",
    )
    for each in fields(Limits):
        default = "none" if each.default is None else f"{each.default:,}"
        group.add_argument(
            f"--{each.name.replace('_', '-')}",
            type=int if each.type == "int" else float,
            metavar="N",
            help=f"{each.metadata['bounds']} (default {default})",
        )


def chosen_limits(options: argparse.Namespace) -> Limits:
    """The limits from the flags of :func:`add_limits`.

    Raises:
        LimitsError: the file cannot be read, or a value in it or in a flag is not allowed.
    """
    try:
        chosen = {} if options.limits is None else Limits.read(options.limits.read_bytes())
        flags = {each.name: getattr(options, each.name) for each in fields(Limits)}
        chosen |= {name: value for name, value in flags.items() if value is not None}
        return Limits.from_mapping(chosen)
    except (OSError, ValueError) as error:
        raise LimitsError(f"limits: {error}") from error
