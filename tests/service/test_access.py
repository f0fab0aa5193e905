"""API keys on the real server: calls with and without, to the front ends and to other models."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from pipelines import load_all
from segs_client import Cancelled, Client, NotFound, Tls, Unauthenticated
from segs_client.contract import ErrorDetail
from serving.__main__ import main
from serving.canary import Canary, canary_request
from serving.options import TlsFiles
from serving.process import model_processes
from serving.server import EmbeddedServer
from tests.certificates import Authority
from tests.service.observed import wait_for_the_dead
from tests.waiting import wait_until
from triton_models.api_keys import key_line

pytestmark = pytest.mark.server

KEY = "segs_the-right-key"
GUEST_KEY = "segs_of-another-client"
PICTURE = np.full((64, 64, 3), 128, np.uint8)
OPTIONS: dict[str, Any] = {"pipeline": "sd15", "steps": 1, "guide_size": 64, "max_size": 64}
BOXES = [(16, 16, 48, 48)]
MODELS = ("prepare", "sample", "composite", "segs_detailer_stages", "sd15_unet", "sd15_vae_decoder")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("access")


@pytest.fixture(scope="module")
def keys(folder: Path) -> Path:
    path = folder / "keys"
    path.write_text("\n".join([key_line("shop", KEY), key_line("guest", GUEST_KEY)]))
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def tls(folder: Path) -> Tls:
    """A client's; what the server has lies beside it."""
    authority = Authority(folder)
    server = authority.sign("server", "server", host="127.0.0.1")
    client = authority.sign("client", "client")
    assert (server.cert, server.key) == (folder / "server.pem", folder / "server.key")
    return Tls(authority.cert, client.cert, client.key)


@pytest.fixture(scope="module")
def server(sd15: Path, folder: Path, keys: Path, tls: Tls) -> Iterator[EmbeddedServer]:
    """With keys, mutual TLS and HTTP; its start has sent a canary for each pipeline."""
    files = TlsFiles(folder / "server.pem", folder / "server.key", Path(str(tls.ca)))
    with EmbeddedServer([sd15], api_keys=keys, tls=files, http_port=0) as running:
        yield running


def test_a_key_lets_in(server: EmbeddedServer, tls: Tls) -> None:
    with Client(server.grpc_url, tls=tls, api_key=KEY) as client:
        result = client.detail(PICTURE, BOXES, request_id="known", **OPTIONS)
    assert result.report.segs[0].status == "enhanced"
    wait_until(lambda: "request 'known': key 'shop'" in server.tail(500))
    assert KEY not in server.tail(500)


@pytest.mark.parametrize(("key", "message"), [(None, "is required"), ("wrong", "unknown API key")])
def test_others_stay_out(server: EmbeddedServer, tls: Tls, key: str | None, message: str) -> None:
    with (
        Client(server.grpc_url, tls=tls, api_key=key) as client,
        pytest.raises(Unauthenticated, match=message) as caught,
    ):
        client.detail(PICTURE, BOXES, request_id="r1", **OPTIONS)
    assert caught.value.request_id == "r1"
    assert not caught.value.retryable


def test_keys_change_while_it_runs(server: EmbeddedServer, tls: Tls, keys: Path) -> None:
    before = keys.read_text()
    with Client(server.grpc_url, tls=tls, api_key="segs_newer") as client:
        with pytest.raises(Unauthenticated):
            client.detail(PICTURE, BOXES, **OPTIONS)
        keys.write_text(f"{before}\n{key_line('newer', 'segs_newer')}\n")
        client.detail(PICTURE, BOXES, **OPTIONS)
        keys.write_text(before)
        with pytest.raises(Unauthenticated):
            client.detail(PICTURE, BOXES, **OPTIONS)


def test_streams_ask_too_and_are_cancelled_by_their_own_key(
    server: EmbeddedServer, tls: Tls
) -> None:
    asked = {**OPTIONS, "steps": 9000, "request_id": "streamed"}
    with (
        Client(server.grpc_url, tls=tls, api_key=KEY) as shop,
        Client(server.grpc_url, tls=tls, api_key=GUEST_KEY) as guest,
        Client(server.grpc_url, tls=tls, api_key="wrong") as stranger,
    ):
        with pytest.raises(Unauthenticated, match="unknown API key"):
            list(stranger.stream(PICTURE, BOXES, **OPTIONS))
        stream = shop.stream(PICTURE, BOXES, **asked)
        assert next(stream).event.event == "accepted"
        with pytest.raises(NotFound):
            guest.cancel("streamed")
        with pytest.raises(Unauthenticated):
            stranger.cancel("streamed")
        shop.cancel("streamed")
        with pytest.raises(Cancelled):
            list(stream)


def inputs_of(client: grpc.InferenceServerClient, model: str) -> list[grpc.InferInput]:
    """Small inputs of the types and ranks that a model takes."""
    inputs = []
    for tensor in client.get_model_metadata(model).inputs:
        shape = [1 if size == -1 else size for size in tensor.shape]
        kind = {"BYTES": np.object_, "UINT8": np.uint8, "INT64": np.int64}
        array = np.zeros(shape, kind.get(tensor.datatype, np.float32))
        if tensor.datatype == "BYTES":
            array[...] = b"{}"
        entry = grpc.InferInput(tensor.name, shape, tensor.datatype)
        entry.set_data_from_numpy(array)
        inputs.append(entry)
    return inputs


@pytest.mark.parametrize("model", MODELS)
def test_models_behind_the_front_end_refuse_every_key(server: EmbeddedServer, model: str) -> None:
    headers = {"x-api-key": KEY}
    with server.connection.open() as client:
        inputs = inputs_of(client, model)
        for parameters in ({}, {"inside": "guess"}, {"token": "1", "drop": "1"}):
            with pytest.raises(InferenceServerException) as caught:
                client.infer(model, inputs, headers=headers, parameters=parameters)
            detail = ErrorDetail.from_status_message(caught.value.message())
            assert detail is not None and detail.code == "UNAUTHENTICATED"


def test_a_controlnet_is_called_through_its_ensemble(
    server: EmbeddedServer, tls: Tls, sd15: Path
) -> None:
    name, *_ = load_all([sd15])["sd15"][0].controlnets
    with Client(server.grpc_url, tls=tls, api_key=KEY) as client:
        controlnets = [{"name": name, "image": PICTURE}]
        result = client.detail(PICTURE, BOXES, controlnets=controlnets, **OPTIONS)
    assert result.report.segs[0].status == "enhanced"


@pytest.mark.parametrize("header", ["x-api-key", "X-Api-Key", None])
def test_http_asks_too(server: EmbeddedServer, header: str | None) -> None:
    body = {
        "inputs": [
            {
                "name": "request",
                "datatype": "BYTES",
                "shape": [1],
                "data": [json.dumps(canary_request(Canary("sd15")))],
            },
            {
                "name": "image",
                "datatype": "UINT8",
                "shape": [PICTURE.size],
                "data": PICTURE.ravel().tolist(),
            },
        ]
    }
    request = urllib.request.Request(
        f"http://{server.address('http')}/v2/models/segs_detailer/infer", json.dumps(body).encode()
    )
    if header is not None:
        request.add_header(header, KEY)
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 200
    else:
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=60)
        detail = ErrorDetail.from_status_message(json.load(caught.value)["error"])
        assert detail is not None and detail.code == "UNAUTHENTICATED"


def test_a_dead_process_is_replaced_behind_tls_and_keys(server: EmbeddedServer, tls: Tls) -> None:
    for pid in [pid for name, pid in model_processes(server.pid).items() if "prepare" in name]:
        os.kill(pid, signal.SIGKILL)
    down = wait_for_the_dead(server)
    assert down.models == {"prepare"}
    server.reload(down)
    with Client(server.grpc_url, tls=tls, api_key=KEY) as client:
        client.detail(PICTURE, BOXES, **OPTIONS)


def test_the_canary_command_takes_key_and_certificates(
    server: EmbeddedServer, tls: Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["canary", "sd15", "--url", server.grpc_url, "--timeout", "30"]
    assert main(words) == 1
    for name, value in (("CA", tls.ca), ("CERT", tls.cert), ("KEY", tls.key)):
        monkeypatch.setenv(f"SEGS_TLS_{name}", str(value))
    assert main(words) == 1
    monkeypatch.setenv("SEGS_API_KEY", KEY)
    assert main(words) == 0
