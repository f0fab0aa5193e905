"""The limits on a command line: a file for all of them, and a flag for each."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from request_plan.limits import Limits
from serving.errors import LimitsError


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Adds ``--limits FILE`` and one flag for each limit, named as it is."""
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
    """What was chosen with :func:`add_limits`' flags.

    Raises:
        LimitsError: the file cannot be read, or something in it or a flag is not allowed.
    """
    try:
        chosen = {} if options.limits is None else Limits.read(options.limits.read_bytes())
        flags = {each.name: getattr(options, each.name) for each in fields(Limits)}
        chosen |= {name: value for name, value in flags.items() if value is not None}
        return Limits.from_mapping(chosen)
    except (OSError, ValueError) as error:
        raise LimitsError(f"limits: {error}") from error
