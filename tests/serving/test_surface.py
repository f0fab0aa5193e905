"""What a server is open to: TLS, restricted protocols, and where its secrets can be seen."""

from __future__ import annotations

import logging
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from serving.errors import ExposureError, KeyFileError, TlsError
from serving.exposure import check_exposure, is_loopback
from serving.installation import Installation
from serving.options import RESTRICTED, ServerOptions, TlsFiles
from serving.server import EmbeddedServer
from serving.tls import open_tls
from tests.certificates import Authority, Identity

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def open_server(toy_repository: Path) -> Iterator[EmbeddedServer]:
    """A server with HTTP, and its statistics open to everybody."""
    with EmbeddedServer(
        model_repository=toy_repository,
        http_port=0,
        open_protocols=("statistics",),
        start_timeout_s=60,
    ) as running:
        yield running


Call = Callable[[grpc.InferenceServerClient, dict[str, str]], object]

GRPC_CALLS: dict[str, tuple[str, Call]] = {
    "shm-status": (
        "shared-memory",
        lambda client, headers: client.get_system_shared_memory_status(headers=headers),
    ),
    "cuda-shm-status": (
        "shared-memory",
        lambda client, headers: client.get_cuda_shared_memory_status(headers=headers),
    ),
    "repository-index": (
        "model-repository",
        lambda client, headers: client.get_model_repository_index(headers=headers),
    ),
    "model-config": (
        "model-config",
        lambda client, headers: client.get_model_config("double", headers=headers),
    ),
    "trace": ("trace", lambda client, headers: client.get_trace_settings(headers=headers)),
    "logging": ("logging", lambda client, headers: client.get_log_settings(headers=headers)),
}


@pytest.mark.parametrize("name", GRPC_CALLS)
def test_grpc_asks_for_the_admin_key(open_server: EmbeddedServer, name: str) -> None:
    protocol, call = GRPC_CALLS[name]
    assert protocol in RESTRICTED
    with open_server.connection.open() as client:
        for headers in ({}, {"triton-grpc-protocol-admin-key": "wrong"}):
            with pytest.raises(InferenceServerException, match="restricted"):
                call(client, headers)
        call(client, open_server.credentials.admin_headers())


HTTP_CALLS = {
    "/v2/systemsharedmemory/status": "GET",
    "/v2/cudasharedmemory/status": "GET",
    "/v2/repository/index": "POST",
    "/v2/models/double/config": "GET",
    "/v2/trace/setting": "GET",
    "/v2/models/double/trace/setting": "GET",
    "/v2/logging": "GET",
}


@pytest.mark.parametrize("path", HTTP_CALLS)
def test_http_asks_for_the_admin_key(open_server: EmbeddedServer, path: str) -> None:
    url = f"http://{open_server.address('http')}{path}"

    def status(headers: dict[str, str]) -> int:
        data = b"{}" if HTTP_CALLS[path] == "POST" else None
        request = urllib.request.Request(url, data, headers, method=HTTP_CALLS[path])
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert status({}) == status({"admin-key": "wrong"}) == 403
    assert status({"admin-key": open_server.credentials.admin_key}) == 200


def test_what_was_opened_is_open(open_server: EmbeddedServer, server: EmbeddedServer) -> None:
    with open_server.connection.open() as client:
        assert len(client.get_inference_statistics().model_stats) == 2
    with (
        server.connection.open() as client,
        pytest.raises(InferenceServerException, match="restricted"),
    ):
        client.get_inference_statistics()


def test_of_the_secrets_command_lines_show_the_admin_key_alone(
    open_server: EmbeddedServer,
) -> None:
    secrets = tuple(open_server.credentials)
    assert len(secrets) == 3
    key = open_server.credentials.admin_key
    root = psutil.Process(open_server.pid)
    assert any(f"admin-key={key}" in word for word in root.cmdline())
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        assert not any(secret in line for secret in secrets if secret != key), process
    for process in root.children(recursive=True):
        assert not any(key in value for value in process.environ().values()), process
    assert not any(secret in open_server.tail(500) for secret in secrets)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def identity(authority: Authority) -> Identity:
    return authority.sign("server", "server", host="detailer.example")


def reach(server: EmbeddedServer, ca: Path, **options: Any) -> bool:
    """Whether a client gets through to the server, which it knows by its name."""
    name = [("grpc.ssl_target_name_override", "detailer.example")]
    url = server.grpc_url
    with grpc.InferenceServerClient(
        url, ssl=True, root_certificates=str(ca), channel_args=name, **options
    ) as client:
        try:
            return bool(client.is_server_live(client_timeout=3))
        except InferenceServerException:
            return False


def test_tls(
    toy_repository: Path, authority: Authority, identity: Identity, no_traces: None
) -> None:
    files = TlsFiles(identity.cert, identity.key)
    other = Authority(authority.cert.parent, "stranger")
    with EmbeddedServer(model_repository=toy_repository, tls=files, start_timeout_s=60) as server:
        assert reach(server, authority.cert)
        assert not reach(server, other.cert)
        with (
            grpc.InferenceServerClient(server.grpc_url) as client,
            pytest.raises(InferenceServerException),
        ):
            client.is_server_live(client_timeout=3)


def test_mutual_tls(
    toy_repository: Path, authority: Authority, identity: Identity, no_traces: None
) -> None:
    files = TlsFiles(identity.cert, identity.key, authority.cert)
    friend = authority.sign("friend", "client")
    stranger = Authority(authority.cert.parent, "others").sign("stranger", "client")
    with EmbeddedServer(model_repository=toy_repository, tls=files, start_timeout_s=60) as server:
        with server.connection.open() as client:
            assert client.is_server_live()

        def shows(who: Identity) -> bool:
            shown = {"private_key": str(who.key), "certificate_chain": str(who.cert)}
            return reach(server, authority.cert, **shown)

        assert shows(friend)
        assert not shows(stranger)
        assert not shows(identity)  # for servers
        assert not reach(server, authority.cert)


def test_certificates_are_checked_before_the_start(
    authority: Authority, identity: Identity, tmp_path: Path
) -> None:
    other = authority.sign("other", "server", host="*.example.org")
    late = authority.sign("late", "server", host="detailer.example", days=-0.5)
    nameless = authority.sign("nameless", "server")
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN NOTHING-----")
    wrong = {
        "not the key of": TlsFiles(identity.cert, other.key),
        "expired at": TlsFiles(late.cert, late.key),
        "names no host": TlsFiles(nameless.cert, nameless.key),
        "No such file": TlsFiles(identity.cert, tmp_path / "none"),
        "holds no certificate": TlsFiles(broken, identity.key),
        "holds no private key": TlsFiles(identity.cert, broken),
    }
    for message, files in wrong.items():
        with pytest.raises(TlsError, match=message):
            open_tls(files, tmp_path)
    with pytest.raises(TlsError, match="holds no certificate"):
        open_tls(TlsFiles(identity.cert, identity.key, broken), tmp_path)
    opened = open_tls(TlsFiles(other.cert, other.key), tmp_path)
    (override,) = opened.connection["channel_args"]
    assert override[1] == "canary.example.org"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.5", False),
        ("box.example", False),
    ],
)
def test_loopback_is_known(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


TLS = TlsFiles(Path("c.pem"), Path("k.pem"))


@pytest.mark.parametrize(
    ("version", "fits"),
    [
        ("2.51.0", False),
        ("2.70.0", False),
        ("2.71.0", True),
        ("2.72.1", True),
        ("3.0.0", True),
        (None, False),
        ("unknown", False),
    ],
)
def test_old_servers_stay_on_this_machine(version: str | None, fits: bool) -> None:
    installation = Installation(Path("tritonserver"), (), Path("backends"), version=version)
    local = ServerOptions()
    check_exposure(local, installation)
    remote = replace(local, host="0.0.0.0")
    if fits:
        check_exposure(remote, installation)
    else:
        with pytest.raises(ExposureError, match=r"release 26\.07 or later.*--allow-old-server"):
            check_exposure(remote, installation)
        check_exposure(replace(remote, allow_old_server=True), installation)


def test_the_embedded_server_stays_on_this_machine(toy_repository: Path) -> None:
    with pytest.raises(ExposureError, match=r"tritonserver 2\.51\.0 lacks security fixes"):
        EmbeddedServer(model_repository=toy_repository, host="0.0.0.0").start()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ["nothing is encrypted", "callers are not checked"]),
        ({"api_keys": Path("keys")}, ["nothing is encrypted"]),
        ({"tls": TLS}, ["callers are not checked"]),
        ({"tls": TLS, "api_keys": Path("keys")}, []),
        ({"tls": replace(TLS, client_ca=Path("ca.pem"))}, []),
        ({"host": "127.0.0.1"}, []),
    ],
)
def test_open_ports_are_warned_of_once(
    options: dict[str, Any], words: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    installation = Installation(Path("tritonserver"), (), Path("backends"), version="2.72.0")
    check_exposure(ServerOptions(**{"host": "::", **options}), installation)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == bool(words)
    for text in ("nothing is encrypted", "callers are not checked"):
        assert (text in "".join(messages)) == (text in words)
    assert all(record.levelno == logging.WARNING for record in caplog.records)


def test_http_does_not_go_around_tls() -> None:
    installation = Installation(Path("tritonserver"), (), Path("backends"), version="2.72.0")
    local = ServerOptions(tls=TLS, http_port=8000)
    check_exposure(local, installation)
    with pytest.raises(ExposureError, match="HTTP has no TLS"):
        check_exposure(replace(local, host="0.0.0.0"), installation)


def test_a_bad_file_of_keys_stops_the_start(toy_repository: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="No such file"):
        EmbeddedServer(model_repository=toy_repository, api_keys=tmp_path / "none").start()


def test_unknown_protocols_are_refused() -> None:
    with pytest.raises(ValueError, match="open_protocols"):
        ServerOptions(open_protocols=("inference",))
