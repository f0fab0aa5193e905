"""The options of a build; imports nothing slow."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, NamedTuple, cast, get_args

from build_engines.errors import OptionError
from pipelines.descriptor import Precision, Quantization, TargetName

PredictionType = Literal["epsilon", "v_prediction"]
PREDICTIONS: tuple[str, ...] = get_args(PredictionType)
TARGETS: tuple[str, ...] = get_args(TargetName)
PRECISIONS: tuple[str, ...] = get_args(Precision)
QUANTIZATIONS: tuple[str, ...] = get_args(Quantization)
_MISSING = {("onnx", "bf16"), ("openvino", "fp16")}
"""Targets, and a precision that they do not compute in."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Lora(NamedTuple):
    """A LoRA and its strengths: factors on what it adds to the weights; 0 leaves them as they
    are."""

    path: Path
    """A safetensors file, or the folder that PEFT or diffusers saved it to."""
    model: float
    """For the UNet."""
    clip: float
    """For the text encoders."""

    @property
    def strengths(self) -> str:
        """Both, as in ``0.8:0.5``."""
        return ":".join(repr(float(each)).removesuffix(".0") for each in (self.model, self.clip))


LoraArgument = tuple[Path, float] | tuple[Path, float, float]
"""A LoRA with one strength for all networks, or as the fields of :class:`Lora`."""


@dataclass(frozen=True)
class QualityLimits:
    """The allowed differences of a quantised UNet in the worst request; see
    :class:`pipelines.descriptor.Quality`."""

    network_error: float = 0.15
    latent_error: float = 0.2
    picture_difference: float = 5.0
    """In grey levels, 0 to 255."""

    def __post_init__(self) -> None:
        """
        Raises:
            OptionError: names the option, its value and what is allowed.
        """
        for field in fields(self):
            if not (value := getattr(self, field.name)) > 0:
                raise OptionError(f"max_{field.name}: {value}; allowed: more than 0")


@dataclass(frozen=True)
class QuantizeOptions:
    """Options of the UNet's quantisation, calibration and comparison."""

    mode: Quantization
    folder: Path
    """The folder with optional pictures and ``prompts.txt`` for calibration. The original pipeline,
    the recorded inputs and the report are written into it."""
    python: Path = Path(sys.executable)
    """The interpreter that has NVIDIA ModelOpt."""
    rows: int = 64
    """Most calibration inputs of the UNet."""
    side: int | None = None
    """Longest side of the calibration samples in pixels; None: the checkpoint's training size."""
    steps: int = 12
    """Steps of each sampling run."""
    limits: QualityLimits = QualityLimits()

    def __post_init__(self) -> None:
        """
        Raises:
            OptionError: names the option, its value and what is allowed.
        """
        if self.mode not in QUANTIZATIONS:
            raise OptionError(f"quantize: {self.mode!r}; allowed: {', '.join(QUANTIZATIONS)}")
        if self.rows < 1 or self.steps < 1:
            raise OptionError(
                f"quantize: {self.rows} rows, {self.steps} steps; allowed: at least 1"
            )
        if self.side is not None and not 64 <= self.side <= 2048:
            raise OptionError(f"calibration_side: {self.side}; allowed: 64 to 2048")


@dataclass(frozen=True)
class TargetOptions:
    """The networks' runtime and its options."""

    name: TargetName = "onnx"
    precision: Precision | None = None
    """None: fp16 for TensorRT, bf16 for OpenVINO, fp32 otherwise."""
    memory_gb: float | None = None
    """Memory of the GPU that the models are built for; None: of the present GPU."""
    timing_cache: Path | None = None
    """TensorRT's timing cache, a file that makes the next build faster."""
    optimization_level: int = 3
    """TensorRT's optimisation level, 0 to 5."""
    refit: bool = False
    """Builds TensorRT engines whose weights a later build of the same shape can replace."""
    weight_streaming: bool = False
    """Builds TensorRT engines whose weights may stay in host memory; not supported by Triton."""
    quantize: QuantizeOptions | None = None
    """The UNet's quantisation; None: it has the precision of the other networks."""

    def __post_init__(self) -> None:
        """
        Raises:
            OptionError: names the option, its value and what is allowed.
        """
        if self.name not in TARGETS:
            raise OptionError(f"target: {self.name!r}; allowed: {', '.join(TARGETS)}")
        if self.precision not in (None, *PRECISIONS):
            raise OptionError(f"precision: {self.precision!r}; allowed: {', '.join(PRECISIONS)}")
        if (self.name, self.precision) in _MISSING:
            allowed = (each for each in PRECISIONS if (self.name, each) not in _MISSING)
            raise OptionError(
                f"precision: {self.precision} with target {self.name}, which has it not on a CPU; "
                f"allowed: {', '.join(allowed)}"
            )
        if not 0 <= self.optimization_level <= 5:
            raise OptionError(f"optimization_level: {self.optimization_level}; allowed: 0 to 5")
        if self.memory_gb is not None and not self.memory_gb > 0:
            raise OptionError(f"memory: {self.memory_gb}; allowed: more than 0")
        if self.quantize is not None:
            self._check_quantize()

    def _check_quantize(self) -> None:
        if self.refit:
            raise OptionError("quantize: with refit; an engine's scales cannot be exchanged")
        # onnxruntime quantises float16 values wrongly on a CPU, see docs/quantization.md.
        allowed = {"onnx": ("fp32",), "tensorrt": ("fp16", "fp32")}
        if self.name not in allowed:
            raise OptionError(f"quantize: with target {self.name}; allowed: {', '.join(allowed)}")
        if self.precision not in (None, *allowed[self.name]):
            raise OptionError(
                f"quantize: with precision {self.precision} for {self.name}; "
                f"allowed: {', '.join(allowed[self.name])}"
            )


def check_options(
    name: str,
    controlnets: Iterable[str] = (),
    prediction: str | None = None,
    embeddings: Iterable[str] = (),
) -> PredictionType | None:
    """Checks the prediction and the names of the pipeline, ControlNets and textual inversions;
    returns the prediction.

    Raises:
        OptionError: names the option, its value and what is allowed.
    """
    if prediction is not None and prediction not in PREDICTIONS:
        raise OptionError(f"prediction: {prediction!r}; allowed: {', '.join(PREDICTIONS)}")
    names = [("name", name)]
    names += [("controlnet", each) for each in controlnets]
    names += [("embedding", each) for each in embeddings]
    for option, value in names:
        if not _NAME.fullmatch(value):
            raise OptionError(
                f"{option}: {value!r}; allowed: 1 to 64 of A-Z a-z 0-9 _ . -, "
                "the first a letter or digit"
            )
    return cast(PredictionType | None, prediction)


def check_loras(loras: Sequence[LoraArgument]) -> list[Lora]:
    """The LoRAs, each with both strengths.

    Raises:
        OptionError: a strength is not finite.
    """
    checked = [Lora(lora[0], lora[1], lora[-1]) for lora in loras]
    for lora in checked:
        if not (math.isfinite(lora.model) and math.isfinite(lora.clip)):
            raise OptionError(
                f"lora: {lora.path}: strengths {lora.strengths}; allowed: finite numbers"
            )
    return checked
