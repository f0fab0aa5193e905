"""The UNet as a Triton model, alone or behind a chain of ControlNets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from sampling.program import Call, Program, Tensors
from sampling.schedule import DiscreteSchedule


def epsilon_to_denoised(x: torch.Tensor, sigma: float, out: torch.Tensor) -> torch.Tensor:
    """x − σ·ε: the network predicts the noise."""
    return x - out * sigma


def v_to_denoised(x: torch.Tensor, sigma: float, out: torch.Tensor) -> torch.Tensor:
    """x/(σ²+1) − σ·v/√(σ²+1): the network predicts v (arXiv 2202.00512)."""
    return x / (sigma**2 + 1) - out * (sigma / math.sqrt(sigma**2 + 1))


PREDICTIONS: dict[str, Callable[[torch.Tensor, float, torch.Tensor], torch.Tensor]] = {
    "epsilon": epsilon_to_denoised,
    "v_prediction": v_to_denoised,
}


@dataclass(frozen=True)
class ControlModels:
    """A ControlNet's two Triton models: alone, and with the UNet behind it."""

    alone: str
    with_unet: str


@dataclass(frozen=True)
class Control:
    """One ControlNet at work on a SEG.

    ``hint`` float32 ``[1, 3, 8h, 8w]``, 0…1. It acts while ``sigma_start ≥ σ ≥ sigma_end``.
    """

    models: ControlModels
    hint: torch.Tensor
    strength: float
    sigma_start: float
    sigma_end: float

    def acts_at(self, sigma: float) -> bool:
        return self.sigma_start >= sigma >= self.sigma_end


@dataclass(frozen=True)
class TextRows:
    """What the networks are told beside x and t, one row per conditioning.

    ``context`` ``[n, L, D]``; ``added`` further inputs by name (SDXL's pooled text and sizes).
    """

    context: torch.Tensor
    added: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.context.shape[0])

    def inputs(self) -> dict[str, torch.Tensor]:
        """As the networks' input tensors."""
        return {"encoder_hidden_states": self.context, **self.added}


@dataclass(frozen=True)
class UNet:
    """x and σ in, denoised predictions out.

    ``residuals`` are the graph's residual inputs, name → channels; none where the pipeline was
    built without ControlNets. ``channels`` is 9 for inpainting networks.
    """

    model: str
    prediction: str
    schedule: DiscreteSchedule
    channels: int = 4
    residuals: Mapping[str, int] = field(default_factory=dict)

    def denoise(
        self,
        x: torch.Tensor,
        sigma: float,
        text: TextRows,
        controls: Sequence[Control] = (),
        concat: torch.Tensor | None = None,
    ) -> Program[torch.Tensor]:
        """The denoised prediction under each conditioning.

        Args:
            x: ``[1, c, h, w]``.
            text: n rows.
            controls: the chain; those that do not act at ``sigma`` are left out.
            concat: ``[1, 5, h, w]``, the further channels of an inpainting network.

        Returns:
            ``[n, c, h, w]``.
        """
        rows = len(text)
        scaled = (x / (sigma**2 + 1) ** 0.5).expand(rows, -1, -1, -1)
        common = {
            "timestep": torch.full((rows, 1), float(self.schedule.timestep(sigma))),
            **text.inputs(),
        }
        sample = scaled
        if concat is not None:
            sample = torch.cat([scaled, concat.expand(rows, -1, -1, -1)], dim=1)
        acting = [control for control in controls if control.acts_at(sigma)]
        if len(acting) == 1:
            call = self._behind(acting[0], sample, scaled, common)
        else:
            residuals = yield from self._residuals(acting, scaled, common)
            call = Call(self.model, {"sample": sample, **common, **residuals})
        outputs = yield call
        return PREDICTIONS[self.prediction](x, sigma, outputs["out_sample"])

    def _behind(
        self, control: Control, sample: torch.Tensor, scaled: torch.Tensor, common: Tensors
    ) -> Call:
        """One ControlNet and the UNet in one call: the residuals stay in the server."""
        inputs = {"sample": sample, **common, **_hints(control, len(sample))}
        if self.channels != scaled.shape[1]:
            inputs["control_sample"] = scaled
        return Call(control.models.with_unet, inputs)

    def _residuals(
        self, controls: Sequence[Control], scaled: torch.Tensor, common: Tensors
    ) -> Program[Tensors]:
        """The sum of a chain's residuals; zeros of one pixel where there is no chain."""
        rows = len(scaled)
        if not controls:
            return {
                name: torch.zeros(rows, channels, 1, 1) for name, channels in self.residuals.items()
            }
        total: Tensors = {}
        for control in controls:
            inputs = {"sample": scaled, **common, **_hints(control, rows)}
            outputs = yield Call(control.models.alone, inputs)
            total = {
                name: outputs[name] + total[name] if total else outputs[name]
                for name in self.residuals
            }
        return total


def _hints(control: Control, rows: int) -> dict[str, torch.Tensor]:
    return {
        "controlnet_cond": control.hint.expand(rows, -1, -1, -1),
        "conditioning_scale": torch.full((rows, 1), control.strength),
    }
