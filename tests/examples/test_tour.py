"""The tour of the client, taken through a real server."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples import tour
from serving.server import EmbeddedServer


def test_all_ten_steps(
    server: EmbeddedServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(tour.STEPS) == 10
    assert tour.main([server.grpc_url, "--pipeline", "sd15", "--output", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "10. A request that breaks the contract is refused" in said
    assert "euler" in said, "the refusal names what is allowed"
    assert "green eyes; red hat" in said
    before = np.asarray(Image.open(tmp_path / "picture.png")).astype(int)
    after = np.asarray(Image.open(tmp_path / "detailed.png")).astype(int)
    half = np.asarray(Image.open(tmp_path / "half.png")).astype(int)
    assert 0 < np.abs(after - before).max(axis=2).astype(bool).mean() < 0.5
    assert np.abs(half - before).max() > 0
    assert Image.open(tmp_path / "compare.png").width > 2 * before.shape[1]
