"""What a build can be asked for. Nothing here takes long to import."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from build_engines.errors import BuildError
from pipelines.descriptor import Precision, Target

Prediction = Literal["epsilon", "v_prediction"]
PREDICTIONS: tuple[str, ...] = get_args(Prediction)
TARGETS: tuple[str, ...] = get_args(Target)
PRECISIONS: tuple[str, ...] = get_args(Precision)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class TargetOptions:
    """What runs the networks, and how they are made for it."""

    name: Target = "onnx"
    precision: Precision | None = None
    """None: fp16 for TensorRT, fp32 otherwise."""
    memory_gb: float | None = None
    """Of the GPU that the models are made for; None: of the one that is there."""
    timing_cache: Path | None = None
    """TensorRT's, a file that makes the next build faster."""
    optimization_level: int = 3
    """TensorRT's, 0 to 5."""
    refit: bool = False
    """Makes TensorRT engines whose weights a later build of the same shape can exchange."""
    weight_streaming: bool = False
    """Makes TensorRT engines whose weights may stay in host memory; not when Triton runs them."""

    def __post_init__(self) -> None:
        """
        Raises:
            BuildError: names the option, its value and what is allowed.
        """
        if self.name not in TARGETS:
            raise BuildError(f"target: {self.name!r}; allowed: {', '.join(TARGETS)}")
        if self.precision not in (None, *PRECISIONS):
            raise BuildError(f"precision: {self.precision!r}; allowed: {', '.join(PRECISIONS)}")
        if not 0 <= self.optimization_level <= 5:
            raise BuildError(f"optimization_level: {self.optimization_level}; allowed: 0 to 5")
        if self.memory_gb is not None and not self.memory_gb > 0:
            raise BuildError(f"memory: {self.memory_gb}; allowed: more than 0")


def check_options(
    name: str,
    controlnets: Iterable[str] = (),
    prediction: str | None = None,
    embeddings: Iterable[str] = (),
) -> Prediction | None:
    """Refuses a prediction or a name, the pipeline's, a ControlNet's or a textual inversion's,
    that cannot be; returns the prediction.

    Raises:
        BuildError: names the option, its value and what is allowed.
    """
    if prediction is not None and prediction not in PREDICTIONS:
        raise BuildError(f"prediction: {prediction!r}; allowed: {', '.join(PREDICTIONS)}")
    names = [("name", name)]
    names += [("controlnet", each) for each in controlnets]
    names += [("embedding", each) for each in embeddings]
    for option, value in names:
        if not _NAME.fullmatch(value):
            raise BuildError(
                f"{option}: {value!r}; allowed: 1 to 64 of A-Z a-z 0-9 _ . -, "
                "the first a letter or digit"
            )
    return cast(Prediction | None, prediction)
