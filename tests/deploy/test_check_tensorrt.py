"""The GPU image's check of its TensorRT, with stand-ins for the package and the backend's."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from deploy.docker import check_tensorrt
from pipelines.libnvinfer import LibraryError


@pytest.fixture
def linked(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Triton's backend runs with 11.2.1; the list gets what was asked about."""
    asked: list[Path] = []

    def linked_version(file: Path) -> str:
        asked.append(file)
        return "11.2.1"

    monkeypatch.setattr(check_tensorrt, "linked_version", linked_version)
    return asked


def _package(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    module = ModuleType("tensorrt")
    module.__dict__["__version__"] = version
    monkeypatch.setitem(sys.modules, "tensorrt", module)


def test_one_version(linked: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    _package(monkeypatch, "11.2.1.2")
    assert check_tensorrt.check() == "11.2.1"
    assert linked == [check_tensorrt.BACKEND]


def test_two_versions(linked: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    _package(monkeypatch, "11.4.0.106")
    with pytest.raises(ValueError, match=r"tensorrt is 11\.4\.0\.106, .* runs with 11\.2\.1;"):
        check_tensorrt.check()


def test_no_package(linked: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ImportError, match="tensorrt"):
        check_tensorrt.check()


def test_no_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _package(monkeypatch, "11.2.1.2")
    with pytest.raises(LibraryError, match=r"libtriton_tensorrt\.so"):
        check_tensorrt.check(tmp_path / "libtriton_tensorrt.so")
