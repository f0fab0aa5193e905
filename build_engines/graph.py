"""A checkpoint's network as a checked ONNX graph."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import torch

from build_engines.checkpoint import Checkpoint
from build_engines.export import export_onnx
from build_engines.networks import Attention, NetworkExport
from build_engines.precision import lower
from build_engines.verify import references, verify
from pipelines.descriptor import Precision

STAGES = 4


def write_graph(
    network: NetworkExport,
    checkpoint: Checkpoint,
    folder: Path,
    report: Callable[[str], object],
    *,
    precision: Precision,
    attention: Attention,
) -> Path:
    """Loads, exports and checks one network; torch's weights are let go before onnxruntime gets
    its own. ``report`` is called :data:`STAGES` times.

    Returns the path of ``model.onnx`` in ``folder``.

    Raises:
        BuildError: the weights do not fit, or the export differs from torch.
    """
    module = network.load(checkpoint)
    report("loaded")
    expected = references(network, module)
    report("run in torch")
    probes = [[torch.from_numpy(array) for array in each.inputs.values()] for each in expected]
    network.prepare(module, attention)
    lowered = lower(network, module, precision, probes)
    path = export_onnx(network, lowered, folder, attention.domains)
    del module, lowered
    gc.collect()
    report("exported")
    error = verify(network, path, expected, precision)
    report(f"agrees with torch (relative error {error:.1e})")
    return path
