"""Crowds against a real server: is anybody lost, is anything started again?

    python -m benchmarks.crowds [MODE ...] [--full | --short] [--url HOST:PORT] [--report FILE]

Without --url the demo's pipeline is built and served here, by ``python -m serving serve``. While a
crowd is there a stranger sends a tiny request every two seconds (--short: four times as often), and
readiness is looked at four times a second. Bars: no call is lost, which is UNAVAILABLE without
retry_after_s, INTERNAL, UNKNOWN or no answer at all; a sample of the pictures is that of the same
requests alone; nothing is started or loaded again; a wrong request is refused within 2 s.
Returns 1 if one is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.crowds.crowd import Crowd, Target
from benchmarks.crowds.modes import FULL, MODES, SHORT
from benchmarks.crowds.result import Result, measure, to_json, to_markdown, write_report
from benchmarks.machine import describe
from benchmarks.supervised import PromiseBroken, Setup, Supervised
from examples.demo_service import PIPELINE, REPOSITORY, build_demo

EVERY_S, SHORT_EVERY_S = 2.0, 0.5
"""Between a stranger's requests."""
_PROGRAM = "python -m benchmarks.crowds"

log = logging.getLogger("crowds")


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints the table; returns 1 if a bar is missed."""
    argv = sys.argv[1:] if argv is None else argv
    parser = command_line()
    given = parser.parse_args(argv)
    if unknown := sorted(set(given.modes) - set(MODES)):
        parser.error(f"{', '.join(unknown)}: known are {', '.join(MODES)}")
    given.modes = given.modes or MODES
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    results: list[Result] = []
    try:
        with _target(given) as target:
            for crowd in chosen(given):
                log.info("%s, %d callers", crowd.mode, crowd.callers)
                results.append(measure(target, crowd, SHORT_EVERY_S if given.short else EVERY_S))
                _tell(results[-1])
                _write(given, argv, results)
    except PromiseBroken as error:
        log.error("%s", error)
        return 1
    sys.stdout.write(_text(argv, results) + "\n")
    return 0 if all(result.held for result in results) else 1


def chosen(given: argparse.Namespace) -> list[Crowd]:
    """The crowds that the command line asks for."""
    crowds = [crowd for crowd in (SHORT if given.short else FULL) if crowd.mode in given.modes]
    numbers = {
        name: value
        for name in ("callers", "steps", "limit_s", "seed")
        if (value := getattr(given, name)) is not None
    }
    crowds = [replace(crowd, **numbers) for crowd in crowds]
    if given.callers is not None:  # those of a mode that differ in nothing else
        crowds = list({crowd.mode: crowd for crowd in crowds}.values())
    return crowds


@contextlib.contextmanager
def _target(given: argparse.Namespace) -> Iterator[Target]:
    """The server that was named, or one that runs meanwhile."""
    if given.url is not None:
        yield Target(given.url, given.pipeline, given.health_url)
        return
    repository: Path = given.repository or REPOSITORY
    if given.repository is None:
        build_demo()
    with tempfile.TemporaryDirectory(prefix="segs-crowds-") as folder:
        server = Supervised(Setup(repository), Path(folder))
        try:
            server.start()
            health_url = f"http://127.0.0.1:{server.ports['health']}"
            yield Target(server.url, given.pipeline, health_url, server.pid)
        finally:
            server.stop()
            if given.server_log is not None:
                given.server_log.write_bytes(server.log_path.read_bytes())


def _tell(result: Result) -> None:
    word = "held" if result.held else "; ".join((*result.broken, *result.late))
    log.info("%s: %s, lost %d: %s", result.mode, dict(result.ends), result.lost, word)


def _write(given: argparse.Namespace, argv: Sequence[str], results: Sequence[Result]) -> None:
    """After each crowd, so that nothing is lost with a run that is ended."""
    output: Path = given.output
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(to_json(results, describe()), encoding="utf-8")
    if given.report is not None:
        write_report(given.report, _text(argv, results))


def _text(argv: Sequence[str], results: Sequence[Result]) -> str:
    return f"`{shlex.join([*_PROGRAM.split(), *argv])}`; {describe()}\n\n{to_markdown(results)}"


def command_line() -> argparse.ArgumentParser:
    """What can be asked for."""
    summary, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog=_PROGRAM, description=summary, epilog=more.partition("\n\n")[2].replace("``", "")
    )
    add = parser.add_argument
    add("modes", nargs="*", metavar="MODE", help=f"of {', '.join(MODES)} (default: all)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--full", action="store_true", help="large crowds (the default)")
    size.add_argument("--short", action="store_true", help="a few seconds each")
    add("--url", metavar="HOST:PORT", help="gRPC of a running server")
    add("--health-url", metavar="URL", help="of its --health-port, such as http://127.0.0.1:8003")
    add("--repository", type=Path, metavar="DIR", help="of pipelines, to be served here")
    add("--pipeline", default=PIPELINE, metavar="NAME", help="default: %(default)s")
    add("--callers", type=int, metavar="N", help="of each crowd, instead of its own number")
    add("--steps", type=int, metavar="N", help="of the first caller, instead of the crowd's own")
    add("--limit-s", type=float, metavar="SECONDS", help="until a caller gives up")
    add("--seed", type=int, metavar="N", help="which answers are compared with those alone")
    add("--output", type=Path, default=Path("out/crowds.json"), metavar="FILE", help="JSON")
    add("--report", type=Path, metavar="FILE", help="write the table between this page's marks")
    add("--server-log", type=Path, metavar="FILE", help="keep the log of the server started here")
    return parser


if __name__ == "__main__":
    sys.exit(main())
