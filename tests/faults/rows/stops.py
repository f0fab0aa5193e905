"""Too much work, signals, and a step engine that fails."""

from __future__ import annotations

import shutil
import signal
import time

from benchmarks.supervised import Supervised
from segs_client import SegsError, ServerUnavailable
from serving.options import MODEL_REPOSITORY
from tests.faults.bench import Bench
from tests.faults.row import Rows, allowed_s, require
from tests.faults.traffic import LONG, Ask, Traffic, require_all_answered
from tests.waiting import wait_until

ROWS = Rows()

_ENDLESS = tuple(Ask(number, 9000, timeout_s=90.0) for number in (71, 72, 73))
_BURST = tuple(Ask(number, 20) for number in range(81, 105))


@ROWS.add(
    "overload",
    f"{len(_BURST)} requests at once at a server that takes 4",
    "Those beyond are refused at once: UNAVAILABLE with retry_after_s; the others get "
    "their right pictures",
)
def _overload(bench: Bench) -> str:
    with bench.own("--max-requests", "4") as server:
        server.start()
        bench.learn(server, _BURST)
        outcomes = bench.traffic(server, _BURST).outcomes()
        seen = require_all_answered(outcomes, retries=True)
        refused = [each for each in outcomes if each.ending == "retryable"]
        require(bool(refused), "no request was refused")
        without = [each.text for each in refused if each.retry_after_s is None]
        require(not without, f"no retry_after_s: {without[:1]}")
        slowest_s = max(each.seconds for each in refused)
        return f"{seen} with retry_after_s, the slowest refusal after {slowest_s * 1e3:.0f} ms"


def _under_way(bench: Bench, server: Supervised, asks: tuple[Ask, ...]) -> Traffic:
    server.start()
    if asks is LONG:
        bench.learn(server, asks)
    traffic = bench.traffic(server, asks)
    # A slow machine's server may refuse some as too much; all others are in the engine.
    wait_until(
        lambda: (state := server.engine()) is not None and 0 < state.requests == traffic.under_way
    )
    return traffic


def _wait_end(server: Supervised, limit_s: float) -> tuple[int, float]:
    """Exit status and seconds."""
    assert server.process is not None
    begun = time.monotonic()
    return server.process.wait(allowed_s(limit_s)), time.monotonic() - begun


@ROWS.add(
    "sigterm-drains",
    "SIGTERM with 4 requests under way, and a fifth that comes after it",
    "Those under way get their pictures, the fifth UNAVAILABLE; exit code 0",
    short=True,
)
def _sigterm_drains(bench: Bench) -> str:
    return _drains(bench, signal.SIGTERM)


@ROWS.add(
    "sighup-drains",
    "SIGHUP, as from a terminal that is closed, with 4 requests under way",
    "As SIGTERM",
)
def _sighup_drains(bench: Bench) -> str:
    return _drains(bench, signal.SIGHUP)


def _drains(bench: Bench, number: signal.Signals) -> str:
    with bench.own("--drain-timeout", "60") as server:
        traffic = _under_way(bench, server, LONG)
        assert server.process is not None
        server.process.send_signal(number)
        time.sleep(1.6)
        require(server.health()[0] == 503, "probes get 200")
        try:
            Ask(1, 1).send(server.url)
            got = "a picture"
        except ServerUnavailable as error:
            got = f"UNAVAILABLE ({error.message})"
        except SegsError as error:
            got = f"{error.code} {error.message}"
        require(got.startswith("UNAVAILABLE"), f"the fifth got {got}")
        seen = require_all_answered(traffic.outcomes(), retries=False)
        status, seconds = _wait_end(server, 30)
        require(status == 0, f"exit status {status}")
        return f"{seen}; the fifth: {got}; ended {seconds:.1f} s later"


@ROWS.add(
    "sigterm-at-its-limit",
    "SIGTERM with a minute's work under way and --drain-timeout 1",
    "All requests get UNAVAILABLE; exit code 0 within 20 s",
    short=True,
)
def _sigterm_limit(bench: Bench) -> str:
    with bench.own("--drain-timeout", "1") as server:
        traffic = _under_way(bench, server, _ENDLESS)
        assert server.process is not None
        server.process.terminate()
        begun = time.monotonic()
        seen = require_all_answered(traffic.outcomes(), retries=True)
        status, _ = _wait_end(server, 30)
        seconds = time.monotonic() - begun
        require(status == 0, f"exit status {status}")
        require(seconds <= allowed_s(20), f"after {seconds:.1f} s")
        return f"{seen}; ended after {seconds:.1f} s"


@ROWS.add(
    "sigterm-twice",
    "SIGTERM twice with a minute's work under way",
    "It ends within 5 s and leaves nothing; requests get UNAVAILABLE",
)
def _sigterm_twice(bench: Bench) -> str:
    with bench.own() as server:
        traffic = _under_way(bench, server, _ENDLESS)
        assert server.process is not None
        server.process.terminate()
        time.sleep(0.5)
        server.process.terminate()
        status, seconds = _wait_end(server, 30)
        seen = require_all_answered(traffic.outcomes(), retries=True)
        require(seconds <= allowed_s(5), f"after {seconds:.1f} s")
        return f"{seen}; exit code {status} after {seconds:.1f} s"


@ROWS.add(
    "sigterm-with-a-stopped-model",
    "SIGTERM while `composite` is stopped by SIGSTOP",
    "It ends within 20 s and leaves nothing",
)
def _sigterm_stopped(bench: Bench) -> str:
    with bench.own("--drain-timeout", "1") as server:
        server.start()
        server.one("composite").suspend()
        assert server.process is not None
        server.process.terminate()
        status, seconds = _wait_end(server, 40)
        require(seconds <= allowed_s(20), f"after {seconds:.1f} s")
        return f"exit code {status} after {seconds:.1f} s"


_DYING = """

import pathlib
import time

_ORDER = pathlib.Path(__file__).parent / "order"


class TritonPythonModel(TritonPythonModel):
    def initialize(self, args):
        super().initialize(args)
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self):
        while not _ORDER.exists():
            time.sleep(0.05)
        _ORDER.unlink()
        self._loop.call_soon_threadsafe(self._loop.stop)
"""


@ROWS.add(
    "engine-thread-dies",
    "The step engine's thread ends with an error with 4 requests under way, its process lives",
    "Its process is replaced; no request fails",
)
def _engine_thread_dies(bench: Bench) -> str:
    models = bench.new_folder() / "models"
    shutil.copytree(MODEL_REPOSITORY, models)
    folder = models / "sample" / "1"
    source = folder / "model.py"
    source.write_text(source.read_text() + _DYING)
    with bench.own("--model-repository", str(models)) as server:
        traffic = _under_way(bench, server, LONG)
        sample = server.one("sample")
        (folder / "order").touch()
        begun = time.monotonic()
        seen = require_all_answered(traffic.outcomes(), retries=False)
        server.wait_back(sample)
        return f"{seen}; back after {time.monotonic() - begun:.1f} s"
