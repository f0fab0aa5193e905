"""A machine that has run out of something, and files that are broken when the server starts."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from os.path import ismount
from pathlib import Path

from benchmarks.supervised import PIPELINE, START_S, Supervised
from serving.options import REPOSITORY_ROOT
from tests.conftest import CHECKPOINTS
from tests.faults.bench import Bench
from tests.faults.row import NotPossible, Rows, require
from tests.faults.traffic import LONG, Ask, require_all_answered

ROWS = Rows()

_REFUSES = "It does not start: exit code 1 and a line that says what to do; then it starts"
_SHORT = (Ask(61, 20), Ask(62, 20))
_UNTIL_STARTED_S = 45.0


def _mounted(*mounts: str) -> tuple[str, ...]:
    """What runs a command in a mount namespace of its own, after these mounts.

    Raises:
        NotPossible: without root.
    """
    if os.geteuid() != 0:
        raise NotPossible("mounting needs root")
    script = " && ".join([*(f"mount {each}" for each in mounts), 'exec "$@"'])
    return "unshare", "--mount", "sh", "-c", script, "sh"


def _tmpfs(place: Path, options: str) -> str:
    return f"-t tmpfs -o {options} tmpfs {place}"


@contextmanager
def _full(server: Supervised, place: Path, left_bytes: int = 0) -> Iterator[None]:
    """The file system of this folder, as the server sees it, has no room left."""
    path = Path(f"/proc/{server.pid}/root") / place.relative_to("/") / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            require(error.errno == errno.ENOSPC, str(error))
        file.truncate(max(0, file.tell() - left_bytes))
    try:
        yield
    finally:
        path.unlink()


def _require_refuses(server: Supervised, *words: str) -> str:
    """It ends with exit code 1, and its last line has these words and no trace."""
    process = server.spawn()
    try:
        status = process.wait(START_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        status = process.wait()
    text = server.log_path.read_text()
    require(status == 1, f"exit status {status}: {server.log_tail()}")
    require("Traceback" not in text, f"a trace: {server.log_tail()}")
    error = text.rpartition(" ERROR ")[2]
    for word in words:
        require(word in error, f"{word!r} is not in {error!r}")
    return " ".join(error.split())


@ROWS.add(
    "shm-full",
    "/dev/shm is full while 4 requests are under way, and for 5 s more",
    "Right pictures or UNAVAILABLE; back when there is room",
)
def _shm_full(bench: Bench) -> str:
    with bench.own(prefix=_mounted(_tmpfs(Path("/dev/shm"), "size=256m"))) as server:
        server.start()
        bench.learn(server, LONG)
        traffic = bench.traffic(server, LONG)
        time.sleep(1.5)
        with _full(server, Path("/dev/shm")):
            seen = require_all_answered(traffic.outcomes(), retries=True)
            time.sleep(5)
            require(server.alive, "the supervisor has ended")
        return f"{seen}; back {server.wait_back():.1f} s after there was room"


@ROWS.add("shm-too-small", "/dev/shm of 1 MiB, as containers without `shm_size` may have", _REFUSES)
def _shm_too_small(bench: Bench) -> str:
    with bench.own(prefix=_mounted(_tmpfs(Path("/dev/shm"), "size=1m"))) as server:
        seen = _require_refuses(server, "/dev/shm")
        server.setup = replace(server.setup, prefix=())
        return seen


@ROWS.add(
    "disk-full",
    "The disk with the server's temporary folder is full for 12 s while 4 requests are under way",
    "No request fails, probes get 200",
)
def _disk_full(bench: Bench) -> str:
    with bench.own() as server:
        options = "size=64m"
        server.setup = replace(server.setup, prefix=_mounted(_tmpfs(server.temporary, options)))
        server.start()
        bench.learn(server, LONG)
        with _full(server, server.temporary):
            begun = time.monotonic()
            seen = require_all_answered(bench.traffic(server, LONG).outcomes(), retries=False)
            time.sleep(max(0.0, 12 - (time.monotonic() - begun)))
            status, state = server.health()
        require(status == 200, f"not ready: {state}")
        require(state["restarts"] == 0, f"started again: {state}")
        return f"{seen}, ready, nothing started again"


@ROWS.add(
    "log-full",
    "The disk of --log-file is full from the start",
    "Requests are answered; the log's end is kept in memory",
    short=True,
)
def _log_full(bench: Bench) -> str:
    with bench.own("--log-file", "/dev/full", "--log-level", "DEBUG") as server:
        server.start()
        bench.learn(server, LONG)
        seen = require_all_answered(bench.traffic(server, LONG).outcomes(), retries=False)
        return f"{seen}; ready: {server.is_ready()}"


@ROWS.add("read-only", "Every file system but /dev/shm is read-only, /tmp too", _REFUSES)
def _read_only(bench: Bench) -> str:
    mounts = ["-o remount,bind,ro /"]
    mounts += [f"-o remount,bind,ro {place}" for place in ("/tmp", "/var/tmp") if ismount(place)]
    with bench.own(prefix=_mounted(*mounts)) as server:
        seen = _require_refuses(server, "TMPDIR")
        server.setup = replace(server.setup, prefix=())
        return seen


@ROWS.add(
    "port-taken",
    "Another process listens on the gRPC port",
    _REFUSES + "; it names the process",
    short=True,
)
def _port_taken(bench: Bench) -> str:
    return _taken(bench, "grpc")


@ROWS.add(
    "health-port-taken",
    "Another process listens on the health port",
    _REFUSES + "; it names the process",
)
def _health_port_taken(bench: Bench) -> str:
    return _taken(bench, "health")


def _taken(bench: Bench, name: str) -> str:
    with bench.own() as server:
        port = server.ports[name]
        with socket.create_server(("127.0.0.1", port)):
            return _require_refuses(server, str(port), f"--{name}-port", str(os.getpid()))


def _broken_copy(bench: Bench) -> Path:
    """A copy of the pipeline, to be broken."""
    folder = bench.new_folder() / "pipelines"
    shutil.copytree(bench.repository, folder)
    return folder


@ROWS.add("engine-truncated", "The UNet's ONNX file is half as long", _REFUSES, short=True)
def _engine_truncated(bench: Bench) -> str:
    folder = _broken_copy(bench)
    network = folder / f"{PIPELINE}_unet" / "1" / "model.onnx"
    whole = network.read_bytes()
    with bench.own(repository=folder) as server:
        network.write_bytes(whole[: len(whole) // 2])
        seen = _require_refuses(server, f"{PIPELINE}_unet")
        network.write_bytes(whole)
        return seen


@ROWS.add("weights-changed", "One byte of the VAE's weights is another one", _REFUSES)
def _weights_changed(bench: Bench) -> str:
    folder = _broken_copy(bench)
    weights = folder / f"{PIPELINE}_vae_decoder" / "1" / "model.onnx.data"
    whole = weights.read_bytes()
    with bench.own(repository=folder) as server:
        weights.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
        seen = _require_refuses(server, f"{PIPELINE}_vae_decoder")
        weights.write_bytes(whole)
        return seen


@ROWS.add("model-missing", "The text encoder's folder is missing", _REFUSES)
def _model_missing(bench: Bench) -> str:
    folder = _broken_copy(bench)
    model = folder / f"{PIPELINE}_text_encoder"
    aside = folder.parent / "aside"
    with bench.own(repository=folder) as server:
        model.rename(aside)
        seen = _require_refuses(server, model.name)
        aside.rename(model)
        return seen


@ROWS.add("descriptor-broken", "The pipeline's descriptor is half as long", _REFUSES)
def _descriptor_broken(bench: Bench) -> str:
    folder = _broken_copy(bench)
    descriptor = folder / f"{PIPELINE}.pipeline.json"
    whole = descriptor.read_text()
    with bench.own(repository=folder) as server:
        descriptor.write_text(whole[: len(whole) // 2])
        seen = _require_refuses(server, descriptor.name)
        descriptor.write_text(whole)
        return seen


@ROWS.add(
    "checkpoint-broken",
    "A checkpoint to be built whose weights are cut short, beside a pipeline that is served",
    "The build ends with an exit code and a line; the pipeline stays as it was",
)
def _checkpoint_broken(bench: Bench) -> str:
    server = bench.shared()
    folder = _broken_copy(bench)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    checkpoint = bench.new_folder() / "checkpoint"
    shutil.copytree(CHECKPOINTS / PIPELINE, checkpoint)
    weights = next((checkpoint / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    command = [sys.executable, "-m", "build_engines", str(checkpoint), "--name", PIPELINE]
    command += ["--target", "onnx", "--repository", str(folder)]
    built = subprocess.run(
        command, cwd=REPOSITORY_ROOT, capture_output=True, text=True, check=False
    )
    require(built.returncode in (1, 3), f"exit status {built.returncode}: {built.stderr[-500:]}")
    require("Traceback" not in built.stderr, f"a trace: {built.stderr[-500:]}")
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    require(before == after, "the pipeline was changed")
    require(server.is_ready(), "the server is not ready")
    return f"exit code {built.returncode}: {built.stderr.strip().splitlines()[-1]}"
