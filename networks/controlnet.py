"""A ControlNet: residuals for the UNet from a control image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import ControlNetModel

from networks.base import Adapter, Attention, Axis, TensorSpec
from networks.diffusion import CHECKED_SIZES, DIFFUSION_AXES, DiffusionExport
from networks.residuals import Residual, residuals

LATENT_CHANNELS = 4
PIXELS_PER_LATENT = 8

_MODEL: Any = ControlNetModel  # diffusers' classes are not typed


class _Control(Adapter):
    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        controlnet_cond: torch.Tensor,
        conditioning_scale: torch.Tensor,
        *added: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        # [B, 4, h, w], [B, 1], [B, L, D], [B, 3, 8h, 8w], [B, 1] and, where sized, [B, P] and
        # [B, N] → the residuals [B, C_i, h_i, w_i], the middle block's last
        down, mid = self.model(
            sample,
            timestep[:, 0],
            encoder_hidden_states,
            controlnet_cond,
            conditioning_scale[:, :, None, None],
            added_cond_kwargs=dict(zip(("text_embeds", "time_ids"), added, strict=False)),
            return_dict=False,
        )
        return (*down, mid)


class ControlNet(DiffusionExport):
    """``sample`` FP32 [B, 4, h, w], the scaled latent, ``timestep`` FP32 [B, 1],
    ``encoder_hidden_states`` FP32 [B, L, D], ``controlnet_cond`` FP32 [B, 3, 8h, 8w], 0…1,
    ``conditioning_scale`` FP32 [B, 1], a factor on every output of its row, and the rest of
    :attr:`conditioning` → the UNet's residuals. Latents of any size."""

    part = "."

    def __init__(self, name: str, config: Mapping[str, Any], time_ids: int) -> None:
        """``time_ids``: equal to the UNet's."""
        super().__init__(config)
        self.name = name
        self.role = f"controlnet_{name}"
        self.time_ids = time_ids
        self.residuals: tuple[Residual, ...] = residuals(config)
        self.axes = (
            *DIFFUSION_AXES,
            *(
                Axis(f"{axis.name}_px", *(PIXELS_PER_LATENT * n for n in axis.sizes))
                for axis in DIFFUSION_AXES[:2]
            ),
        )
        self.checked_sizes = tuple(_with_pixels(sizes) for sizes in CHECKED_SIZES)

    def sizes_at(self, side: int) -> dict[str, int]:
        return _with_pixels(super().sizes_at(side))

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        timestep, text, *added = self.conditioning
        return (
            TensorSpec("sample", "FP32", (LATENT_CHANNELS, "height", "width")),
            timestep,
            text,
            TensorSpec("controlnet_cond", "FP32", (3, "height_px", "width_px")),
            TensorSpec("conditioning_scale", "FP32", (1,)),
            *added,
        )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return tuple(residual.tensor for residual in self.residuals)

    @property
    def arguments(self) -> dict[str, Any]:
        return {"name": self.name, "time_ids": self.time_ids}

    def skeleton(self) -> Adapter:
        with torch.device("meta"):
            return _Control(_MODEL.from_config(dict(self.config)))

    def prepare(self, module: Adapter, attention: Attention) -> None:
        attention.use_in_diffusers(module.model)


def _with_pixels(sizes: Mapping[str, int]) -> dict[str, int]:
    """Adds the picture's sides to those of the latent."""
    return dict(sizes) | {
        f"{side}_px": PIXELS_PER_LATENT * sizes[side] for side in ("height", "width")
    }
