"""What makes an existing build out of date."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from build_engines.fingerprint import build_versions

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("file", ["networks/unet.py", "build_engines/targets/onnx.py"])
def test_a_change_of_what_exports_is_noticed(tmp_path: Path, file: str) -> None:
    for folder in ("networks", "build_engines"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    before = build_versions(tmp_path)
    assert before == build_versions(ROOT)
    with (tmp_path / file).open("a") as code:
        code.write("# changed")
    assert build_versions(tmp_path) != before
