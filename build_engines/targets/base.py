"""What a build needs to know of what will run its networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from build_engines.checkpoint import Checkpoint
from networks import NetworkExport
from pipelines.descriptor import EngineSpec, Precision, TargetName

StageDone = Callable[[str], object]
"""Is told, once for each of :attr:`Target.stages`, that it is done."""


class Target(Protocol):
    """Makes the files of a Triton model."""

    @property
    def name(self) -> TargetName:
        """As in the descriptor."""

    @property
    def precision(self) -> Precision:
        """Of weights and activations."""

    @property
    def memory_gb(self) -> float | None:
        """Of the GPU that the models are for; None for a CPU."""

    @property
    def engine(self) -> EngineSpec | None:
        """What the models are tied to."""

    @property
    def stages(self) -> int:
        """How often :meth:`write` reports."""

    def built_with(self) -> dict[str, str]:
        """Options and versions that decide the result, beside those of every build."""

    def configure(self, config: Any, network: NetworkExport) -> None:
        """Fills in what Triton's model config says of the target alone: backend, instances."""

    def write(
        self, network: NetworkExport, checkpoint: Checkpoint, folder: Path, report: StageDone
    ) -> None:
        """Writes the files of one model into the folder of its version, checked.

        Raises:
            BuildError: the network cannot be made, or does not compute what the checkpoint's does.
        """
