"""Checkpoints from strangers: lying headers, disguised pickles, bottomless JSON."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from build_engines import build, checkpoint
from build_engines.checkpoint import DiffusersFolder, read_metadata, read_tensors
from build_engines.errors import CheckpointError
from build_engines.formats import open_checkpoint
from build_engines.lora_file import read_lora
from tests.conftest import CHECKPOINTS


def tensor(
    shape: tuple[int, ...] = (2,), offsets: tuple[int, int] = (0, 8), dtype: str = "F32"
) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def content(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def of(data: bytes = bytes(8), **tensors: dict[str, Any]) -> bytes:
    return content(json.dumps(tensors).encode(), data)


HOSTILE = {
    "empty": b"",
    "no header": b"abc",
    "a longer header than file": content(b"{}", length=10**6),
    "a header of 2^63 bytes": content(b"{}", length=2**63),
    "a header of 2^64 - 1 bytes": content(b"{}", length=2**64 - 1),
    "a header of 200 MB": content(b"{}", length=200_000_000),
    "no JSON": content(b"hello"),
    "no UTF-8": content(b'{"\xff": 1}'),
    "no object": content(b"[]"),
    "a deep header": content(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "metadata of numbers": content(b'{"__metadata__": {"a": 1}}'),
    "overlap": of(bytes(12), a=tensor(), b=tensor(offsets=(4, 12))),
    "the same bytes twice": of(a=tensor(), b=tensor()),
    "a hole": of(bytes(20), a=tensor(), b=tensor(offsets=(12, 20))),
    "beyond the end": of(a=tensor((200,), (0, 800))),
    "bytes of nobody": of(bytes(800), a=tensor()),
    "another shape than length": of(a=tensor((3,))),
    "elements that wrap": of(a=tensor((2**62, 8))),
    "elements that wrap to none": of(b"", a=tensor((2**62, 4, 0), (0, 0))),
    "a negative size": of(a=tensor((-2,))),
    "a negative offset": of(a=tensor(offsets=(-8, 0))),
    "an end before the start": of(a=tensor(offsets=(8, 0))),
    "an unknown type": of(a=tensor(dtype="OBJECT")),
    "a type of half a byte": of(a=tensor((16,), dtype="F4")),
    "a pickle": pickle.dumps({"a": 1}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_lying_headers_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        list(read_tensors(path))
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        open_checkpoint(path)


def test_an_honest_header_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(of(a=tensor()))
    (read,) = read_tensors(path)
    assert (read.name, read.shape, read.read().tolist()) == ("a", (2,), [0.0, 0.0])
    assert read_metadata(path) == {}


def test_too_many_tensors_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_MOST_TENSORS", 3)
    path = tmp_path / "model.safetensors"
    many = {f"t{number}": tensor((0,), (0, 0)) for number in range(4)}
    path.write_bytes(of(b"", **many))
    with pytest.raises(CheckpointError, match="4 tensors; at most 3"):
        list(read_tensors(path))


@pytest.mark.parametrize("name", ["model.CKPT", "model.Bin"])
def test_a_pickle_is_known_however_it_is_written(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps({}))
    with pytest.raises(CheckpointError, match="can run any code"):
        open_checkpoint(tmp_path / name)


def test_bottomless_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="not readable as JSON"):
        DiffusersFolder(tmp_path).json("config.json")
    lora = tmp_path / "lora.safetensors"
    state = {f"unet.down.0.{part}.weight": torch.zeros(1, 1) for part in ("lora_A", "lora_B")}
    save_file(state, lora, {"lora_adapter_metadata": "[" * 100_000})
    with pytest.raises(CheckpointError, match="lora_adapter_metadata: not readable as JSON"):
        read_lora(lora)


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("text_encoder/config.json", "hidden_size", None),
        ("scheduler/scheduler_config.json", "beta_start", "x"),
    ],
)
def test_configs_that_do_not_fit_are_told_without_a_trace(
    tmp_path: Path, file: str, key: str, value: str | None
) -> None:
    copy = tmp_path / "checkpoint"
    shutil.copytree(CHECKPOINTS / "sd15", copy)
    config = json.loads((copy / file).read_text())
    if value is None:
        del config[key]
    else:
        config[key] = value
    (copy / file).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=key):
        build(copy, "base", tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_endless_text_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "vocab.json").open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(CheckpointError, match="longer than"):
        DiffusersFolder(tmp_path).text("vocab.json")
    (tmp_path / "vocab.json").rename(tmp_path / "adapter_config.json")
    lora = tmp_path / "adapter_model.safetensors"
    save_file({f"unet.down.0.lora_{x}.weight": torch.zeros(1, 1) for x in "AB"}, lora)
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: longer than"):
        read_lora(lora)
