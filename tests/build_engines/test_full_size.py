"""Stable Diffusion 1.5's size: the memory that a build takes, and that the models take loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.random_checkpoint import write_checkpoint
from tests.conftest import CHECKPOINTS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
ROLES = ("text_encoder", "unet", "vae_encoder", "vae_decoder")
LOAD = """
import json, resource, sys
import onnxruntime
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sessions = [
    onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in sys.argv[1:]
]
print(json.dumps(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)))
"""


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder that is removed at once; pytest would keep its own, gigabytes, for three runs."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_memory_of_the_build_and_of_its_models(scratch: Path) -> None:
    full_size, repository = scratch / "checkpoint", scratch / "repository"
    write_checkpoint(full_size, "sd15", CHECKPOINTS / "sd15" / "tokenizer")
    weights_bytes = 2 * sum(path.stat().st_size for path in full_size.rglob("*.safetensors"))
    assert weights_bytes == pytest.approx(4.265e9, rel=0.01)

    command = ["-m", "build_engines", str(full_size), "--name", "full", "--repository"]
    process = subprocess.Popen([sys.executable, *command, str(repository)], cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert 1024 * usage.ru_maxrss <= 2.5 * weights_bytes

    models = [str(repository / f"full_{role}" / "1" / "model.onnx") for role in ROLES]
    result = subprocess.run(
        [sys.executable, "-c", LOAD, *models], capture_output=True, text=True, check=True
    )
    assert json.loads(result.stdout) <= 1.15 * weights_bytes
