"""What a single file declares about its diffusion: by tensors that are only marks, and in its
metadata.

The keys are those of ComfyUI's checkpoints (``v_pred``, ``ztsnr``, ``modelspec.predict_key``), of
Stability AI's model specification (``modelspec.prediction_type``, ``modelspec.architecture``), of
kohya's trainer (``ss_…``), of CosXL (``edm_vpred.…``) and Playground 2.5 (``edm_mean``).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from build_engines.checkpoint import StoredTensor
from build_engines.errors import CheckpointError
from build_engines.options import PREDICTIONS, PredictionType
from build_engines.schedule import edm_schedule
from pipelines.descriptor import EdmSchedule, NoiseSchedule, Schedule
from sampling.schedule import DiscreteSchedule

log = logging.getLogger(__name__)

_EDM = "edm_"
_EDM_V = "edm_vpred."
_EDM_ENDS = {"sigma_min": 0.002, "sigma_max": 120.0}
"""CosXL's, for a file that has only one of them."""
_V_KEY, _ZERO_SNR_KEY = "v_pred", "ztsnr"
_STORED_SCHEDULE = "alphas_cumprod"
_STORED_ERROR = 2e-3
"""Of ᾱ in half precision."""
_PREDICTION_METADATA = ("modelspec.prediction_type", "modelspec.predict_key")
_SPELLINGS: Mapping[str, PredictionType] = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v": "v_prediction",
    "v_pred": "v_prediction",
    "v_prediction": "v_prediction",
}
_ARCHITECTURE = "modelspec.architecture"
_ARCHITECTURES: Mapping[str, PredictionType] = {
    "stable-diffusion-v2-512": "epsilon",
    "stable-diffusion-v2-768-v": "v_prediction",
}
_KOHYA_V, _KOHYA_ZERO_SNR = "ss_v_parameterization", "ss_zero_terminal_snr"
_FLAGS = {"true": True, "false": False}


def declared_schedule(
    path: Path, tensors: Mapping[str, StoredTensor], metadata: Mapping[str, str]
) -> NoiseSchedule:
    """The noise schedule of the UNet's training: that of all families, with zero terminal SNR
    where the file declares it by a key or by the schedule that it stores; or CosXL's, by its keys.

    Raises:
        CheckpointError: the file is of another kind of diffusion.
    """
    if marks := [name for name in tensors if name.startswith(_EDM)]:
        return _edm(path, marks, tensors)
    zero_snr = Schedule(zero_terminal_snr=True)
    if _ZERO_SNR_KEY in tensors or _flag(metadata, _KOHYA_ZERO_SNR):
        return zero_snr
    plain = Schedule()
    if (stored := tensors.get(_STORED_SCHEDULE)) is None or _holds(stored, plain):
        return plain
    if _holds(stored, zero_snr):
        return zero_snr
    log.warning(
        "%s: %s is not that of the schedule that it is sampled with, %s betas from %g to %g",
        *(path, _STORED_SCHEDULE, plain.beta_schedule, plain.beta_start, plain.beta_end),
    )
    return plain


def declared_prediction(
    path: Path, names: Mapping[str, StoredTensor], metadata: Mapping[str, str]
) -> PredictionType | None:
    """What the UNet predicts; None if the file does not declare it. Keys count more than metadata,
    which a merge or a further training often leaves as it was.

    Raises:
        CheckpointError: an unknown prediction, or the metadata contradicts itself.
    """
    if any(name in (_V_KEY, _ZERO_SNR_KEY) or name.startswith(_EDM_V) for name in names):
        return "v_prediction"
    found: dict[str, PredictionType] = {}
    for key in _PREDICTION_METADATA:
        if key in metadata:
            found[key] = _spelt(path, key, metadata[key])
    if architecture := _ARCHITECTURES.get(metadata.get(_ARCHITECTURE, "")):
        found[_ARCHITECTURE] = architecture
    if (flag := _flag(metadata, _KOHYA_V)) is not None:
        found[_KOHYA_V] = "v_prediction" if flag else "epsilon"
    if len(set(found.values())) > 1:
        shown = ", ".join(f"{key} {metadata[key]!r}" for key in found)
        raise CheckpointError(
            f"{path}: its metadata contradicts itself about what the UNet predicts: {shown}; "
            f"choose with --prediction: {', '.join(PREDICTIONS)}"
        )
    return next(iter(found.values()), None)


def _edm(path: Path, marks: Sequence[str], tensors: Mapping[str, StoredTensor]) -> EdmSchedule:
    """The schedule of a file with these keys of EDM: CosXL's."""
    ends = {_EDM_V + end: usual for end, usual in _EDM_ENDS.items()}
    for name in marks:
        if name not in ends:
            raise CheckpointError(
                f"{path}: {name} says that it was trained with noise levels (such as those of "
                "Playground 2.5) that are not supported; allowed are checkpoints of the discrete "
                f"schedule, and CosXL's with {' and '.join(ends)}"
            )
    for name in marks:
        if math.prod(tensors[name].shape) != 1:
            raise CheckpointError(
                f"{path}: {name} has shape {list(tensors[name].shape)}; one value is expected"
            )
    sigma_min, sigma_max = (
        float(tensors[name].read()) if name in tensors else usual for name, usual in ends.items()
    )
    return edm_schedule(sigma_min, sigma_max, str(path))


def _spelt(path: Path, key: str, value: str) -> PredictionType:
    prediction = _SPELLINGS.get(value.strip().lower().replace("-", "_"))
    if prediction is None:
        raise CheckpointError(
            f"{path}: {key} {value!r} is not supported; allowed: epsilon, v. If that is wrong, "
            f"choose with --prediction: {', '.join(PREDICTIONS)}"
        )
    return prediction


def _flag(metadata: Mapping[str, str], key: str) -> bool | None:
    return _FLAGS.get(metadata.get(key, "").strip().lower())


def _holds(stored: StoredTensor, schedule: Schedule) -> bool:
    """Whether the tensor [T] is the schedule's ᾱ."""
    expected = 1 / (1 + DiscreteSchedule.of(schedule).sigmas ** 2)
    if stored.shape != expected.shape:
        return False
    return bool(torch.allclose(stored.read().float(), expected, rtol=0, atol=_STORED_ERROR))
