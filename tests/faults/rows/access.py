"""Callers who may not: without a key, and of Triton's protocols that change the server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import psutil
from tritonclient.grpc import service_pb2 as pb

from benchmarks.supervised import Supervised
from segs_client.access import API_KEY_VARIABLE
from segs_client.contract import API_KEY_HEADER
from tests.faults import calls
from tests.faults.bench import Bench
from tests.faults.calls import Answer, infer, send, small
from tests.faults.row import Rows, allowed_s, require
from tests.faults.traffic import Ask, require_all_answered
from triton_models.api_keys import key_line, new_key

ROWS = Rows()


@contextmanager
def _key_in_environment(key: str) -> Iterator[None]:
    """Where clients look for it."""
    os.environ[API_KEY_VARIABLE] = key
    try:
        yield
    finally:
        del os.environ[API_KEY_VARIABLE]


@ROWS.add(
    "no-api-key",
    "Calls without a key, with a wrong one and with one of 1 MiB, to the front end and to the "
    "models behind it, at a server with --api-keys",
    "Each is refused within 2 s; no command line and no log shows a key",
)
def _no_api_key(bench: Bench) -> str:
    key = new_key()
    keys = bench.new_folder() / "keys"
    keys.write_text(key_line("shop", key) + "\n")
    keys.chmod(0o600)
    with _key_in_environment(key), bench.own("--api-keys", str(keys)) as server:
        server.start()
        answers: dict[str, Answer] = {}
        for model in ("segs_detailer", "segs_detailer_stages", "prepare"):
            request = infer(small())
            request.model_name = model
            for name, wrong in {"none": "", "wrong": new_key(), "huge": "x" * 2**20}.items():
                headers = [(API_KEY_HEADER, wrong)] if wrong else []
                answers[f"{model}: {name}"] = send(server, request, headers=headers)
        taken = [name for name, answer in answers.items() if answer.code == "OK"]
        require(not taken, f"answered: {taken}")
        slowest_s = max(answer.seconds for answer in answers.values())
        require(slowest_s <= allowed_s(2), f"the slowest refusal after {slowest_s:.1f} s")
        asks = (Ask(91, 5),)
        bench.learn(server, asks)
        seen = require_all_answered(bench.traffic(server, asks).outcomes(), retries=False)
        _require_hidden(server, key)
        codes = ", ".join(sorted({answer.code for answer in answers.values()}))
        return f"{len(answers)} refused ({codes}); with the key {seen}"


def _require_hidden(server: Supervised, key: str) -> None:
    commands = " ".join(
        " ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"])
    )
    require(key not in commands, "a command line shows the key")
    require(key not in server.log_path.read_text(), "the log shows the key")


_ADMIN: dict[str, tuple[str, Any]] = {
    "unload a model": (
        "RepositoryModelUnload",
        pb.RepositoryModelUnloadRequest(model_name="prepare"),
    ),
    "load a model": ("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="prepare")),
    "list the models": ("RepositoryIndex", pb.RepositoryIndexRequest()),
    "register shared memory": (
        "SystemSharedMemoryRegister",
        pb.SystemSharedMemoryRegisterRequest(name="x", key="/segs", byte_size=2**40),
    ),
    "list shared memory": ("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest()),
    "unregister shared memory": (
        "SystemSharedMemoryUnregister",
        pb.SystemSharedMemoryUnregisterRequest(),
    ),
    "trace": ("TraceSetting", pb.TraceSettingRequest()),
    "log": ("LogSettings", pb.LogSettingsRequest()),
    "a model's config": ("ModelConfig", pb.ModelConfigRequest(name="sample")),
    "statistics": ("ModelStatistics", pb.ModelStatisticsRequest()),
}


@ROWS.add(
    "admin-calls",
    f"{len(_ADMIN)} calls that change the server or show its state: model control, shared "
    "memory, tracing, logging, configs, statistics",
    "Each is refused: they need a key that no client has",
    short=True,
)
def _admin_calls(bench: Bench) -> str:
    server = bench.shared()
    codes = set()
    with calls.open_stub(server) as stub:
        for name, (method, request) in _ADMIN.items():
            try:
                getattr(stub, method)(request, timeout=10)
            except grpc.RpcError as error:
                codes.add(error.code().name)
                require("restricted" in str(error.details()), f"{name}: {error.details()}")
            else:
                require(False, f"{name}: was done")
    return f"{len(_ADMIN)} refused ({', '.join(sorted(codes))})"
