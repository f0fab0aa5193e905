"""API keys, without a server."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from segs_client.contract import ContractError
from serving.__main__ import main
from triton_models import api_keys, environment
from triton_models.api_keys import ApiKey, ApiKeys, hash_key, parse_keys, read_keys
from triton_models.errors import KeyFileError

HASH = hash_key("right")


def parameters(**named: object) -> str:
    return json.dumps(named)


def with_key(key: str) -> str:
    return parameters(**{"x-api-key": key, "timeout": 5})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"# callers\n\nshop:{HASH}\nbatch:{hash_key('other')}\n")
    path.chmod(0o640)
    return path


def test_a_key_has_a_name(file: Path) -> None:
    keys = ApiKeys(file)
    assert keys.check(with_key("right")) == "shop"
    assert keys.check(with_key("other")) == "batch"
    assert keys.check(parameters(**{"X-Api-Key": "right"})) == "shop"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an API key is required, as metadata x-api-key"),
        ("{}", "an API key is required"),
        (parameters(timeout=1), "an API key is required"),
        (parameters(**{"x-api-key": 5}), "an API key is required"),
        ('{"x-api-key": nan}', "an API key is required"),
        ("[" * 100_000, "an API key is required"),
        (with_key("wrong"), "unknown API key"),
        (with_key(""), "unknown API key"),
        (with_key(HASH), "unknown API key"),
    ],
)
def test_others_are_refused_without_their_key_in_the_answer(
    file: Path, text: str, message: str
) -> None:
    with pytest.raises(ContractError, match=message) as caught:
        ApiKeys(file).check(text)
    detail = caught.value.detail
    assert detail.code == "UNAUTHENTICATED"
    assert "wrong" not in detail.model_dump_json()


def test_the_file_is_read_again_when_it_changes(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = ApiKeys(file)
    file.write_text(f"new:{hash_key('newer')}\n")
    assert keys.check(with_key("newer")) == "new"
    with pytest.raises(ContractError):
        keys.check(with_key("right"))
    with caplog.at_level(logging.ERROR):
        file.write_text("new:short\n")
        assert keys.check(with_key("newer")) == "new"
        file.unlink()
        assert keys.check(with_key("newer")) == "new"
        assert keys.check(with_key("newer")) == "new"
    logged = [record.getMessage() for record in caplog.records]
    assert len(logged) == 2
    assert "line 1: key of 'new': 64 hex digits" in logged[0]
    assert "No such file" in logged[1]


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        (f"a:{HASH}", [("a", HASH)]),
        (f" a:{HASH} \r\na:{'0' * 64}\n", [("a", HASH), ("a", "0" * 64)]),
        (f'{{"a": "{HASH}"}}', [("a", HASH)]),
        (f'\n {{"a": ["{HASH}", "{"0" * 64}"], "b": []}}', [("a", HASH), ("a", "0" * 64)]),
    ],
)
def test_both_forms_are_read(content: str, keys: list[tuple[str, str]]) -> None:
    assert [tuple(key) for key in parse_keys(content)] == keys


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("segs_secret-key", "line 1: key of 'segs_secret-key'"),
        ("a:segs_secret-key", "line 1: key of 'a': 64 hex digits of its SHA-256"),
        (f"#\na b:{HASH}", "line 2: name 'a b'"),
        (f"{'n' * 65}:{HASH}", "line 1: name"),
        ('{"a": 5}', "a JSON object of names and hashes"),
        ('{"a": [5]}', "key of 'a'"),
        ('{"a":', "not valid JSON"),
        ('{"a":' + "[" * 100_000, "not valid JSON"),
    ],
)
def test_what_is_no_file_of_keys_is_named_without_its_secrets(content: str, message: str) -> None:
    with pytest.raises(KeyFileError, match=message) as caught:
        parse_keys(content)
    assert "a:segs_secret" not in str(caught.value)


def test_files_open_to_others_are_refused(file: Path, tmp_path: Path) -> None:
    file.chmod(0o660)
    with pytest.raises(KeyFileError, match="others can write it; chmod go-w"):
        read_keys(file)
    with pytest.raises(KeyFileError, match="No such file"):
        read_keys(tmp_path / "none")
    with pytest.raises(KeyFileError, match=r"not a regular file|Is a directory"):
        read_keys(tmp_path)
    file.chmod(0o600)
    file.write_text("# none\n")
    with pytest.raises(KeyFileError, match="holds no key; make one with"):
        read_keys(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(KeyFileError, match="not a text file"):
        read_keys(file)


def test_files_of_other_users_are_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = file.stat().st_uid
    if owner == 0:
        os.chown(file, 4321, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    with pytest.raises(KeyFileError, match="belongs to user"):
        read_keys(file)


def test_a_new_key_is_accepted(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new-key", "shop"]) == 0
    key, line = capsys.readouterr().out.splitlines()
    assert len(key) > 45
    file.write_text(line)
    assert ApiKeys(file).check(with_key(key)) == "shop"
    assert main(["new-key", "no name"]) == 1


def test_the_environment_says_whether_keys_are_asked_for(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(environment.API_KEYS, raising=False)
    assert api_keys.keys_of_environment() is None
    monkeypatch.setenv(environment.API_KEYS, str(file))
    monkeypatch.setenv(environment.CANARY_KEY_SHA256, hash_key("canary"))
    keys = api_keys.keys_of_environment()
    assert keys is not None
    assert keys.check(with_key("canary")) == "canary"
    assert ApiKeys(file, [ApiKey("x", hash_key("canary"))]).check(with_key("canary")) == "x"
