"""Fits an approximation of a latent's colours without the VAE, for previews.

A latent cell of these VAEs is close to an affine function of the mean colour of its 8 × 8 pixels.
The function is fitted by least squares to drawn pictures that the VAE encodes and decodes, shrunk
to the latent's size.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from build_engines.checkpoint import Checkpoint
from build_engines.weights import load_network
from networks import NetworkExport, VaeDecoder, VaeEncoder
from pipelines.descriptor import Preview

log = logging.getLogger(__name__)

_PICTURES = 12
_SIDE_PX = 96
_CELL_PX = 8
_BATCH = 4
_GRIDS = (2, 3, 5, 8, 16, 32)
"""Patches per side of a picture, from coarse to fine."""


def fit_preview(checkpoint: Checkpoint, networks: Sequence[NetworkExport]) -> Preview | None:
    """The best fit for a checkpoint's VAE; None if the VAE's outputs are not finite.

    Raises:
        CheckpointError: the weights are missing or do not fit.
    """
    encoder = next(each for each in networks if isinstance(each, VaeEncoder))
    decoder = next(each for each in networks if isinstance(each, VaeDecoder))
    encode, decode = (
        load_network(encoder, checkpoint).eval(),
        load_network(decoder, checkpoint).eval(),
    )
    latents, colours = [], []
    with torch.inference_mode():
        pictures = drawn_pictures()
        for start in range(0, len(pictures), _BATCH):
            mean = encode(pictures[start : start + _BATCH] * 2 - 1)
            made = ((decode(mean) + 1) / 2).clamp(0, 1)
            latents.append(mean * encoder.latent_scale)
            colours.append(torch.nn.functional.avg_pool2d(made, _CELL_PX))
    fitted = fit(torch.cat(latents), torch.cat(colours))
    if fitted is None:
        log.warning("no previews: the VAE answers drawn pictures with NaN or infinity")
    return fitted


def drawn_pictures() -> torch.Tensor:
    """Float32 ``[12, 3, 96, 96]``, 0…1: random colours on grids of several sizes, sharp and soft,
    pale and strong."""
    generator = torch.Generator().manual_seed(0)
    pictures = []
    for number in range(_PICTURES):
        grid = _GRIDS[number % len(_GRIDS)]
        patches = torch.rand(1, 3, grid, grid, generator=generator)
        contrast = torch.rand(1, generator=generator)
        shade = torch.rand(1, 3, 1, 1, generator=generator)
        patches = shade + contrast * (patches - shade)
        mode = "nearest" if number % 2 else "bicubic"
        pictures.append(torch.nn.functional.interpolate(patches, (_SIDE_PX, _SIDE_PX), mode=mode))
    return torch.cat(pictures).clamp(0, 1)


def fit(latents: torch.Tensor, colours: torch.Tensor) -> Preview | None:
    """Least squares.

    Args:
        latents: ``[n, c, h, w]``.
        colours: ``[n, 3, h, w]``, 0…1.

    Returns:
        None if a value is not finite.
    """
    x = latents.movedim(1, -1).reshape(-1, latents.shape[1]).double()
    y = colours.movedim(1, -1).reshape(-1, 3).double()
    if not (x.isfinite().all() and y.isfinite().all()):
        return None
    with_one = torch.cat([x, torch.ones(len(x), 1).double()], dim=1)
    # gelsd: constant latents make the matrix rank-deficient.
    solution = torch.linalg.lstsq(with_one, y, driver="gelsd").solution
    error = (with_one @ solution - y).square().mean().sqrt()
    rounded = [[round(value, 6) for value in row] for row in solution.T.tolist()]
    return Preview.model_validate(
        {
            "factors": [row[:-1] for row in rounded],
            "bias": [row[-1] for row in rounded],
            "error": round(float(error), 6),
        }
    )
