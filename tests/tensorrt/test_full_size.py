"""Engines of SD1.5's size, with random weights, from a real builder; INFO logs have the figures."""

from __future__ import annotations

import gc
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from build_engines.pipeline import SourcePipeline
from build_engines.weights import load_network
from pipelines.descriptor import Precision
from tests.build_engines.test_full_size_graphs import FullSize, examples, export, part
from tests.tensorrt.rtx import MEMORIES_GB, build_ahead

pytestmark = pytest.mark.slow

log = logging.getLogger(__name__)

SMALL, MIDDLE, LARGE = MEMORIES_GB
MEMORY = re.compile(r"Total (Activation|Weights) Memory: (\d+) bytes")


@pytest.fixture(scope="module")
def sd15() -> Iterator[SourcePipeline]:
    with FullSize("sd15") as pipeline:
        yield pipeline


@pytest.mark.parametrize(
    ("role", "precision", "memory_gb"),
    [
        ("text_encoder", "fp16", MIDDLE),
        ("unet", "fp16", SMALL),
        ("unet", "fp16", MIDDLE),
        ("unet", "fp16", LARGE),
        ("controlnet_x", "fp16", MIDDLE),
        ("vae_encoder", "fp16", MIDDLE),
        ("vae_decoder", "fp32", SMALL),
        ("vae_decoder", "fp16", SMALL),
        ("vae_decoder", "fp16", LARGE),
    ],
)
def test_an_engine_fits_its_gpu(
    sd15: SourcePipeline,
    role: str,
    precision: Precision,
    memory_gb: float,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As TensorRT states it: the weights, and the activations of the largest profile."""
    network, checkpoint = part(sd15, role)
    module = load_network(network, checkpoint)
    probes = examples(network, network.cases()[:1])
    graph = export(network, module, tmp_path / "graph", precision, probes)
    del module
    gc.collect()
    begun_s = time.monotonic()
    with caplog.at_level(logging.DEBUG, "tensorrt"):
        plan = build_ahead(network, graph, precision, memory_gb, tmp_path / "model.plan")
    taken_s = time.monotonic() - begun_s
    memory: dict[str, list[float]] = {"Activation": [], "Weights": []}
    for kind, count in MEMORY.findall(caplog.text):
        memory[kind].append(int(count) / 1e9)
    assert len(memory["Activation"]) == len(network.profiles(memory_gb))
    log.info(
        "%s %s for %.0f GB: plan %.2f GB in %.0f s, weights %.2f GB, activations %s GB",
        *(role, precision, memory_gb, plan.stat().st_size / 1e9, taken_s, *memory["Weights"]),
        ", ".join(f"{each:.2f}" for each in memory["Activation"]),
    )
    assert max(memory["Activation"]) + sum(memory["Weights"]) < memory_gb
