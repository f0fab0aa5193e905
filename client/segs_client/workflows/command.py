"""``segs-detail convert``: a ComfyUI workflow's detailer nodes as requests."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from segs_client.workflows.convert import convert
from segs_client.workflows.graph import WorkflowError

_DONE, _WRONG_INPUT = 0, 2


def main(arguments: Sequence[str]) -> int:
    """Prints the requests as a JSON list, and notes to stderr; returns the exit status: 0, or 2 for
    a file without requests."""
    given = _parser().parse_args(arguments)
    try:
        found = convert(given.workflow.read_bytes(), dict(given.pipeline))
    except (WorkflowError, OSError) as error:
        sys.stderr.write(f"segs-detail convert: {given.workflow}: {error}\n")
        return _WRONG_INPUT
    for each in found:
        sys.stderr.write("".join(f"{each.node}: {note}\n" for note in each.notes))
    sys.stdout.write(
        json.dumps([each.json() for each in found], indent=2, ensure_ascii=False) + "\n"
    )
    return _DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="segs-detail convert",
        description="Print the requests that a ComfyUI workflow's SEGSDetailer nodes are. What "
        "cannot be carried over is said on stderr.",
    )
    add = parser.add_argument
    add("workflow", type=Path, metavar="WORKFLOW.json", help="in the API format or the editor's")
    add(
        "--pipeline",
        type=_pair,
        action="append",
        default=[],
        metavar="CHECKPOINT=NAME",
        help="the pipeline that was built of a checkpoint file; may be given again",
    )
    return parser


def _pair(text: str) -> tuple[str, str]:
    checkpoint, equals, name = text.rpartition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not CHECKPOINT=NAME")
    return checkpoint, name
