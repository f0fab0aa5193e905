"""The interface of a target, which makes the files that a runtime needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from build_engines.checkpoint import Checkpoint
from networks import NetworkExport
from pipelines.descriptor import EngineSpec, Precision, TargetName

StageDone = Callable[[str], object]
"""Called after each of the :attr:`Target.stages`."""


class Target(Protocol):
    """Makes the files of a Triton model."""

    @property
    def name(self) -> TargetName:
        """The name in the descriptor."""

    @property
    def precision(self) -> Precision:
        """The precision of weights and activations."""

    @property
    def memory_gb(self) -> float | None:
        """Memory of the GPU that the models are for; None for a CPU."""

    @property
    def engine(self) -> EngineSpec | None:
        """The TensorRT version and GPU that the models are tied to."""

    @property
    def stages(self) -> int:
        """Number of reports of :meth:`write`."""

    def built_with(self) -> dict[str, str]:
        """Further options and versions that decide the result."""

    def configure(self, config: Any, network: NetworkExport) -> None:
        """Sets the target's fields of Triton's model config: backend, instances."""

    def write(
        self, network: NetworkExport, checkpoint: Checkpoint, folder: Path, report: StageDone
    ) -> None:
        """Writes and checks the files of one model in the folder of its version.

        Raises:
            BuildError: the network cannot be built, or differs from the checkpoint's.
        """
