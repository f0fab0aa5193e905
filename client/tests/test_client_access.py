"""API key and TLS: what is given, what the environment says, and what travels."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from fake_server import FakeTriton, serving
from PIL import Image

from segs_client import Client, InvalidRequest, Tls, Unauthenticated, access, cli
from segs_client.contract import API_KEY_HEADER, ErrorDetail
from segs_client.server_flags import add_server_flags, server_settings

PICTURE = np.zeros((16, 16, 3), np.uint8)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEGS_API_KEY", "SEGS_TLS", "SEGS_TLS_CA", "SEGS_TLS_CERT", "SEGS_TLS_KEY"):
        monkeypatch.delenv(name, raising=False)


def test_a_key_becomes_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    assert access.headers(None) == {}
    assert access.headers("secret") == {API_KEY_HEADER: "secret"}
    monkeypatch.setenv("SEGS_API_KEY", "other")
    assert access.headers(None) == {API_KEY_HEADER: "other"}
    assert access.headers("secret") == {API_KEY_HEADER: "secret"}


@pytest.mark.parametrize("key", ["two\nlines", "sp ace", "schlüssel", "k" * 1025])
def test_a_malformed_key_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(InvalidRequest, match="api_key") as caught:
        Client(api_key=key)
    assert key not in str(caught.value)


def test_tls_as_given_or_as_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert access.connection(None) == access.connection(False) == {}
    assert access.connection(True) == {"ssl": True}
    given = Tls(ca="ca.pem", cert=Path("c.pem"), key="k.pem")
    names = {"root_certificates": "ca.pem", "certificate_chain": "c.pem", "private_key": "k.pem"}
    assert access.connection(given) == {"ssl": True, **names}
    monkeypatch.setenv("SEGS_TLS", "1")
    assert access.connection(None) == {"ssl": True}
    monkeypatch.setenv("SEGS_TLS", "0")
    assert access.connection(None) == {}
    monkeypatch.setenv("SEGS_TLS_CA", "mine.pem")
    assert access.connection(None) == {"ssl": True, "root_certificates": "mine.pem"}
    assert access.connection(False) == {}
    monkeypatch.setenv("SEGS_TLS", "yes")
    monkeypatch.delenv("SEGS_TLS_CA")
    with pytest.raises(InvalidRequest, match="SEGS_TLS: unknown value 'yes'"):
        access.connection(None)


def test_half_an_identity_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="belong together"):
        Tls(cert="c.pem")


def gate(request: Any, context: grpc.ServicerContext) -> dict[str, bytes]:
    """Knows one key."""
    if dict(context.invocation_metadata()).get(API_KEY_HEADER) != "right":
        detail = ErrorDetail(code="UNAUTHENTICATED", message="unknown key", request_id=request.id)
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, detail.to_status_message())
    context.abort(grpc.StatusCode.UNAVAILABLE, "let in")
    return {}


def test_the_command_line_takes_the_key_from_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photo, key = tmp_path / "photo.png", tmp_path / "key"
    Image.fromarray(PICTURE).save(photo)
    key.write_text("right\n")
    with serving(FakeTriton(gate)) as url:
        words = [str(photo), "--box", "0,0,8,8", "--pipeline", "base", "--url", url]
        words += ["-o", str(tmp_path / "out.png"), "--retries", "0"]
        assert cli.main(words) == cli.WRONG_INPUT
        assert "unknown key" in capsys.readouterr().err
        assert cli.main([*words, "--api-key-file", str(key)]) == cli.SERVER_TROUBLE
        assert "let in" in capsys.readouterr().err
        monkeypatch.setenv("SEGS_API_KEY", "wrong")
        with Client(url, pipeline="base") as client, pytest.raises(Unauthenticated):
            client.detail(PICTURE, [(0, 0, 8, 8)])
        assert cli.main([*words, "--api-key-file", str(tmp_path / "none")]) == cli.WRONG_INPUT


def test_the_command_line_takes_certificates() -> None:
    parser = argparse.ArgumentParser()
    add_server_flags(parser.add_argument_group())

    def tls(*flags: str) -> Any:
        return server_settings(parser.parse_args(flags))["tls"]

    assert tls() is None
    assert tls("--tls") is True
    assert tls("--tls-ca", "ca.pem") == Tls(ca=Path("ca.pem"))


def test_certificates_of_the_environment_complete_the_flags(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parser = argparse.ArgumentParser()
    add_server_flags(parser.add_argument_group())
    monkeypatch.setenv("SEGS_TLS_CA", "ca.pem")
    given = parser.parse_args(["--tls-cert", "mine.pem", "--tls-key", "mine.key"])
    assert server_settings(given)["tls"] == Tls("ca.pem", Path("mine.pem"), Path("mine.key"))
    given = parser.parse_args(["--tls-ca", "other.pem"])
    assert server_settings(given)["tls"] == Tls(Path("other.pem"))
