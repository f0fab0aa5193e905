"""What perf_analyzer is asked to do, and doing it: one process, folder and CSV per profile."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.perf.binary import PerfAnalyzer
from benchmarks.perf.errors import PerfError
from benchmarks.perf.results import CSV_NAME, Result, read_result

OUTPUT_NAME = "output.txt"
INTERVALS_NAME = "intervals.txt"
_INTERVALS = 4096
_UNSTABLE = "Failed to obtain stable measurement"
_PASS = re.compile(r"^\s*Pass \[\d+\] .*")
_WARNING = re.compile(r"\[WARNING\] (.*)")


@dataclass(frozen=True)
class Profile:
    """One load on one model.

    Attributes:
        name: of its folder.
        title: of its row.
        model: the Triton model that is called.
        load: perf_analyzer's arguments for it.
        intervals_us: between the requests of an open loop, microseconds; in the profile's folder
            as :data:`INTERVALS_NAME`.
    """

    name: str
    title: str
    model: str
    load: tuple[str, ...]
    intervals_us: tuple[int, ...] = ()


@dataclass(frozen=True)
class Target:
    """Where and how long every profile measures.

    Attributes:
        url: host:port of gRPC.
        inputs: the input file.
        networks: ``name:version`` of the models that ``sample`` calls, for the server's side.
        requests: least number of requests of a window; three windows that agree are a result.
        stability_percent: how far the windows may lie apart, in throughput and mean latency.
        max_windows: after which a profile is given up as unstable.
        limit_s: of a profile; perf_analyzer itself would wait for an answer for ever.
        more: further arguments of perf_analyzer.
    """

    url: str
    inputs: Path
    networks: tuple[str, ...] = ()
    requests: int = 21
    stability_percent: float = 40
    max_windows: int = 10
    limit_s: float = 900
    more: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """A profile's result, or None where its windows never agreed, and perf_analyzer's warnings."""

    profile: Profile
    result: Result | None
    warnings: tuple[str, ...] = ()


def unary(model: str, concurrency: int) -> Profile:
    """A closed loop: ``concurrency`` callers, each sends its next request after its answer."""
    load = ("--concurrency-range", str(concurrency))
    return Profile(f"unary-c{concurrency}", f"unary, {concurrency} at a time", model, load)


def poisson(model: str, rate_per_s: float) -> Profile:
    """An open loop: requests arrive as a Poisson process, whether the last are answered or not.

    The intervals are drawn here: perf_analyzer's own Poisson schedule has a fixed seed, repeats
    after 10 seconds, and sends a fifth less than it is asked for in them.
    """
    rate = f"{rate_per_s:.3g}"
    waits = np.random.default_rng(0).exponential(size=_INTERVALS)
    intervals_us = np.rint(waits / waits.mean() / float(rate) * 1e6).astype(int)
    load = (
        "--request-intervals", INTERVALS_NAME, "--async",
        # Arrivals vary from window to window by design: three are taken as they are.
        "--stability-percentage", "1000",
    )  # fmt: skip
    title = f"unary, Poisson, {rate}/s"
    return Profile("unary-poisson", title, model, load, tuple(intervals_us.tolist()))


def streaming(model: str, concurrency: int) -> Profile:
    """A closed loop over gRPC's bidirectional streams."""
    load = ("--streaming", "--concurrency-range", str(concurrency))
    return Profile(f"stream-c{concurrency}", f"streaming, {concurrency} at a time", model, load)


def command(binary: PerfAnalyzer, target: Target, profile: Profile) -> list[str]:
    """perf_analyzer's command line, to be run in the profile's folder."""
    arguments = [
        str(binary.path), "-m", profile.model, "-i", "grpc", "-u", target.url,
        "--input-data", str(target.inputs.resolve()),
        "--measurement-mode", "count_windows",
        "--measurement-request-count", str(target.requests),
        "--stability-percentage", f"{target.stability_percent:g}",
        "--max-trials", str(target.max_windows),
        "-v", "--verbose-csv", "-f", CSV_NAME,
    ]  # fmt: skip
    if target.networks:
        arguments += ["--bls-composing-models", ",".join(target.networks)]
    return [*arguments, *profile.load, *target.more]


def run(
    binary: PerfAnalyzer,
    target: Target,
    profile: Profile,
    folder: Path,
    show: Callable[[str], object] = lambda line: None,
) -> Outcome:
    """Runs one profile; its CSV files and output.txt end up in ``folder / profile.name``.

    Args:
        show: is given a line about each window as it ends.

    Raises:
        PerfError: perf_analyzer failed, with its last lines, or took longer than ``limit_s``.
    """
    own = folder / profile.name
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir(parents=True)
    if profile.intervals_us:
        (own / INTERVALS_NAME).write_text("".join(f"{each}\n" for each in profile.intervals_us))
    lines, status = _output(command(binary, target, profile), binary, target.limit_s, own, show)
    warnings = tuple(dict.fromkeys(re.findall(_WARNING, "\n".join(lines))))
    if (own / CSV_NAME).is_file():
        return Outcome(profile, read_result(own), warnings)
    if any(_UNSTABLE in line for line in lines):
        return Outcome(profile, None, warnings)
    killed = f"was killed (it has {target.limit_s:g} s)"
    how = killed if status == -signal.SIGKILL else "failed"
    raise PerfError(
        f"perf_analyzer {how} at {profile.title} ({own / OUTPUT_NAME}):\n" + "\n".join(lines[-12:])
    )


def _output(
    arguments: Sequence[str],
    binary: PerfAnalyzer,
    limit_s: float,
    folder: Path,
    show: Callable[[str], object],
) -> tuple[list[str], int]:
    """The lines of standard output and error together, and the exit status."""
    lines: list[str] = []
    with (
        (folder / OUTPUT_NAME).open("w", encoding="utf-8", buffering=1) as kept,
        subprocess.Popen(
            arguments,
            cwd=folder,  # perf_analyzer puts a model's name before -f's value: no folders there
            env=binary.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None
        watch = threading.Timer(limit_s, process.kill)
        watch.start()
        try:
            for line in process.stdout:
                kept.write(line)
                lines.append(line.rstrip())
                if _PASS.match(line):
                    show(line.strip())
        except BaseException:
            process.kill()
            raise
        finally:
            watch.cancel()
    return lines, process.returncode
