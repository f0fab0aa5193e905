"""The client's array functions against torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sampling.masks import feather
from segs_client.arrays import resize_bilinear
from segs_client.blur import blur

RANDOM = np.random.default_rng(0).random((41, 57), dtype=np.float32)


@pytest.mark.parametrize("radius", [0, 1, 5, 20, 100])
def test_both_blurs_agree(radius: int) -> None:
    expected = feather(torch.from_numpy(RANDOM), radius).numpy()
    np.testing.assert_allclose(blur(RANDOM, radius), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(41, 57), (20, 30), (82, 114), (7, 200), (1, 1)])
def test_resize_is_torchs(size: tuple[int, int]) -> None:
    image = torch.from_numpy(RANDOM)[None, None]
    expected = F.interpolate(image, size=size, mode="bilinear")[0, 0].numpy()
    np.testing.assert_allclose(resize_bilinear(RANDOM, *size), expected, atol=1e-6)


@pytest.mark.parametrize("radius", [2, 5, 20, 30])
@pytest.mark.parametrize("size", [(64, 64), (101, 237), (400, 256)])
def test_feathering_in_stretches_is_the_whole_convolution_bit_for_bit(
    size: tuple[int, int], radius: int
) -> None:
    height, width = size
    drawn = torch.zeros(size)
    drawn[height // 4 : height // 2, width // 3 : 2 * width // 3] = 1
    grey = torch.full(size, 0.5)
    soft = torch.rand(size, generator=torch.Generator().manual_seed(0))
    for mask in (torch.zeros(size), torch.ones(size), grey, drawn, drawn * soft):
        assert torch.equal(feather(mask, radius), whole(mask, radius))


def whole(mask: torch.Tensor, radius: int) -> torch.Tensor:
    """One convolution over the whole mask."""
    side = 2 * radius + 1
    half = (side - 1) * 0.5
    line = torch.exp(-0.5 * (torch.linspace(-half, half, steps=side) / 10) ** 2)
    line = line / line.sum()
    kernel = torch.mm(line[:, None], line[None, :])[None, None]
    padded = F.pad(mask[None, None], [radius] * 4, mode="reflect")
    return F.conv2d(padded, kernel)[0, 0]
