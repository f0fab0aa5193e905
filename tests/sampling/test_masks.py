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
