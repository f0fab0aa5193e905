"""A pipeline's files against its descriptor, before a server starts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines import PipelineError, files, load_all
from pipelines.files import check_files
from serving.errors import RepositoryError
from serving.server import EmbeddedServer

PIPELINE = "sd15"


@pytest.fixture
def folder(repository: Path, tmp_path: Path) -> Path:
    """A copy of one pipeline with its ControlNet."""
    descriptor, _ = load_all([repository])[PIPELINE]
    for model in descriptor.models:
        shutil.copytree(repository / model, tmp_path / model)
    name = f"{PIPELINE}.pipeline.json"
    shutil.copy2(repository / name, tmp_path / name)
    return tmp_path


def test_what_was_built_passes(folder: Path) -> None:
    check_files([folder])


def flip(path: Path) -> None:
    """Changes one bit, and neither the size nor the time of the last change."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def slip_in(path: Path) -> None:
    """Puts a module beside a model, which its stub would import before the real one."""
    path.write_text("import os")


def link(path: Path) -> None:
    path.symlink_to("/etc")


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        (flip, f"{PIPELINE}_unet/1/model.onnx.data", "has changed"),
        (flip, f"{PIPELINE}_controlnet_controlnet/1/model.onnx", "has changed"),
        (flip, f"{PIPELINE}_unet_controlnet/config.pbtxt", "has changed"),
        (flip, f"{PIPELINE}_text_encoder/tokenizer.json", "has changed"),
        (Path.unlink, f"{PIPELINE}_vae_encoder/1/model.onnx", "is missing"),
        (slip_in, f"{PIPELINE}_unet/1/numpy.py", "is no part of it"),
        (link, f"{PIPELINE}_unet/1/more", "is no part of it"),
    ],
)
def test_every_difference_is_named(
    folder: Path, change: Callable[[Path], None], name: str, message: str
) -> None:
    check_files([folder])
    change(folder / name)
    with pytest.raises(PipelineError, match=f"{name} {message}.*--no-verify"):
        check_files([folder])


def test_what_belongs_to_no_pipeline_is_named(folder: Path) -> None:
    shutil.copytree(folder / f"{PIPELINE}_unet", folder / "stranger")
    (folder / f".{PIPELINE}.building").mkdir()  # a build under way, or one that was killed
    (folder / "lost+found").mkdir()
    with pytest.raises(PipelineError, match=r"belongs to no pipeline: stranger\. "):
        check_files([folder])


def test_nothing_is_hashed_twice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_files([folder])
    monkeypatch.setattr(files, "sha256", lambda path: pytest.fail(f"{path} again"))
    check_files([folder])


def test_a_file_that_is_being_written_has_changed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = files.sha256

    def slow(path: Path) -> str:
        found = real(path)
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
        return found

    monkeypatch.setattr(files, "sha256", slow)
    with pytest.raises(PipelineError, match="has changed"):
        check_files([folder])


def test_a_server_does_not_start_with_changed_files(folder: Path) -> None:
    flip(folder / f"{PIPELINE}_unet/1/model.onnx.data")
    with pytest.raises(RepositoryError, match=r"pipeline 'sd15' .* is not as it was built"):
        EmbeddedServer([folder]).start()
