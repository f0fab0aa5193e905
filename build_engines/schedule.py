"""Reads the UNet's noise schedule and prediction type from a diffusers scheduler's configuration.

What is sampled here is the discrete schedule of Stable Diffusion's training, σ of 1000 timesteps
from "scaled_linear" betas, and EDM's continuous one of CosXL. How a checkpoint's own scheduler
would have stepped over it does not matter, as a request chooses that; but a scheduler of another
kind of diffusion is refused.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, cast

import diffusers

from build_engines.errors import CheckpointError
from build_engines.options import PREDICTIONS, PredictionType
from pipelines.descriptor import EdmSchedule, NoiseSchedule, Schedule
from sampling.schedule import DiscreteSchedule

SCHEDULER_CONFIG = "scheduler/scheduler_config.json"
DISCRETE_SCHEDULERS = (
    *("DDIMScheduler", "DDIMInverseScheduler", "DDIMParallelScheduler"),
    *("DDPMScheduler", "DDPMParallelScheduler", "DEISMultistepScheduler"),
    *("DPMSolverMultistepScheduler", "DPMSolverMultistepInverseScheduler"),
    *("DPMSolverSDEScheduler", "DPMSolverSinglestepScheduler"),
    *("EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler"),
    *("KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LCMScheduler"),
    *("LMSDiscreteScheduler", "PNDMScheduler", "SASolverScheduler", "TCDScheduler"),
    "UniPCMultistepScheduler",
)
"""diffusers' schedulers of models that were trained over discrete betas."""
EDM_SCHEDULERS = ("EDMDPMSolverMultistepScheduler", "EDMEulerScheduler")
"""diffusers' schedulers of models that were trained over continuous σ."""
_EDM_REQUIRED: Mapping[str, tuple[object, ...]] = {
    "prediction_type": ("v_prediction",),
    "sigma_data": (1.0,),
}
_REQUIRED: Mapping[str, tuple[object, ...]] = {
    "beta_schedule": ("scaled_linear",),
    "trained_betas": (None,),
    "timestep_type": (None, "discrete"),
    "use_flow_sigmas": (None, False),
    "sigma_data": (None,),
    "snr_shift_scale": (None,),
}
"""What a field must have for the schedule to be the one above."""
_FLOW = "flow_prediction"
_MOST_TIMESTEPS = 10_000


def read_schedule(config: Mapping[str, Any]) -> NoiseSchedule:
    """The noise schedule of the UNet's training, of a scheduler_config.json. An absent field has
    the default of its class in diffusers.

    Raises:
        CheckpointError: it is of another kind of diffusion, or of other betas.
    """
    config = _complete(config)
    if config.get("_class_name") in EDM_SCHEDULERS:
        _require(config, _EDM_REQUIRED)
        return edm_schedule(config["sigma_min"], config["sigma_max"], SCHEDULER_CONFIG)
    _require(config, _REQUIRED)
    # --prediction overrules the prediction type, but not that there is another kind of noise.
    if config.get("prediction_type") == _FLOW:
        raise _other_noise(config, "prediction_type", PREDICTIONS)
    default = Schedule()
    schedule = Schedule(
        beta_start=config.get("beta_start", default.beta_start),
        beta_end=config.get("beta_end", default.beta_end),
        timesteps=config.get("num_train_timesteps", default.timesteps),
        zero_terminal_snr=bool(config.get("rescale_betas_zero_snr")),
    )
    if schedule.timesteps > _MOST_TIMESTEPS or not _rises(schedule):
        raise CheckpointError(
            f"{SCHEDULER_CONFIG}: beta_start {schedule.beta_start:g}, beta_end "
            f"{schedule.beta_end:g} and num_train_timesteps {schedule.timesteps}; allowed: betas "
            f"between 0 and 1 and up to {_MOST_TIMESTEPS} timesteps, whose noise levels rise and "
            "are finite in float32"
        )
    return schedule


def edm_schedule(sigma_min: float, sigma_max: float, where: str) -> EdmSchedule:
    """The continuous schedule of these σ.

    Raises:
        CheckpointError: they are no range; the message begins with ``where``.
    """
    if 0 < sigma_min < sigma_max < math.inf:
        schedule = EdmSchedule(sigma_min=sigma_min, sigma_max=sigma_max)
        if _rises(schedule):
            return schedule
    raise CheckpointError(
        f"{where}: sigma_min {sigma_min:g} and sigma_max {sigma_max:g}; allowed: "
        "0 < sigma_min < sigma_max, finite and apart in float32"
    )


def read_prediction(config: Mapping[str, Any]) -> PredictionType | None:
    """What the UNet predicts, of a scheduler_config.json; None if it does not say it.

    Raises:
        CheckpointError: it predicts something else than epsilon or v.
    """
    found = config.get("prediction_type")
    if found not in (None, *PREDICTIONS):
        raise CheckpointError(
            f"{SCHEDULER_CONFIG}: prediction_type {found!r} is not supported; "
            f"allowed: {', '.join(PREDICTIONS)}"
        )
    return cast(PredictionType | None, found)


def _rises(schedule: NoiseSchedule) -> bool:
    """Whether the σ that are sampled are positive, finite and rise."""
    try:
        sigmas = DiscreteSchedule.of(schedule).sigmas
    except RuntimeError:  # the root of a negative beta
        return False
    ends = sigmas[0] > 0 and sigmas[0] < sigmas[-1] and sigmas[-1] < math.inf
    return bool(ends) and bool((sigmas.diff() >= 0).all())


def _complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with the defaults of its class."""
    name = config.get("_class_name")
    if name is None:
        return {"beta_schedule": Schedule().beta_schedule, **config}
    if name not in (known := (*DISCRETE_SCHEDULERS, *EDM_SCHEDULERS)):
        raise _other_noise(config, "_class_name", known)
    parameters = inspect.signature(getattr(diffusers, name).__init__).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
    return {**defaults, **config}


def _require(config: Mapping[str, Any], required: Mapping[str, tuple[object, ...]]) -> None:
    for field, allowed in required.items():
        if config.get(field) not in allowed:
            raise _other_noise(config, field, allowed)


def _other_noise(
    config: Mapping[str, Any], field: str, allowed: tuple[object, ...]
) -> CheckpointError:
    shown = ", ".join(str(each) for each in allowed if each is not None) or "none"
    name = config.get("_class_name")
    owner = "" if name is None or field == "_class_name" else f" of {name}"
    return CheckpointError(
        f"{SCHEDULER_CONFIG}: {field} {config.get(field)!r}{owner} is not supported, as it stands "
        f"for other noise levels than are sampled here; allowed: {shown}"
    )
