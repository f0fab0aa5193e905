"""The denoising UNet: text conditioning, SDXL's size conditioning, ControlNets' residuals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from diffusers import UNet2DConditionModel

from networks.base import Adapter, Attention, TensorSpec
from networks.diffusion import CHECKED_SIZES, DIFFUSION_AXES, DiffusionExport
from networks.residuals import Residual, residuals

ALWAYS_PASS_SIZES = 40
"""Value of ``num_upsamplers``: diffusers passes the skip connections' sizes to the up-path if a
side is no multiple of 2**num_upsamplers, and the trace freezes that choice. No side is a multiple
of 2**40, so the graph always takes its sizes from the skip connections."""

_MODEL: Any = UNet2DConditionModel  # diffusers' classes are not typed


class _Denoise(Adapter):
    def __init__(self, model: Any, sized: bool) -> None:
        super().__init__(model)
        self.sized = sized

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        *more: torch.Tensor,
    ) -> torch.Tensor:
        # [B, C, h, w], [B, 1], [B, L, D], where sized [B, P] and [B, N], then the residuals
        # [B, C_i, h_i, w_i], the middle block's last → [B, 4, h, w]
        added = None
        if self.sized:
            added = {"text_embeds": more[0], "time_ids": more[1]}
            more = more[2:]
        out = self.model(
            sample,
            timestep[:, 0],
            encoder_hidden_states,
            added_cond_kwargs=added,
            down_block_additional_residuals=more[:-1] or None,
            mid_block_additional_residual=more[-1] if more else None,
            return_dict=False,
        )
        return cast(torch.Tensor, out[0])


class Unet(DiffusionExport):
    """``sample`` FP32 [B, C, h, w], ``timestep`` FP32 [B, 1], ``encoder_hidden_states`` FP32
    [B, L, D] and the rest of :attr:`conditioning` → ``out_sample`` FP32 [B, 4, h, w]. Latents of
    any size, one timestep per row.

    If built for ControlNets, it has further inputs ``down_residual_0`` … and ``mid_residual`` FP32
    [B, C_i, h_i, w_i], which are added to the skip connections and to the middle block's output.
    [B, C_i, 1, 1] is broadcast; zeros of this size mean no ControlNet.
    """

    role = "unet"
    part = "unet"

    def __init__(self, config: Mapping[str, Any], controlled: bool = False) -> None:
        """``controlled``: with inputs for residuals."""
        super().__init__(config)
        self.residuals: tuple[Residual, ...] = residuals(config) if controlled else ()
        self.axes = (*DIFFUSION_AXES, *(axis for each in self.residuals for axis in each.axes))
        full = [self._with_residuals(sizes) for sizes in CHECKED_SIZES]
        single = {axis.name: 1 for each in self.residuals for axis in each.axes}
        self.checked_sizes = (CHECKED_SIZES[0] | single, *full) if controlled else CHECKED_SIZES

    def _with_residuals(self, sizes: Mapping[str, int]) -> dict[str, int]:
        complete = dict(sizes)
        for residual in self.residuals:
            complete |= residual.sizes(sizes["height"], sizes["width"])
        return complete

    def sizes_at(self, side: int) -> dict[str, int]:
        return self._with_residuals(super().sizes_at(side))

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec("sample", "FP32", (self.config["in_channels"], "height", "width")),
            *self.conditioning,
            *(residual.tensor for residual in self.residuals),
        )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("out_sample", "FP32", (self.config["out_channels"], "height", "width")),)

    @property
    def arguments(self) -> dict[str, Any]:
        return {"controlled": bool(self.residuals)}

    def skeleton(self) -> Adapter:
        with torch.device("meta"):
            return _Denoise(_MODEL.from_config(dict(self.config)), sized=self.time_ids > 0)

    def prepare(self, module: Adapter, attention: Attention) -> None:
        module.model.num_upsamplers = ALWAYS_PASS_SIZES
        attention.use_in_diffusers(module.model)


class SdxlUnet(Unet):
    """SDXL's UNet: conditioned on original size, crop and target size, each height and width."""

    time_ids = 6


class SdxlRefinerUnet(Unet):
    """The SDXL refiner's UNet: conditioned on original size, crop and aesthetic score."""

    time_ids = 5
