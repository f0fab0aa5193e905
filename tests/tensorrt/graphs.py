"""The graphs that TensorRT is given: every kind of network, in every precision."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from build_engines.attention import PLAIN
from build_engines.checkpoint import Checkpoint
from build_engines.export import MODEL_FILE, export_onnx
from build_engines.fingerprint import build_versions
from build_engines.formats import open_checkpoint
from build_engines.options import PRECISIONS
from build_engines.pipeline import open_pipeline
from build_engines.weights import load_network
from networks import NetworkExport
from networks.precision import lower
from pipelines.descriptor import Precision
from tests.conftest import CHECKPOINTS, CONTROLNET, PIPELINES

FOLDER = Path(__file__).parent.parent.parent / "build" / "tests_tensorrt"


@dataclass(frozen=True)
class Part:
    """A network of one of the small pipelines."""

    pipeline: str
    network: NetworkExport
    checkpoint: Checkpoint

    def __str__(self) -> str:
        return f"{self.pipeline}-{self.network.role}"


def parts() -> Iterator[Part]:
    """One of each configuration: pipelines that share a network give it once."""
    seen = set()
    for name in PIPELINES:
        controlnets = {CONTROLNET: CHECKPOINTS / CONTROLNET} if name == "sd15" else {}
        checkpoint = open_checkpoint(CHECKPOINTS / name)
        for network, source in open_pipeline(name, checkpoint, controlnets, None).exports:
            key = (type(network), json.dumps(network.config, sort_keys=True), len(network.inputs))
            if str(key) not in seen:
                seen.add(str(key))
                yield Part(name, network, source)


PARTS = {str(part): part for part in parts()}
ALL = [(name, precision) for name in PARTS for precision in PRECISIONS]


def export(name: str, precision: Precision) -> Path:
    """The graph of a part, kept between runs; made again when the code that makes it changes."""
    made_by = hashlib.sha256(json.dumps(build_versions(), sort_keys=True).encode()).hexdigest()
    folder = FOLDER / made_by[:16] / f"{name}-{precision}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            scratch = Path(made) / "making"
            scratch.mkdir()
            _export(PARTS[name], precision, scratch)
            with contextlib.suppress(OSError):  # another worker was faster
                scratch.rename(folder)
        _remove_older(folder.parent)
    return folder / MODEL_FILE


def _export(part: Part, precision: Precision, folder: Path) -> None:
    network = part.network
    module = load_network(network, part.checkpoint)
    example = network.example(network.cases()[0], torch.Generator().manual_seed(0))
    network.prepare(module, PLAIN)
    lowered = lower(network, module, precision, [list(example.values())])
    export_onnx(network, lowered, folder, PLAIN.domains)


def _remove_older(current: Path) -> None:
    for folder in current.parent.iterdir():
        if folder != current:
            shutil.rmtree(folder)
