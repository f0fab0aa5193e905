"""Pipelines for OpenVINO: what is refused before a network is loaded, and after."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import NoReturn

import pytest

from build_engines import TargetOptions, VerificationError, build
from build_engines.errors import BuildError
from build_engines.targets import open_target, openvino
from pipelines.cpu import require_bf16
from runners.onnx_session import NamedArrays
from runners.openvino_session import OpenvinoSession
from tests.bf16 import needs_bf16
from tests.conftest import CHECKPOINTS

pytestmark = pytest.mark.openvino


def test_a_cpu_without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "require_bf16", lambda: require_bf16(frozenset({"avx2"})))
    with pytest.raises(BuildError, match=r"avx512_bf16 .* has avx2; take --precision fp32"):
        open_target(TargetOptions("openvino"))
    assert open_target(TargetOptions("openvino", precision="fp32")).precision == "fp32"


@needs_bf16
def test_the_default_is_bf16() -> None:
    target = open_target(TargetOptions("openvino"))
    assert (target.name, target.precision, target.memory_gb) == ("openvino", "bf16", None)
    assert target.built_with() == {"openvino": importlib.metadata.version("openvino")}


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> NoReturn:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(BuildError, match="openvino needs the package openvino: pip install"):
        open_target(TargetOptions("openvino"))


def test_a_network_that_openvino_computes_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(self: OpenvinoSession, inputs: NamedArrays) -> NamedArrays:
        return {name: array * 1.01 for name, array in computed(self, inputs).items()}

    computed = OpenvinoSession.run
    monkeypatch.setattr(OpenvinoSession, "run", run)
    with pytest.raises(VerificationError, match=r"text_encoder at .* differs from torch"):
        build(CHECKPOINTS / "sd15", "sd15", tmp_path, TargetOptions("openvino", precision="fp32"))
    assert not list(tmp_path.glob("sd15*"))
