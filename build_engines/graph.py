"""A checkpoint's network as a checked ONNX graph."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

from build_engines.checkpoint import Checkpoint
from build_engines.export import export_onnx
from build_engines.verify import Reference, onnxruntime_runner, references, verify
from build_engines.weights import load_network
from networks import Attention, NetworkExport
from networks.precision import lower
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
) -> tuple[Path, list[Reference]]:
    """Loads, exports and checks one network, and applies its ``rewrite``. Torch's weights are freed
    before onnxruntime loads its own. ``report`` is called :data:`STAGES` times.

    Returns the path of ``model.onnx`` in ``folder``, and torch's results before the ``rewrite``.

    Raises:
        BuildError: the weights do not fit, the export differs from torch, or the quantised network
            differs by more than allowed.
    """
    module = load_network(network, checkpoint)
    report("loaded")
    expected = references(network, module)
    report("run in torch")
    network.prepare(module, attention)
    lowered = lower(network, module, precision, [each.tensors for each in expected])
    path = export_onnx(network, lowered, folder, attention.domains)
    del module, lowered
    gc.collect()
    report("exported")
    with onnxruntime_runner(network, path, precision) as run:
        error = verify(network, run, expected, precision)
    report(f"agrees with torch (relative error {error:.1e})")
    if network.rewrite is not None:
        network.rewrite(path)
    return path, expected
