"""Quantises a graph and accepts or refuses the result."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import onnxruntime

from build_engines.errors import BuildError, QualityError
from build_engines.options import QuantizeOptions
from build_engines.quantize.calibration import collect
from build_engines.quantize.compare import compare
from build_engines.quantize.report import QualityReport, as_markdown, summary, violations
from build_engines.quantize.runs import Runs
from build_engines.quantize.structure import check_structure
from build_engines.quantize.toolkit import copy_graph, modelopt_version, quantize_graph
from build_engines.quantize.workload import Workload, read_pictures, read_prompts
from build_engines.targets import Target
from build_engines.widen import widen
from networks import Unet
from pipelines.descriptor import PipelineDescriptor, Precision
from runners.onnx_session import OnnxSession, SessionSettings, open_session

log = logging.getLogger(__name__)

PIXELS_PER_CELL = 8
LEAST_FP8 = (8, 9)
"""Compute capability."""
REPORT_NAME = "quantization"


@dataclass
class Quantizer:
    """Quantises a pipeline's UNet; used as its :attr:`NetworkExport.rewrite`."""

    options: QuantizeOptions
    precision: Precision
    modelopt: str
    workload: Workload
    reference: PipelineDescriptor | None = None
    """The pipeline before quantisation, in :attr:`repository`; to be set before it is used."""
    report: QualityReport | None = field(default=None, init=False)
    """The report of the last run."""

    @property
    def repository(self) -> Path:
        """The repository of the original pipeline, built for onnxruntime."""
        return self.options.folder / "reference"

    def built_with(self) -> dict[str, str]:
        """Options and versions that decide the result, beside the checkpoint and the code."""
        options = self.options
        return {
            "nvidia-modelopt": self.modelopt,
            "quantization": f"{options.mode} rows={options.rows} limits={asdict(options.limits)}",
            "calibration": self.workload.digest(),
        }

    def __call__(self, model: Path) -> None:
        """Replaces ``model`` by the quantised graph if it is accepted.

        Raises:
            QualityError: it differs too much; the report is in the options' folder.
            BuildError: it cannot be quantised.
        """
        if self.reference is None:
            raise BuildError("quantize: there is no pipeline to calibrate with")
        folder, mode = self.options.folder, self.options.mode
        runs = Runs(self.repository, self.reference)
        rows = folder / "rows"
        made_from = f"{self.options.rows} {self.workload.digest()} {_identity(self.reference)}"
        count = collect(runs, self.workload.calibrating(), rows, self.options.rows, made_from)
        with tempfile.TemporaryDirectory(dir=model.parent) as scratch:
            original = copy_graph(model, Path(scratch))
            log.info("quantizing the UNet to %s with %d inputs", mode, count)
            quantize_graph(self.options.python, model, mode, rows, folder / f"modelopt-{mode}.log")
            linear = check_structure(model, mode)
            before, after = open_session(original), self._session(model)
            steps, requests = compare(runs, self.workload.judging(), before, after)
        quality = summary(steps, requests)
        self.report = QualityReport(
            pipeline=self.reference.name,
            quantization=mode,
            precision=self.precision,
            modelopt=self.modelopt,
            onnxruntime=onnxruntime.__version__,
            calibration_rows=count,
            linear=linear,
            steps=steps,
            requests=requests,
            limits=asdict(self.options.limits),
            violations=violations(quality, self.options.limits),
        )
        self.write_report(folder, f"{REPORT_NAME}-{mode}")
        if self.report.violations:
            raise QualityError(
                f"quantize: {mode} was refused: {'; '.join(self.report.violations)}; "
                f"see {folder / f'{REPORT_NAME}-{mode}.md'}"
            )

    def write_report(self, folder: Path, name: str = REPORT_NAME) -> None:
        """Writes the last run's report into ``folder``, as JSON and as Markdown."""
        if self.report is not None:
            (folder / f"{name}.json").write_text(self.report.model_dump_json(indent=2) + "\n")
            (folder / f"{name}.md").write_text(as_markdown(self.report), encoding="utf-8")

    def _session(self, model: Path) -> OnnxSession:
        """A session of the quantised graph with the rounding of an engine."""
        # Above basic optimisation onnxruntime moves FP8 values through operators without FP8.
        settings = SessionSettings(level=-1 if self.options.mode == "fp8" else 0)
        if self.precision == "fp32":
            return open_session(model, settings=settings)
        with tempfile.TemporaryDirectory(dir=model.parent) as scratch:
            return open_session(widen(model, Path(scratch)), settings=settings)


def open_quantizer(
    options: QuantizeOptions, target: Target, unet: Unet, controlnets: Iterable[str]
) -> Quantizer:
    """Reads the pictures and prompts and finds ModelOpt; runs nothing.

    Raises:
        BuildError: the GPU has no FP8; or ModelOpt, a picture or a prompt is missing. The message
            names the remedy.
    """
    if options.mode == "fp8" and target.engine is not None:
        found = target.engine.compute_capability
        if tuple(int(part) for part in found.split(".")) < LEAST_FP8:
            raise BuildError(
                f"quantize: {target.engine.gpu} has compute capability {found}; fp8 needs "
                f"{LEAST_FP8[0]}.{LEAST_FP8[1]}"
            )
    options.folder.mkdir(parents=True, exist_ok=True)
    workload = Workload(
        pictures=read_pictures(options.folder),
        prompts=read_prompts(options.folder),
        side=options.side or unet.usual_side * PIXELS_PER_CELL,
        steps=options.steps,
        controlnets=sorted(controlnets),
    )
    return Quantizer(options, target.precision, modelopt_version(options.python), workload)


def _identity(reference: PipelineDescriptor) -> str:
    """A digest of the networks that the inputs were recorded with."""
    files = sorted(reference.networks["unet"].files.items())
    return hashlib.sha256(repr(files).encode()).hexdigest()
