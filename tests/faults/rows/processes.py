"""Processes that are killed or stopped while at least three requests are under way."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import psutil

from benchmarks.supervised import PIPELINE, PromiseBroken, Supervised
from tests.faults.bench import Bench, require_no_leftovers
from tests.faults.row import Check, Rows, allowed_s, require
from tests.faults.traffic import FOLLOWED, LARGE, LONG, SHORT, Ask, Traffic, require_all_answered
from triton_models.in_flight import MOST_CALLS

ROWS = Rows()

Moment = Literal["sampling", "computing", "called"]
"""When the signal comes: while the step engine samples; once the process has computed for the
requests; or, for a network that is called briefly, while a call is at it."""
_LEAST = 3
_SHORT = {"prepare-stopped", "sample-killed", "unet-killed", "unet-stopped", "tritonserver-killed"}
_REPEATED = "No request fails: lost work is done again"
_RETRYABLE = "Requests get UNAVAILABLE within their deadline, to be sent again"
_FOUND_S, _BACK_S = 10.0, 60.0
_CROWD = tuple(Ask(number, 60) for number in range(201, 201 + MOST_CALLS))
"""As many as a front end has in flight."""


@dataclass(frozen=True)
class Victim:
    """A process that is hit, and the requests that are under way then."""

    role: str
    name: str
    asks: Sequence[Ask]
    moment: Moment
    loses: bool = False
    """Whether its end may lose the requests."""


_STAGES = (
    Victim("prepare", "prepare", LARGE, "computing"),
    Victim("sample", "sample", LONG, "sampling"),
    Victim("composite", "composite", LARGE, "computing"),
    Victim("sd15_text_encoder", "text-encoder", SHORT, "called"),
    Victim("sd15_unet", "unet", LONG, "sampling"),
    Victim("sd15_vae_encoder", "vae-encoder", SHORT, "called"),
    Victim("sd15_vae_decoder", "vae-decoder", SHORT, "called"),
    Victim("sd15_controlnet_controlnet", "controlnet", LONG, "sampling"),
)
_WHOLE = (
    Victim("segs_detailer", "front-end", LONG, "sampling", loses=True),
    Victim("segs_detailer_stream", "stream-front-end", FOLLOWED, "sampling", loses=True),
    Victim("tritonserver", "tritonserver", LONG, "sampling", loses=True),
)


def _wait_at_work(server: Supervised, traffic: Traffic, victim: Victim) -> psutil.Process:
    """The process to hit, when the moment has come."""
    processes = server.processes()
    require(victim.role in processes, f"no process {victim.role}")
    candidates = processes[victim.role]
    used_s = {process: process.cpu_times().user for process in candidates}
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        state = server.engine()
        if victim.moment == "computing":
            for process in candidates:
                if process.cpu_times().user - used_s[process] > 0.02:
                    return process
        elif state is not None and state.requests >= max(_LEAST, len(victim.asks) - 4):
            if victim.moment == "sampling":
                return candidates[0]
            if any(flight.network == victim.role for flight in state.flights):
                return candidates[0]
        time.sleep(0.01)
    raise PromiseBroken(f"requests never came to {victim.role}; last seen: {server.engine()}")


@contextlib.contextmanager
def _lasting_calls(server: Supervised, victim: Victim) -> Iterator[None]:
    """Has calls that take milliseconds last until one is seen: the process is stopped, and so is
    the supervisor meanwhile."""
    if victim.moment != "called":
        yield
        return
    supervisor = server.one("supervisor")
    supervisor.suspend()
    try:
        server.one(victim.role).suspend()
        yield
    finally:
        supervisor.resume()


def _hit(bench: Bench, victim: Victim, number: signal.Signals) -> str:
    server = bench.shared()
    bench.learn(server, victim.asks)
    if victim.loses:
        server.wait_healthy()
    before = server.mended()
    with _lasting_calls(server, victim):
        traffic = bench.traffic(server, victim.asks)
        process = _wait_at_work(server, traffic, victim)
        require(traffic.under_way >= _LEAST, f"only {traffic.under_way} requests under way")
        process.send_signal(number)
    with ThreadPoolExecutor(2) as pool:
        found = pool.submit(server.wait_found, before)
        back = pool.submit(server.wait_back, process)
        seen = require_all_answered(traffic.outcomes(), retries=victim.loses)
        found_s, back_s = found.result(), back.result()
    seen = f"{seen}; found after {found_s:.1f} s, back after {back_s:.1f} s"
    require(found_s <= allowed_s(_FOUND_S) and back_s <= allowed_s(_BACK_S), seen)
    return seen


def _hitting(victim: Victim, number: signal.Signals) -> Check:
    return lambda bench: _hit(bench, victim, number)


def _promise(victim: Victim) -> str:
    loses = _RETRYABLE if victim.loses else _REPEATED
    return f"{loses}; found within {_FOUND_S:.0f} s, back within {_BACK_S:.0f} s"


for _victim in (*_STAGES, *_WHOLE):
    for _number, _word in ((signal.SIGKILL, "killed"), (signal.SIGSTOP, "stopped")):
        ROWS.add(
            _name := f"{_victim.name}-{_word}",
            f"{_number.name} to `{_victim.role}` with {len(_victim.asks)} requests under way",
            _promise(_victim),
            short=_name in _SHORT,
        )(_hitting(_victim, _number))


def _sampling(bench: Bench) -> tuple[Supervised, Traffic]:
    """A server in the middle of requests."""
    server = bench.shared()
    bench.learn(server, LONG)
    traffic = bench.traffic(server, LONG)
    _wait_at_work(server, traffic, Victim("sample", "sample", LONG, "sampling"))
    require(traffic.under_way >= _LEAST, f"only {traffic.under_way} requests under way")
    return server, traffic


@ROWS.add(
    "one-while-another-is-reloaded",
    "SIGKILL to `sd15_unet`, and while it is loaded again SIGSTOP to `sd15_vae_decoder`",
    _REPEATED + f"; both back within {_BACK_S:.0f} s",
)
def _one_after_another(bench: Bench) -> str:
    server, traffic = _sampling(bench)
    before = server.mended()
    first, second = server.one("sd15_unet"), server.one("sd15_vae_decoder")
    begun = time.monotonic()
    first.kill()
    server.wait_found(before)
    second.suspend()
    seen = require_all_answered(traffic.outcomes(), retries=False)
    server.wait_back(first)
    server.wait_back(second)
    back_s = time.monotonic() - begun
    require(back_s <= allowed_s(_BACK_S), f"{seen}; back after {back_s:.1f} s")
    return f"{seen}; both back after {back_s:.1f} s"


@ROWS.add(
    "all-networks-killed",
    "SIGKILL to all networks at once",
    _REPEATED + f"; back within {_BACK_S:.0f} s",
)
def _all_networks(bench: Bench) -> str:
    server, traffic = _sampling(bench)
    roles = [role for role in server.processes() if role.startswith(f"{PIPELINE}_")]
    victims = [server.one(role) for role in roles]
    begun = time.monotonic()
    for victim in victims:
        victim.kill()
    seen = require_all_answered(traffic.outcomes(), retries=False)
    for victim in victims:
        server.wait_back(victim)
    back_s = time.monotonic() - begun
    require(back_s <= allowed_s(_BACK_S), f"{seen}; back after {back_s:.1f} s")
    return f"{len(victims)} killed; {seen}; back after {back_s:.1f} s"


def _wait_successor(server: Supervised, killed: psutil.Process) -> None:
    """Until another process has its place, or the server is no longer there."""
    deadline = time.monotonic() + _BACK_S
    while time.monotonic() < deadline:
        if any(each != killed for each in server.processes().get("sample", ())):
            return
        time.sleep(0.05)
    raise PromiseBroken(f"`sample` was not replaced: {server.log_tail()}")


@ROWS.add(
    "calls-lost",
    f"SIGKILL to `sample` with {len(_CROWD)} requests inside, and again when they are inside its "
    "successor",
    "Right pictures or UNAVAILABLE; so many calls that Triton never ends have the server drained "
    f"and started again, and it is back within {_BACK_S:.0f} s",
)
def _calls_lost(bench: Bench) -> str:
    server = bench.shared()
    bench.learn(server, _CROWD)
    server.wait_healthy()
    restarts = server.health()[1]["restarts"]
    traffic = bench.traffic(server, _CROWD)
    for _ in range(2):
        killed = _wait_at_work(server, traffic, Victim("sample", "", _CROWD, "sampling"))
        killed.kill()
        _wait_successor(server, killed)
    begun = time.monotonic()
    seen = require_all_answered(traffic.outcomes(), retries=True)
    while server.health()[1].get("restarts") == restarts:
        require(time.monotonic() - begun < allowed_s(_BACK_S), f"{seen}; never started again")
        time.sleep(0.1)
    back_s = server.wait_back() + time.monotonic() - begun
    require(back_s <= allowed_s(_BACK_S), f"{seen}; back after {back_s:.1f} s")
    return f"{seen}; back after {back_s:.1f} s"


@ROWS.add(
    "reaper-killed",
    "SIGKILL to the reaper, the process between supervisor and tritonserver",
    _RETRYABLE + "; no orphan stays",
)
def _reaper_killed(bench: Bench) -> str:
    bench.shared().wait_healthy()
    server, traffic = _sampling(bench)
    reaper = server.one("reaper")
    reaper.kill()
    with ThreadPoolExecutor(1) as pool:
        back = pool.submit(server.wait_back, reaper)
        seen = require_all_answered(traffic.outcomes(), retries=True)
        return f"{seen}; back after {back.result():.1f} s"


@ROWS.add("reaper-stopped", "SIGSTOP to the reaper", "No request fails, and probes get 200")
def _reaper_stopped(bench: Bench) -> str:
    server, traffic = _sampling(bench)
    reaper = server.one("reaper")
    reaper.suspend()
    seen = require_all_answered(traffic.outcomes(), retries=False)
    require(server.is_ready(), "not ready")
    reaper.resume()
    return f"{seen}; ready throughout"


@ROWS.add(
    "supervisor-killed",
    "SIGKILL to `python -m serving serve`",
    "Requests get UNAVAILABLE; all ends within 15 s and leaves nothing; the same command starts "
    "again on the same ports",
    short=True,
)
def _supervisor_killed(bench: Bench) -> str:
    server, traffic = _sampling(bench)
    assert server.process is not None
    begun = time.monotonic()
    server.process.kill()
    seen = require_all_answered(traffic.outcomes(), retries=True)
    server.process.wait()
    require_no_leftovers(server, 15.0)
    return f"{seen}; nothing left after {time.monotonic() - begun:.1f} s"


@ROWS.add(
    "killed-together",
    "SIGKILL to `python -m serving serve`, its reaper and tritonserver at once",
    "Requests get UNAVAILABLE; no process is left to clear up, so the next start does, on the "
    "same ports",
)
def _killed_together(bench: Bench) -> str:
    server, traffic = _sampling(bench)
    assert server.process is not None
    victims = [server.one(role) for role in ("supervisor", "reaper", "tritonserver")]
    for victim in victims:
        victim.suspend()  # or the first one's end would have the next clear up
    for victim in victims:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ends with the one before
            victim.kill()
    psutil.wait_procs(victims, timeout=9)
    seen = require_all_answered(traffic.outcomes(), retries=True)
    server.process.wait()
    left = len(server.leftovers())
    require(left > 0, "nothing was left")
    server.start()
    require_no_leftovers(server)
    return f"{seen}; {left} files, folders and processes were left, none after the next start"


@ROWS.add(
    "supervisor-stopped",
    "SIGSTOP to `python -m serving serve`",
    "Requests go on; probes get no answer until it goes on",
)
def _supervisor_stopped(bench: Bench) -> str:
    server, traffic = _sampling(bench)
    server.one("supervisor").suspend()
    status, _ = server.health(timeout_s=2)
    seen = require_all_answered(traffic.outcomes(), retries=False)
    server.one("supervisor").resume()
    require(status == 0, f"the probe got {status}")
    return f"{seen}; the probe timed out, and got 200 again {server.wait_back():.1f} s later"
