"""The client's paste makes the server's picture of the crops that came back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segs_client import paste
from tests.conftest import GOLDEN
from tests.golden.cases import read
from tests.golden.runners import EngineRunner


@pytest.mark.parametrize("name", ["feature-base", "feature-scaled_segs", "feature-soft_mask"])
def test_client_and_server_paste_the_same(name: str, repository: Path) -> None:
    case = read(GOLDEN / f"{name}.npz")
    result = EngineRunner(repository).run(case)
    pasted = np.asarray(paste(case.image, result.segs, **case.options["paste"]), np.int64)
    assert result.image is not None
    assert case.pasted is not None
    assert np.abs(pasted - np.asarray(result.image)).max() <= 1
    assert np.abs(pasted - case.pasted).max() <= 1
