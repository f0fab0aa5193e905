"""What a build can be asked for. Nothing here takes long to import."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, cast, get_args

from build_engines.errors import BuildError
from pipelines.descriptor import PipelineDescriptor

Prediction = Literal["epsilon", "v_prediction"]
PREDICTIONS: tuple[str, ...] = get_args(Prediction)
TARGETS: tuple[str, ...] = get_args(PipelineDescriptor.model_fields["target"].annotation)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def check_options(
    name: str,
    target: str,
    controlnets: Iterable[str] = (),
    prediction: str | None = None,
    embeddings: Iterable[str] = (),
) -> Prediction | None:
    """Refuses a target, a prediction or a name, the pipeline's, a ControlNet's or a textual
    inversion's, that cannot be; returns the prediction.

    Raises:
        BuildError: names the option, its value and what is allowed.
    """
    if target not in TARGETS:
        raise BuildError(f"target: {target!r} is not available; allowed: {', '.join(TARGETS)}")
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
