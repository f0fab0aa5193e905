"""``segs-detail``: redraw segments of one picture from the command line.

Exit status: 0 done; 3 done, except for failed SEGs; 2 wrong request or file; 1 server error.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from segs_client import __version__
from segs_client.client import Client
from segs_client.compare import compare_image
from segs_client.contract import Report, SegReport
from segs_client.errors import InvalidRequest, SegsError, Unauthenticated
from segs_client.flags import add_flags, box_flag, given_options
from segs_client.local_files import (
    LEAST_SIDE_PX,
    check_options,
    check_suffix,
    save,
    segments,
)
from segs_client.messages import DetailResult
from segs_client.pictures import open_upright
from segs_client.progress import ProgressBars
from segs_client.server_flags import add_server_flags, server_settings

DONE, SERVER_TROUBLE, WRONG_INPUT, PARTLY_DONE = 0, 1, 2, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status; wrong usage exits with 2."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] == ["batch"]:
        from segs_client.batch import command  # most calls do not need asyncio

        return command.main(words[1:])
    if words[:1] == ["convert"]:
        from segs_client.workflows import command as conversion

        return conversion.main(words[1:])
    parser = _parser()
    given = parser.parse_args(words)
    if not given.box and not given.mask:
        parser.error("nothing to redraw: give --box or --mask")
    try:
        options = given_options(given, given.option)
        check_options(options)
        for path in (given.output, given.compare):
            if path is not None:
                check_suffix(path)
        for path in (given.output, given.compare):
            _check_folder(path)
        if given.report is not None and not os.access(given.report, os.W_OK):
            _check_folder(given.report)
        result = _run(given, options)
    except (InvalidRequest, Unauthenticated) as error:
        return _failed(error.message, error.request_id, WRONG_INPUT)
    except SegsError as error:
        hint = "; the same call may succeed later" if error.retryable else ""
        return _failed(f"{error.code}: {error.message}{hint}", error.request_id, SERVER_TROUBLE)
    except (OSError, ValueError) as error:
        return _failed(str(error), "", WRONG_INPUT)
    except KeyboardInterrupt:
        return _failed("interrupted", "", 130)
    if not result.report.segs:
        _failed(
            f"no mask has a white area of {LEAST_SIDE_PX} px a side; nothing was redrawn", "", DONE
        )
    for seg in result.failed:
        _failed(_seg_failure(seg), result.report.request_id, PARTLY_DONE)
    return PARTLY_DONE if result.failed else DONE


def report_table(report: Report) -> str:
    """The SEGs' results, one line each, with aligned columns."""
    header = ("seg", "pass", "status", "box", "crop region", "sampled", "steps", "seconds", "label")
    rows = [header, *(_row(seg) for seg in report.segs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _run(given: argparse.Namespace, options: dict[str, Any]) -> DetailResult:
    with Client(**server_settings(given)) as client:
        result = _detailed(client, given, options)
    assert result.image is not None  # check_options
    save(result.image, given.output)
    if given.compare:
        save(_comparison(given.image, result.image, result), given.compare)
    if given.report:
        given.report.write_text(result.report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    print(report_table(result.report))  # noqa: T201
    return result


def _detailed(client: Client, given: argparse.Namespace, options: dict[str, Any]) -> DetailResult:
    segs = segments(given.image, given.box, given.mask, options)
    default = sys.stderr.isatty() and not given.shared_memory  # streams cannot use shared memory
    if not (default if given.progress is None else given.progress):
        return client.detail(given.image, segs, **options)
    stream = client.stream(given.image, segs, **options)
    with ProgressBars() as bars, contextlib.closing(stream):
        for update in stream:
            bars.show(update.event)
            if update.result is not None:
                return update.result
    raise AssertionError("a stream ends with its result, or raises")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="segs-detail",
        description="Redraw segments of a picture at higher resolution.",
        epilog="exit status: 0 done, 3 done but for SEGs that failed, 2 wrong usage or request, "
        "1 server trouble. Many pictures: segs-detail batch --help. From a ComfyUI workflow: "
        "segs-detail convert --help",
    )
    add = parser.add_argument
    add("--version", action="version", version=f"%(prog)s {__version__}")
    add("image", type=Path, metavar="IMAGE", help="the picture")
    add(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="OUT",
        help="where the result goes, in the format of the suffix",
    )
    add(
        "--box",
        type=box_flag,
        action="append",
        default=[],
        metavar="X1,Y1,X2,Y2",
        help="a segment in pixels, half-open, fractions allowed; may be given again",
    )
    add(
        "--mask",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help=f"a picture whose white areas, of {LEAST_SIDE_PX} px and more a side, are segments, "
        "or the opaque ones of a picture in one colour; may be given again",
    )
    add(
        "--compare",
        type=Path,
        metavar="FILE",
        help="also write a before/after picture with the segments outlined",
    )
    add("--report", type=Path, metavar="FILE", help="also write the report's JSON")
    add(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="show how it goes, SEG by SEG (default: where stderr is a terminal, without "
        "--shared-memory)",
    )
    add_server_flags(parser.add_argument_group("the server"))
    add_flags(parser.add_argument_group("options of the detailer"))
    return parser


def _comparison(path: Path, after: Image.Image, result: DetailResult) -> Image.Image:
    return compare_image(open_upright(path), after, result.segs)


def _check_folder(path: Path | None) -> None:
    """Raises before the request if a result could not be written."""
    if path is None:
        return
    if not path.parent.is_dir():
        raise ValueError(f"{path}: the folder does not exist")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"{path}: the folder cannot be written to")


def _row(seg: SegReport) -> tuple[str, ...]:
    sampled = "-" if seg.sampled_size is None else f"{seg.sampled_size[1]}×{seg.sampled_size[0]}"
    return (
        str(seg.index), str(seg.batch_pass), seg.status,
        ",".join(str(round(edge, 2)) for edge in seg.bbox),
        ",".join(map(str, seg.crop_region)), sampled, str(seg.steps_run), f"{seg.sample_s:.2f}",
        seg.label,
    )  # fmt: skip


def _seg_failure(seg: SegReport) -> str:
    name = f"SEG {seg.index}" + (f" ({seg.label})" if seg.label else "")
    reason = "" if seg.error is None else f": {seg.error.message}"
    return f"{name}, pass {seg.batch_pass}, failed and is as it came{reason}"


def _failed(message: str, request_id: str, status: int) -> int:
    suffix = f" (request {request_id})" if request_id else ""
    print(f"segs-detail: {message}{suffix}", file=sys.stderr)  # noqa: T201
    return status


if __name__ == "__main__":
    sys.exit(main())
