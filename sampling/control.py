"""A ControlNet's hint: the control image at the latent's shape."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from sampling.vae import FACTOR
from segs_client.arrays import ByteArray


def hint_for(pixels: ByteArray, height: int, width: int) -> torch.Tensor:
    """Pixels ``[h, w, 3]`` as a hint for a latent of ``height`` × ``width``.

    Cut about the centre to the latent's aspect ratio, then resized to 8 times its sides by the
    nearest pixel.

    Returns:
        float32 ``[1, 3, 8·height, 8·width]``, 0…1.
    """
    values = (torch.tensor(pixels).float() / 255).permute(2, 0, 1)[None]
    rows, columns = values.shape[-2:]
    surplus = (columns / rows) / (width / height)
    top = round((rows - rows * surplus) / 2) if surplus < 1 else 0
    left = round((columns - columns / surplus) / 2) if surplus > 1 else 0
    values = values[:, :, top : rows - top, left : columns - left]
    return F.interpolate(values, size=(height * FACTOR, width * FACTOR), mode="nearest-exact")
