"""A pipeline whose networks only take a GPU's time: what batching buys there, without one.

``python -m benchmarks.standin DIR`` writes it; ``python -m serving serve --repository DIR``
serves it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_curve import CONTEXT_DIM, FLAT_ROWS, Curve, curves
from benchmarks.rewritten import rewrite
from build_engines import build
from pipelines import load_all
from pipelines.descriptor import Network
from runners.in_process import LocalDetailer, LocalNetworks, TimedBatch
from sampling.program import Tensors

PROJECT = Path(__file__).resolve().parent.parent
CHECKPOINTS = PROJECT / "tests" / "data" / "checkpoints"
"""Tiny ones, with random weights."""
NAME = "standin"
_MODEL = "from benchmarks.standin_model import StandInModel as TritonPythonModel  # noqa: F401\n"


def tiny_repository() -> Path:
    """A folder with the pipeline ``tiny`` of the tests' checkpoint, built where needed."""
    repository = PROJECT / "build" / "benchmarks"
    build(CHECKPOINTS / "sd15", "tiny", repository)
    return repository


def write_standin(folder: Path, source: Path, using: Mapping[str, Curve]) -> None:
    """Writes the pipeline ``standin``: the names, shapes and limits of ``source``'s only pipeline,
    SD1.5's width of context, and no weights."""
    device = str((folder / "device.lock").resolve())

    def write(role: str, version: Path, config: Any) -> None:
        (version / "model.py").write_text(_MODEL)
        config.backend = "python"
        curve = using[role]
        parameters = {
            "role": curve.role,
            "floor_s": str(curve.floor_s),
            "flat_rows": str(curve.flat_rows),
            "device": device,
        }
        for key, value in parameters.items():
            config.parameters[key].string_value = value

    rewrite(source, folder, NAME, context_dim=CONTEXT_DIM, write=write)


class StandInNetworks(LocalNetworks):
    """The same stand-ins in this process, for the plain loop."""

    def __init__(self, repository: Path, using: Mapping[str, Curve]) -> None:
        super().__init__([repository])
        descriptor, _ = load_all([repository])[NAME]
        self._networks = {
            network.model: (network, using[role]) for role, network in descriptor.networks.items()
        }

    async def run(self, network: str, inputs: Tensors) -> Tensors:
        """One batch; it blocks the loop, as a plain program waits for its GPU."""
        known, curve = self._networks[network]
        shape = tuple(inputs[_first(known)].shape)
        seconds = curve.seconds(shape)
        time.sleep(seconds)
        self.calls.append(TimedBatch(network, shape[0], seconds))
        (output,) = known.outputs
        return {output: torch.zeros(curve.output_shape(shape))}


def _first(network: Network) -> str:
    return next(iter(network.inputs))


def local_standin(repository: Path, using: Mapping[str, Curve]) -> LocalDetailer:
    """The stand-in pipeline in this process."""
    local = LocalDetailer([repository])
    local.networks = StandInNetworks(repository, using)
    return local


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the pipeline."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.standin", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", type=float, default=1.0, help="times slower (default: 1)")
    parser.add_argument("--flat-rows", type=float, default=FLAT_ROWS, help="rows at one row's cost")
    arguments = parser.parse_args(argv)
    using = curves(arguments.scale, arguments.flat_rows)
    write_standin(arguments.folder, tiny_repository(), using)
    return 0


if __name__ == "__main__":
    sys.exit(main())
