"""The inputs of a 9-channel inpainting network beside the latent."""

from __future__ import annotations

import torch

from sampling.masks import to_latent
from sampling.vae import cut

_BLANK_LATENT = (0.8223, -0.6876, 0.6364, 0.1380)
"""A grey picture's latent, scaled."""


def mask_at_pixels(mask: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """A mask ``[h, w]`` at the sampled crop's size, cut to multiples of 8 about the centre."""
    return cut(to_latent(mask, height, width)[0, 0])


def masked_values(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Values ``[1, 3, H, W]`` with those under the rounded mask ``[H, W]`` set to 0.5."""
    return (values - 0.5) * (1 - mask.round()) + 0.5


def inpaint_channels(
    channels: int,
    latent: torch.Tensor,
    mask: torch.Tensor | None,
    masked_latent: torch.Tensor | None,
) -> torch.Tensor | None:
    """The further channels ``[1, 5, h, w]``: a mask of zeros and ones, and the latent of the
    surroundings. None for networks without further channels.

    Args:
        channels: input channels of the network.
        latent: ``[1, c, h, w]``, used if there is no ``masked_latent``.
        mask: ``[1, 1, h, w]``; None: the whole latent is redrawn.
    """
    if channels == latent.shape[1]:
        return None
    if mask is None:
        blank = latent.new_tensor(_BLANK_LATENT)[None, :, None, None].expand_as(latent)
        return torch.cat([torch.ones_like(latent[:, :1]), blank], dim=1)
    return torch.cat([mask.round(), latent if masked_latent is None else masked_latent], dim=1)
