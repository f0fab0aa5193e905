"""Full sizes: the memory that a build takes, that its models take, and that loading takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.random_checkpoint import write_checkpoint, write_single_file
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

LOAD_CHECKPOINT = """
import gc, sys
from pathlib import Path
from build_engines.formats import open_checkpoint
from build_engines.pipeline import open_pipeline
from build_engines.weights import load_network
for network, checkpoint in open_pipeline("x", open_checkpoint(Path(sys.argv[1])), {}).exports:
    module = load_network(network, checkpoint)
    del module
    gc.collect()
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


@pytest.mark.parametrize("size", ["sd15", "sdxl"])
def test_memory_of_loading_a_single_file(scratch: Path, size: str) -> None:
    path = scratch / "checkpoint.safetensors"
    write_single_file(path, size)
    process = subprocess.Popen([sys.executable, "-c", LOAD_CHECKPOINT, str(path)], cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert 1024 * usage.ru_maxrss <= 1.3 * 2 * path.stat().st_size  # as float32
