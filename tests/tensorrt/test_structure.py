"""Which graphs an engine can be refitted with: those that differ in weights alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from build_engines.options import PRECISIONS
from build_engines.tensorrt.structure import read_structure
from pipelines.descriptor import Precision
from tests.tensorrt.conftest import write_graph
from tests.tensorrt.graphs import PARTS, export


def test_other_weights_are_the_same_structure(graph: Path, tmp_path: Path) -> None:
    other = write_graph(tmp_path / "other", seed=1)
    data = [path.with_name("model.onnx.data").read_bytes() for path in (graph, other)]
    assert data[0] != data[1]
    assert read_structure(graph) == read_structure(other)
    assert read_structure(graph).weights == {"weight", "bias"}
    assert read_structure(graph).constants == {"two", "table"}


@pytest.mark.parametrize("change", [{"table": 3}, {"channels": 8}])
def test_anything_else_is_another(graph: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    other = write_graph(tmp_path / "other", seed=0, **change)
    assert read_structure(graph).digest != read_structure(other).digest


@pytest.mark.parametrize("precision", PRECISIONS)
def test_of_the_networks_only_the_vaes_are_alike(precision: Precision) -> None:
    digests = {name: read_structure(export(name, precision)).digest for name in PARTS}
    for role in ("vae_encoder", "vae_decoder"):
        assert digests.pop(f"sdxl-{role}") == digests[f"sd15-{role}"]
    assert len(set(digests.values())) == len(digests)
