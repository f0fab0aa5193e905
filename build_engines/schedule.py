"""Reads the UNet's noise schedule and prediction type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from build_engines.checkpoint import SCHEDULER_CONFIG, Checkpoint
from build_engines.errors import CheckpointError
from build_engines.options import PREDICTIONS, PredictionType
from pipelines.descriptor import Schedule


def read_schedule(checkpoint: Checkpoint) -> Schedule:
    """The noise schedule of the UNet's training.

    Raises:
        CheckpointError: an unsupported kind of schedule.
    """
    config = checkpoint.json(SCHEDULER_CONFIG)
    kind = config.get("beta_schedule", "scaled_linear")
    refused: Mapping[str, Callable[[Any], bool]] = {
        "beta_schedule": lambda _: kind != "scaled_linear",
        "trained_betas": lambda value: value is not None,
    }
    for field, refuses in refused.items():
        if refuses(config.get(field)):
            raise CheckpointError(
                f"{SCHEDULER_CONFIG}: {field} {config.get(field)!r} is not supported"
            )
    default = Schedule()
    return Schedule(
        beta_start=config.get("beta_start", default.beta_start),
        beta_end=config.get("beta_end", default.beta_end),
        timesteps=config.get("num_train_timesteps", default.timesteps),
        zero_terminal_snr=bool(config.get("rescale_betas_zero_snr")),
    )


def read_prediction(checkpoint: Checkpoint) -> PredictionType:
    """The meaning of the UNet's output.

    Raises:
        CheckpointError: an unsupported kind of prediction.
    """
    found = checkpoint.json(SCHEDULER_CONFIG).get("prediction_type", "epsilon")
    if found not in PREDICTIONS:
        raise CheckpointError(
            f"{SCHEDULER_CONFIG}: prediction_type {found!r} is not supported; "
            f"allowed: {', '.join(PREDICTIONS)}"
        )
    return cast(PredictionType, found)
