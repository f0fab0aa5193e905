"""``segs-detail batch``: its command line, its progress and its summary.

Exit status: 0 all results exist; 3 some pictures or SEGs failed, the next run tries them again; 2
wrong usage or input; 1 server error, the next run continues; 130 interrupted, likewise.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from segs_client.async_client import AsyncClient
from segs_client.batch.items import Item, from_folder, from_lines
from segs_client.batch.journal import FILE_NAME, Journal
from segs_client.batch.run import Batch, ItemOutcome, Tally
from segs_client.errors import InvalidRequest, SegsError, Unauthenticated
from segs_client.flags import add_flags, box_flag, given_options
from segs_client.local_files import check_options
from segs_client.server_flags import add_server_flags, server_settings

DONE, SERVER_TROUBLE, WRONG_INPUT, PARTLY_DONE, INTERRUPTED = 0, 1, 2, 3, 130
_RETRY_ROUNDS = 25
"""Enough to wait for a server's restart."""
_MOST_SHOWN = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status; wrong usage exits with 2."""
    given = _parser().parse_args(arguments)
    tally = Tally()
    try:
        items = _items(given)
        with Journal(given.output) as journal:
            status = asyncio.run(_run(given, items, journal, tally))
    except (SegsError, OSError, ValueError) as error:
        request_id = getattr(error, "request_id", "")
        _complain(f"{error}" + (f" (request {request_id})" if request_id else ""))
        is_ours = isinstance(error, (InvalidRequest, Unauthenticated))
        status = SERVER_TROUBLE if isinstance(error, SegsError) and not is_ours else WRONG_INPUT
        if not tally.counts:
            return status
    _summarise(tally, len(items), given.output, status)
    return status


async def _run(
    given: argparse.Namespace, items: Sequence[Item], journal: Journal, tally: Tally
) -> int:
    """Runs the batch; Ctrl-C ends it after received results are saved."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: KeyboardInterrupt instead
            loop.add_signal_handler(number, task.cancel)
    with tqdm(total=len(items), unit="picture", disable=None, dynamic_ncols=True) as bar:

        def show_progress() -> None:
            failed = len(tally.wrong)
            bar.set_postfix({"failed": failed} if failed else {}, refresh=False)
            bar.update()

        try:
            async with AsyncClient(**server_settings(given)) as client:
                await Batch(client, journal, tally, show_progress).run(items, given.jobs)
        except asyncio.CancelledError:
            return INTERRUPTED
    return PARTLY_DONE if tally.wrong else DONE


def _items(given: argparse.Namespace) -> list[Item]:
    options = given_options(given, given.option)
    check_options(options)
    source: Path = given.source
    if not source.is_dir():
        if given.box or given.masks:
            raise ValueError("--box and --masks are for folders; lines have their own")
        return from_lines(source, given.output, suffix=given.suffix, options=options)
    return from_folder(
        source,
        given.output,
        masks=given.masks,
        boxes=given.box,
        suffix=given.suffix,
        options=options,
    )


def _summarise(tally: Tally, count: int, output: Path, status: int) -> None:
    counts = tally.counts
    parts = [f"{counts['done']} done"]
    parts += [f"{tally.changed} of them anew, as they had changed"] if tally.changed else []
    parts += [f"{tally.empty} without a segment, as they came"] if tally.empty else []
    parts += [f"{counts[name]} {text}" for name, text in _WORDS if counts[name]]
    left = count - counts.total()
    parts += [f"{left} left for the next run"] if left else []
    for entry in tally.wrong[:_MOST_SHOWN]:
        request = f" (request {entry.request_id})" if entry.request_id else ""
        _complain(f"{entry.name}: {entry.message}{request}")
    if len(tally.wrong) > _MOST_SHOWN:
        _complain(f"and {len(tally.wrong) - _MOST_SHOWN} more, see {output / FILE_NAME}")
    ending = "; interrupted" if status == INTERRUPTED else ""
    sys.stdout.write(f"{count} pictures: {', '.join(parts)}{ending}\n")


_WORDS: tuple[tuple[ItemOutcome, str], ...] = (
    ("as before", "there already"),
    ("partly", "with SEGs that failed"),
    ("failed", "failed"),
)


def _complain(text: str) -> None:
    sys.stderr.write(f"segs-detail: {text}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="segs-detail batch",
        description="Redraw segments of many pictures. A journal in the output folder lets the "
        "next run go on: what is there is not made again unless its picture, segments or options "
        "have changed; what failed is tried again.",
        epilog="exit status: 0 all is there, 3 some failed, 2 wrong usage or input, 1 server "
        "trouble, 130 interrupted",
    )
    add = parser.add_argument
    add(
        "source",
        type=Path,
        metavar="FOLDER|JSONL",
        help="a folder of pictures; or a file with a JSON object per line: image, boxes and/or "
        "masks, and optionally options and output",
    )
    add("-o", "--output", type=Path, required=True, metavar="FOLDER", help="where results go")
    add(
        "--masks",
        type=Path,
        metavar="FOLDER",
        help="masks of the pictures, by their names, whose white areas (of 10 px and more a side) "
        "are segments",
    )
    add(
        "--box",
        type=box_flag,
        action="append",
        default=[],
        metavar="X1,Y1,X2,Y2",
        help="a segment of every picture in pixels, half-open; may be given again",
    )
    add(
        "--suffix",
        metavar=".SUFFIX",
        help="format of the results, such as .png (default: the picture's own)",
    )
    add(
        "--jobs",
        type=_positive,
        default=8,
        metavar="N",
        help="pictures processed at once (default %(default)s)",
    )
    add_server_flags(parser.add_argument_group("the server"), _RETRY_ROUNDS)
    add_flags(parser.add_argument_group("options of the detailer"))
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number
