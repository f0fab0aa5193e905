"""Load tests with perf_analyzer: ``python -m benchmarks.perf``.

Without --url the tiny pipeline is built and served on this machine. Without --picture the requests
are seven on a drawn scene. What follows ``--`` goes to perf_analyzer as it is.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from benchmarks.machine import describe
from benchmarks.perf import inputs, tables
from benchmarks.perf.binary import ASKED_FOR, find_or_fetch
from benchmarks.perf.errors import PerfError
from benchmarks.perf.profiles import Outcome, Profile, Target, poisson, run, streaming, unary
from segs_client.contract import MODEL_NAME
from segs_client.errors import SegsError
from segs_client.flags import given_options
from segs_client.messages import BuiltRequest
from serving.errors import ServingError

PROJECT = Path(__file__).resolve().parent.parent.parent
BINARY_FOLDER = PROJECT / "build" / "perf"
TINY = "tiny"
OPEN_LOOP_SHARE = 0.7
"""Of the best closed loop's throughput: the rate at which the open loop's requests arrive."""
_NETWORKS = r"text_encoder\w*|unet|vae_encoder|vae_decoder|controlnet_.+"

log = logging.getLogger("perf")


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints the tables; returns 1 where something failed or was not stable."""
    parser = _parser()
    given = parser.parse_args(argv)
    if given.url and not given.pipeline:
        parser.error("--url needs --pipeline: a name that the server knows")
    if given.pipeline and not (given.url or given.inputs_only):
        parser.error("--pipeline needs --url: the server started here has the tiny pipeline alone")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("tritonserver").setLevel(logging.WARNING)
    try:
        requests = _requests(given)
    except (SegsError, OSError, ValueError) as error:
        parser.error(str(error))
    try:
        return _run(given, requests)
    except (PerfError, ServingError, InferenceServerException, OSError) as error:
        log.error("%s", error)
        return 1
    except KeyboardInterrupt:
        log.error("interrupted")
        return 130


def _run(given: argparse.Namespace, requests: Sequence[BuiltRequest]) -> int:
    folder: Path = given.output
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "input.json"
    file.write_text(json.dumps(inputs.document(requests)), encoding="utf-8")
    log.info("%s: %d requests, %.1f MB", file, len(requests), file.stat().st_size / 1e6)
    if given.inputs_only:
        return 0
    binary = find_or_fetch(given.perf_analyzer, BINARY_FOLDER)
    outcomes: list[Outcome] = []
    with _server(given.url, folder / "server.log") as url:
        target = Target(
            url=url,
            inputs=file,
            networks=network_models(url, requests[0].request.pipeline),
            requests=given.requests,
            stability_percent=given.stability,
            limit_s=given.limit,
            more=tuple(given.more),
        )
        for profile in _profiles(given, outcomes):
            log.info("%s", profile.title)
            outcomes.append(run(binary, target, profile, folder, log.info))
    where = f"{given.url}, called from: " if given.url else ""
    sys.stdout.write(f"\n{where}{describe()}\n\n{tables.report(outcomes)}\n\nCSV files: {folder}\n")
    return 0 if all(outcome.result for outcome in outcomes) else 1


def _requests(given: argparse.Namespace) -> list[BuiltRequest]:
    options: Mapping[str, Any] = given_options(argparse.Namespace(), given.option)
    if given.pipeline is None:
        options = {**inputs.SMALL_OPTIONS, **options}
    pipeline = given.pipeline or TINY
    if given.picture is None:
        return inputs.scene_requests(pipeline, options)
    pictures = []
    for path, *boxes in given.picture:
        if not boxes:
            raise ValueError(f"--picture {path}: at least one box X1,Y1,X2,Y2 expected")
        pictures.append((Path(path), [tuple(map(int, box.split(","))) for box in boxes]))
    return inputs.picture_requests(pictures, pipeline, options)


@contextmanager
def _server(url: str | None, log_path: Path) -> Iterator[str]:
    """The address of the server to be measured: the given one, or one that runs meanwhile."""
    if url is not None:
        yield url
        return
    # Only here, so that a machine without the server's packages can measure a server elsewhere.
    from build_engines import build
    from serving.server import EmbeddedServer

    repository = PROJECT / "build" / "benchmarks"
    build(PROJECT / "tests" / "data" / "checkpoints" / "sd15", TINY, repository)
    log.info("starting tritonserver with the tiny pipeline")
    with EmbeddedServer([repository], log_path=log_path, open_protocols=ASKED_FOR) as server:
        yield server.grpc_url


def network_models(url: str, pipeline: str) -> tuple[str, ...]:
    """``name:version`` of the pipeline's networks, as the server's statistics name them."""
    pattern = re.compile(f"{re.escape(pipeline)}_({_NETWORKS})")
    with grpc.InferenceServerClient(url) as client:
        models = client.get_inference_statistics().model_stats
    return tuple(
        f"{model.name}:{model.version}" for model in models if pattern.fullmatch(model.name)
    )


def _profiles(given: argparse.Namespace, outcomes: Sequence[Outcome]) -> Iterator[Profile]:
    """The profiles one after another; the open loop's rate comes from the ``outcomes`` so far."""
    for concurrency in given.concurrency:
        yield unary(given.model, concurrency)
    best = max((outcome.result.requests_per_s for outcome in outcomes if outcome.result), default=0)
    rate = given.rate or OPEN_LOOP_SHARE * best
    if rate:
        yield poisson(given.model, rate)
    for concurrency in given.stream_concurrency:
        yield streaming(given.stream_model, concurrency)


def _parser() -> argparse.ArgumentParser:
    summary, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.perf",
        description=summary.replace("``", ""),
        epilog=more.replace("``", ""),
    )
    add = parser.add_argument
    add("--url", metavar="HOST:PORT", help="gRPC of a running server")
    add("--pipeline", metavar="NAME", help="that server's pipeline")
    add(
        "--picture",
        nargs="+",
        action="append",
        metavar=("FILE", "X1,Y1,X2,Y2"),
        help="a picture and its boxes: one request; may be given again",
    )
    add(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of every request by its name in the contract, e.g. steps=20",
    )
    add("--model", default=MODEL_NAME, help="Triton model of the unary profiles")
    add("--stream-model", default=MODEL_NAME, metavar="MODEL", help="of the streaming profiles")
    add("--concurrency", type=int, nargs="+", default=[1, 2, 4, 8], metavar="N")
    add("--stream-concurrency", type=int, nargs="+", default=[1, 4], metavar="N")
    add(
        "--rate",
        type=float,
        metavar="PER_S",
        help=f"of the open loop (default: {OPEN_LOOP_SHARE:.0%} of the best closed loop)".replace(
            "%", "%%"
        ),
    )
    add("--requests", type=int, default=21, metavar="N", help="at least, of each of 3 windows")
    add("--stability", type=float, default=40, metavar="PERCENT", help="between those windows")
    add("--limit", type=float, default=900, metavar="SECONDS", help="of one profile")
    add("--perf-analyzer", type=Path, metavar="PATH", help="default: on PATH, else fetched once")
    add("--output", type=Path, default=Path("out/perf"), metavar="DIR")
    add("--inputs-only", action="store_true", help="write DIR/input.json and stop")
    add("more", nargs="*", metavar="-- ARGUMENT", help="passed on to perf_analyzer")
    return parser


if __name__ == "__main__":
    sys.exit(main())
