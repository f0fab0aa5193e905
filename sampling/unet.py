"""The UNet as a Triton model, alone or after a chain of ControlNets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from sampling.program import NetworkCall, Program, RowShape, Tensors
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
    """A ControlNet's two Triton models: alone, and followed by the UNet."""

    alone: str
    with_unet: str


@dataclass(frozen=True)
class Control:
    """One ControlNet of a SEG, active while ``sigma_start ≥ σ ≥ sigma_end``.

    ``hint`` float32 ``[1, 3, 8h, 8w]``, 0…1.
    """

    models: ControlModels
    hint: torch.Tensor
    strength: float
    sigma_start: float
    sigma_end: float

    def acts_at(self, sigma: float) -> bool:
        return self.sigma_start >= sigma >= self.sigma_end

    def to(self, device: torch.device) -> Control:
        """A copy with its hint on a device."""
        return replace(self, hint=self.hint.to(device))


@dataclass(frozen=True)
class TextRows:
    """The networks' text inputs, one row per conditioning.

    ``context`` ``[n, L, D]``; ``added``: further inputs by name (SDXL's pooled text and sizes).
    """

    context: torch.Tensor
    added: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.context.shape[0])

    def inputs(self) -> dict[str, torch.Tensor]:
        """As the networks' input tensors."""
        return {"encoder_hidden_states": self.context, **self.added}


@dataclass(frozen=True)
class RunInputs:
    """The networks' inputs except x and σ, made once because they are the same at every step of a
    run: a row per conditioning, on one device."""

    rows: int
    text: Tensors
    chain: tuple[tuple[Control, Tensors], ...]
    """The ControlNets, each with its own inputs."""
    concat: torch.Tensor | None
    """The further channels of an inpainting network."""

    @classmethod
    def of(
        cls, text: TextRows, controls: Sequence[Control], concat: torch.Tensor | None
    ) -> RunInputs:
        """``text`` has n rows; the hints and ``concat`` ``[1, 5, h, w]`` are repeated n times."""
        rows = len(text)
        chain = tuple((control, _hints(control, rows)) for control in controls)
        further = None if concat is None else concat.expand(rows, -1, -1, -1)
        return cls(rows, text.inputs(), chain, further)


@dataclass(frozen=True)
class UNet:
    """Denoised predictions from x and σ.

    ``residuals`` are the graph's residual inputs, name → channels; empty if the pipeline was built
    without ControlNets. ``channels`` is 9 for inpainting networks.
    """

    model: str
    prediction: str
    schedule: DiscreteSchedule
    channels: int = 4
    residuals: Mapping[str, int] = field(default_factory=dict)

    def denoise(self, x: torch.Tensor, sigma: float, inputs: RunInputs) -> Program[torch.Tensor]:
        """The denoised prediction for each conditioning.

        Args:
            x: ``[1, c, h, w]``, on the inputs' device.
            inputs: n rows; ControlNets that are not active at ``sigma`` are skipped.

        Returns:
            ``[n, c, h, w]``.
        """
        rows = inputs.rows
        scaled = (x / (sigma**2 + 1) ** 0.5).expand(rows, -1, -1, -1)
        common = {
            "timestep": x.new_full((rows, 1), float(self.schedule.timestep(sigma))),
            **inputs.text,
        }
        sample = scaled
        if inputs.concat is not None:
            sample = torch.cat([scaled, inputs.concat], dim=1)
        acting = [each for each in inputs.chain if each[0].acts_at(sigma)]
        if len(acting) == 1:
            call = self._behind(*acting[0], sample, scaled, common)
        else:
            residuals = yield from self._residuals(acting, scaled, common)
            tensors = {"sample": sample, **common, **residuals}
            call = NetworkCall(self.model, tensors, _prediction(scaled))
        outputs = yield call
        return PREDICTIONS[self.prediction](x, sigma, outputs["out_sample"])

    def _behind(
        self,
        control: Control,
        hints: Tensors,
        sample: torch.Tensor,
        scaled: torch.Tensor,
        common: Tensors,
    ) -> NetworkCall:
        """The call of one ControlNet and the UNet, with the residuals passed inside the server."""
        inputs = {"sample": sample, **common, **hints}
        if self.channels != scaled.shape[1]:
            inputs["control_sample"] = scaled
        return NetworkCall(control.models.with_unet, inputs, _prediction(scaled))

    def _residuals(
        self, chain: Sequence[tuple[Control, Tensors]], scaled: torch.Tensor, common: Tensors
    ) -> Program[Tensors]:
        """The sum of a chain's residuals; zeros of one pixel without a chain."""
        if not chain:
            zero = scaled.new_zeros(1)
            return {
                name: zero.expand(len(scaled), channels, 1, 1)
                for name, channels in self.residuals.items()
            }
        total: Tensors = {}
        wanted = {name: (channels, None, None) for name, channels in self.residuals.items()}
        for control, hints in chain:
            inputs = {"sample": scaled, **common, **hints}
            outputs = yield NetworkCall(control.models.alone, inputs, wanted)
            total = {
                name: outputs[name] + total[name] if total else outputs[name]
                for name in self.residuals
            }
        return total


def _prediction(scaled: torch.Tensor) -> dict[str, RowShape]:
    """The UNet's output for a latent."""
    return {"out_sample": tuple(scaled.shape[1:])}


def _hints(control: Control, rows: int) -> Tensors:
    return {
        "controlnet_cond": control.hint.expand(rows, -1, -1, -1).contiguous(),
        "conditioning_scale": control.hint.new_full((rows, 1), control.strength),
    }
