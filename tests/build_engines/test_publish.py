"""A build comes into place whole or not at all."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from build_engines.publish import publish, staging
from tests.build_engines.conftest import snapshot

MODELS = ["p_unet", "p_vae_encoder", "p_vae_decoder"]
DESCRIPTOR = "p.pipeline.json"


def write(folder: Path, content: str) -> None:
    for model in MODELS:
        (folder / model / "1").mkdir(parents=True)
        (folder / model / "1" / "model.onnx").write_text(content)
    (folder / DESCRIPTOR).write_text(content)


@pytest.mark.parametrize("rebuild", [False, True])
def test_everything_comes_into_place(tmp_path: Path, rebuild: bool) -> None:
    if rebuild:
        write(tmp_path, "old")
    with staging(tmp_path, "p") as staged:
        write(staged, "new")
        publish(staged, tmp_path, MODELS, DESCRIPTOR)
    assert len(snapshot(tmp_path)) == len(MODELS) + 1
    assert set(snapshot(tmp_path).values()) == {b"new"}


def test_models_that_the_new_build_lacks_go_away(tmp_path: Path) -> None:
    write(tmp_path, "old")
    with staging(tmp_path, "p") as staged:
        (staged / "p_unet").mkdir()
        (staged / DESCRIPTOR).write_text("new")
        publish(staged, tmp_path, MODELS, DESCRIPTOR)
    assert sorted(path.name for path in tmp_path.iterdir()) == [DESCRIPTOR, "p_unet"]


@pytest.mark.parametrize("failing", range(2 * (len(MODELS) + 1)))
@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
def test_a_failed_rename_puts_the_old_build_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int, kind: type[BaseException]
) -> None:
    write(tmp_path, "old")
    before = snapshot(tmp_path)
    rename = Path.rename
    calls = 0

    def failing_rename(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == failing + 1:
            raise kind
        # No state in between has both a descriptor and changed models.
        changed = any(
            (tmp_path / model / "1" / "model.onnx").exists()
            and (tmp_path / model / "1" / "model.onnx").read_text() == "new"
            for model in MODELS
        )
        if calls <= failing:
            assert not (changed and (tmp_path / DESCRIPTOR).exists())
        return rename(self, target)

    with pytest.raises(kind), staging(tmp_path, "p") as staged:
        write(staged, "new")
        monkeypatch.setattr(Path, "rename", failing_rename)
        publish(staged, tmp_path, MODELS, DESCRIPTOR)
    assert snapshot(tmp_path) == before


def test_what_a_killed_build_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".p.building"
    write(left, "half")
    with staging(tmp_path, "p") as staged:
        assert staged == left
        assert list(staged.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def test_a_second_build_of_the_same_name_waits(tmp_path: Path) -> None:
    entered = threading.Event()

    def second() -> None:
        with staging(tmp_path, "p") as staged:
            assert list(staged.iterdir()) == []
            entered.set()

    thread = threading.Thread(target=second)
    with staging(tmp_path, "p") as staged:
        thread.start()
        assert not entered.wait(0.3)
        write(staged, "first")
    thread.join(10)
    assert entered.is_set()
    assert list(tmp_path.iterdir()) == []
