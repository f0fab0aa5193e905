"""Networks that fail: the UNet is a Python model that fails on order."""

from __future__ import annotations

import time

from tritonclient.grpc.service_pb2 import ModelInferRequest

from benchmarks.supervised import Setup, Supervised
from segs_client import SegsError
from tests.faults.bench import Bench
from tests.faults.calls import add_input, send
from tests.faults.faulty import UNET, FaultyPipeline
from tests.faults.row import Rows, require
from tests.faults.traffic import LONG, Ask, Outcome, Traffic, require_all_answered
from tests.waiting import wait_until

ROWS = Rows()

_INTERNAL = "The requests of its batches get INTERNAL with an incident's id; no path, no trace"
_SECRETS = (".py", "/", "Traceback", "secret", "segs-")
"""What an error must not show."""


def _server(bench: Bench) -> tuple[FaultyPipeline, Supervised]:
    pipeline = bench.faulty()
    return pipeline, bench.shared("faulty", Setup(pipeline.folder, ("--no-verify",)))


def _sampling(bench: Bench) -> tuple[FaultyPipeline, Supervised, Traffic]:
    """In the middle of requests."""
    pipeline, server = _server(bench)
    bench.learn(server, LONG)
    traffic = bench.traffic(server, LONG)
    wait_until(lambda: (state := server.engine()) is not None and state.requests >= 3)
    return pipeline, server, traffic


def _meet(bench: Bench, order: str) -> tuple[Supervised, list[Outcome]]:
    """The order comes in the middle of requests, and goes when all have ended."""
    pipeline, server, traffic = _sampling(bench)
    with pipeline.ordered(order):
        outcomes = traffic.outcomes()
    return server, outcomes


def _require_internal(outcomes: list[Outcome]) -> None:
    """Those that failed got a proper error."""
    for outcome in outcomes:
        require(outcome.ending in ("right", "failed"), f"{outcome.ending}: {outcome.text}")
        if outcome.ending == "failed":
            require(outcome.text.startswith("INTERNAL: "), outcome.text)
            require("incident" in outcome.text, f"no id: {outcome.text}")
            shown = [secret for secret in _SECRETS if secret in outcome.text]
            require(not shown, f"{outcome.text!r} shows {shown}")


def _fails(bench: Bench, order: str) -> str:
    _, outcomes = _meet(bench, order)
    _require_internal(outcomes)
    failed = [outcome for outcome in outcomes if outcome.ending == "failed"]
    require(bool(failed), "no request failed")
    return f"{len(failed)} × {failed[0].text!r}"


@ROWS.add("network-raises", "The UNet raises in the middle of 4 requests", _INTERNAL, short=True)
def _raises(bench: Bench) -> str:
    return _fails(bench, "raise")


@ROWS.add("network-nan", "The UNet returns NaN", _INTERNAL)
def _nan(bench: Bench) -> str:
    return _fails(bench, "nan")


@ROWS.add("network-shape", "The UNet's output has 2 channels for 4", _INTERNAL, short=True)
def _shape(bench: Bench) -> str:
    return _fails(bench, "shape")


@ROWS.add("network-no-output", "The UNet's answer has no output", _INTERNAL)
def _no_output(bench: Bench) -> str:
    return _fails(bench, "no-output")


@ROWS.add(
    "network-nan-row",
    "The first row of one of the UNet's batches, which 4 requests share, is NaN",
    "The request of that row fails with INTERNAL; the others get their right pictures",
    short=True,
)
def _nan_row(bench: Bench) -> str:
    _, outcomes = _meet(bench, "once-nan-row")
    _require_internal(outcomes)
    failed = sum(outcome.ending == "failed" for outcome in outcomes)
    require(1 <= failed < len(outcomes), f"{failed} of {len(outcomes)} failed")
    return f"{failed} INTERNAL, {len(outcomes) - failed} right pictures"


def _meet_for(bench: Bench, order: str, seconds: float) -> tuple[Supervised, list[Outcome]]:
    """The order is there for a while only."""
    pipeline, server, traffic = _sampling(bench)
    with pipeline.ordered(order):
        time.sleep(seconds)
    return server, traffic.outcomes()


@ROWS.add(
    "network-slow",
    "The UNet takes 0.3 s more for each batch",
    "Right pictures; nothing is started again",
)
def _slow(bench: Bench) -> str:
    server, outcomes = _meet_for(bench, "slow", 6.0)
    seen = require_all_answered(outcomes, retries=False)
    slowest_s = max(outcome.seconds for outcome in outcomes)
    require(server.health()[1]["restarts"] == 0, "the server was started again")
    return f"{seen}, the slowest after {slowest_s:.1f} s"


@ROWS.add(
    "network-hangs",
    "A call of the UNet does not end",
    "Its process is replaced; no request fails",
)
def _hangs(bench: Bench) -> str:
    pipeline, server, traffic = _sampling(bench)
    hanging = server.one(UNET)
    with pipeline.ordered("hang"):
        time.sleep(1.0)
    begun = time.monotonic()
    seen = require_all_answered(traffic.outcomes(), retries=False)
    server.wait_back(hanging)
    return f"{seen}; {time.monotonic() - begun:.1f} s later"


@ROWS.add(
    "network-dies-once",
    "The UNet's process exits in the middle of a batch",
    "No request fails: the batch is run again",
)
def _dies_once(bench: Bench) -> str:
    pipeline, server, traffic = _sampling(bench)
    dying = server.one(UNET)
    pipeline.order("once-exit")
    seen = require_all_answered(traffic.outcomes(), retries=False)
    return f"{seen}; back after {server.wait_back(dying):.1f} s more"


@ROWS.add(
    "poisonous-request",
    "A request at whose batches the UNet's process exits each time",
    "It gets a typed error; afterwards the server is well",
)
def _dies_always(bench: Bench) -> str:
    pipeline, server = _server(bench)
    ask = Ask(31, 20, timeout_s=40.0)
    begun = time.monotonic()
    with pipeline.ordered("exit"):
        try:
            ask.send(server.url)
            require(False, "it got a picture")
        except SegsError as error:
            seen = f"{error.code} after {time.monotonic() - begun:.1f} s"
            require(error.code in ("UNAVAILABLE", "INTERNAL"), seen)
    return f"{seen}; back after {server.wait_back():.1f} s"


@ROWS.add(
    "crash-loop",
    "The UNet's process dies, and can then not be started for 20 s",
    "Starts are tried again after pauses that grow; probes get 503 and the reason; then it is back",
)
def _crash_loop(bench: Bench) -> str:
    pipeline, server = _server(bench)
    with pipeline.ordered("broken"):
        server.one(UNET).kill()
        deadline = time.monotonic() + 20
        reasons = set()
        while time.monotonic() < deadline:
            status, state = server.health()
            require(server.alive, "the supervisor gave up")
            if status == 503:
                reasons.add(str(state["reason"]))
            time.sleep(0.2)
        status, state = server.health()
    require(status == 503, f"health says {status}")
    require(bool(state["last_failure"]), "health gives no reason")
    tries = state["restarts"]
    require(tries <= 6, f"{tries} starts in 20 s")
    back_s = server.wait_back()
    return f"{tries} starts in 20 s, 503 throughout; back {back_s:.1f} s after it was repaired"


@ROWS.add(
    "wrapped-shape-network",
    "A shape whose bytes wrap around 2⁶⁴ for the VAE's decoder, which any client of the port can "
    "call, in the middle of 4 requests",
    "Refused; or, with a server that lacks the check, as 2.51 does, the decoder's process ends and "
    "is loaded again within 30 s, and all get their right pictures",
)
def _wrapped(bench: Bench) -> str:
    server = bench.shared()
    bench.learn(server, LONG)
    traffic = bench.traffic(server, LONG)
    before, decoder = server.mended(), server.one("sd15_vae_decoder")
    request = ModelInferRequest(model_name="sd15_vae_decoder")
    add_input(request, "latent_sample", "FP32", [1, 4, 2**60, 1], b"")
    begun = time.monotonic()
    answer = send(server, request, timeout_s=2.0)
    require(answer.code != "OK", "it was answered")
    how = answer.code
    if not answer.refused:
        server.wait_found(before)
        server.wait_back(decoder, 30.0)
        how = f"its process ended; all was back {time.monotonic() - begun:.1f} s after the call"
    return f"{how}; {require_all_answered(traffic.outcomes(), retries=False)}"
