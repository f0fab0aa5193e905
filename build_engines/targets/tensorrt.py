"""TensorRT engines for Triton's own backend, tied to one TensorRT and one kind of GPU."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonclient.grpc import model_config_pb2

from build_engines.attention import PLAIN
from build_engines.checkpoint import Checkpoint
from build_engines.errors import BuildError, RefitError, VerificationError
from build_engines.graph import STAGES, write_graph
from build_engines.options import TargetOptions
from build_engines.publish import published
from build_engines.targets.base import StageDone
from build_engines.tensorrt import EngineBuilder, Job, find_builder
from build_engines.tensorrt.job import PLAN_FILE
from build_engines.tensorrt.structure import read_structure
from build_engines.verify import Reference, run_quantized, verify, write_first
from networks import NetworkExport
from pipelines.descriptor import EngineSpec, Precision, Quantization, TargetName
from pipelines.files import write_flushed
from pipelines.gpu import Gpu, GpuError, find_gpus

log = logging.getLogger(__name__)

RECORD_FILE = "engine.json"
"""The record of a refittable engine's source without its weights, beside its plan."""
_BF16_SINCE = 8.0


def open_tensorrt(options: TargetOptions) -> TensorRtTarget:
    """The target for the GPU and the TensorRT of this machine.

    Raises:
        BuildError: one of them is not here, or the GPU lacks the precision.
    """
    try:
        gpu = find_gpus()[0]
    except GpuError as error:
        raise BuildError(
            f"target: tensorrt builds on the GPU that it builds for: {error}"
        ) from None
    precision = options.precision or "fp16"
    if precision == "bf16" and float(gpu.compute_capability) < _BF16_SINCE:
        raise BuildError(
            f"precision: bf16 needs compute capability {_BF16_SINCE}; "
            f"{gpu.name} has {gpu.compute_capability}"
        )
    if options.weight_streaming:
        log.warning("Triton sets no budget for weight streaming: all weights stay on the GPU")
    return TensorRtTarget(find_builder(), gpu, precision, options)


@dataclass(frozen=True)
class TensorRtTarget:
    """``model.plan`` on a GPU."""

    builder: EngineBuilder
    gpu: Gpu
    precision: Precision
    options: TargetOptions
    name: TargetName = "tensorrt"
    stages: int = STAGES + 1

    @property
    def memory_gb(self) -> float:
        """See :attr:`Target.memory_gb`."""
        return self.options.memory_gb or self.gpu.memory_gb

    @property
    def engine(self) -> EngineSpec:
        """See :attr:`Target.engine`."""
        return EngineSpec(
            tensorrt=self.builder.version,
            gpu=self.gpu.name,
            compute_capability=self.gpu.compute_capability,
        )

    def built_with(self) -> dict[str, str]:
        """See :meth:`Target.built_with`."""
        return {
            "tensorrt": self.builder.version,
            "gpu": f"{self.gpu.name} ({self.gpu.compute_capability})",
            "memory_gb": f"{self.memory_gb:.1f}",
            "optimization_level": str(self.options.optimization_level),
            "refit": str(self.options.refit),
            "weight_streaming": str(self.options.weight_streaming),
        }

    def configure(self, config: Any, network: NetworkExport) -> None:
        """See :meth:`Target.configure`. Triton uses only the first profile by default."""
        config.backend = "tensorrt"
        group = config.instance_group.add(
            kind=model_config_pb2.ModelInstanceGroup.KIND_GPU, count=1
        )
        count = len(network.profiles(self.memory_gb))
        if count > 1:
            group.profile.extend(str(index) for index in range(count))

    def write(
        self, network: NetworkExport, checkpoint: Checkpoint, folder: Path, report: StageDone
    ) -> None:
        """See :meth:`Target.write`. The graph goes away again; it is as large as the engine."""
        quantization = self._quantization(network)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            graph, expected = write_graph(
                *(network, checkpoint, Path(scratch), report),
                precision=self.precision,
                attention=PLAIN,
            )
            if quantization is not None:
                expected = run_quantized(network, graph, expected)
            precision = quantization or self.precision
            write_first(network, folder, expected, precision)
            job = self.job(network, graph, folder / PLAN_FILE)
            record = self._record(job)
            if self.options.refit:
                write_flushed(folder / RECORD_FILE, record)

            def check() -> str:
                return self._check(network, job.plan, expected, precision)

            if (agreement := self._refitted(job, record, check)) is not None:
                report(f"engine refitted; {agreement}")
            else:
                self.builder.build(job)
                report(f"engine built; {check()}")

    def job(self, network: NetworkExport, graph: Path, plan: Path) -> Job:
        """The builder's job."""
        options = self.options
        return Job(
            graph=graph,
            plan=plan,
            profiles=[
                {tensor.name: profile.shapes(tensor) for tensor in network.inputs}
                for profile in network.profiles(self.memory_gb)
            ],
            optimization_level=options.optimization_level,
            timing_cache=options.timing_cache,
            refit=options.refit,
            weight_streaming=options.weight_streaming,
            tf32=self.precision != "fp32",
        )

    def _quantization(self, network: NetworkExport) -> Quantization | None:
        quantize = self.options.quantize
        return quantize.mode if quantize and network.rewrite else None

    def _check(
        self,
        network: NetworkExport,
        plan: Path,
        expected: Sequence[Reference],
        precision: Precision | Quantization,
    ) -> str:
        """Runs the plan where that is possible; says what came of it.

        Raises:
            VerificationError: its results differ by more than allowed.
        """
        run = self.builder.load(plan, [tensor.name for tensor in network.outputs])
        if run is None:
            log.warning(
                "%s: the engine was not run, as this Python's torch has no CUDA; "
                "the server compares it with torch when it starts",
                network.role,
            )
            return "not run"
        error = verify(network, run, expected, precision)
        return f"agrees with torch (relative error {error:.1e})"

    def _record(self, job: Job) -> str:
        record = {
            "structure": read_structure(job.graph).digest,
            "profiles": job.profiles,
            "precision": self.precision,
            "built_with": self.built_with(),
        }
        return json.dumps(record, indent=1) + "\n"

    def _refitted(self, job: Job, record: str, check: Callable[[], str]) -> str | None:
        """What the check says of the engine that serves now with the new weights; None if it cannot
        be given them."""
        if not self.options.refit:
            return None
        old = published(job.plan)
        try:
            if (old.parent / RECORD_FILE).read_text() != record:
                log.info("%s: not of the same structure or options; built anew", old)
                return None
            self.builder.refit(old, job.graph, job.plan)
            return check()
        except FileNotFoundError:
            return None
        except (RefitError, VerificationError) as error:
            log.warning("%s: built anew, as it cannot be refitted: %s", old, error)
            return None
