"""What is told of a request's sampling."""

from __future__ import annotations

import pytest
import torch

from sampling.progress import Step, preview_pixels
from sampling.samplers import SAMPLERS
from tests.sampling.analytic import run, unguided

LEVELS = [8.0, 4.0, 2.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("sigma", "step"), [(8.0, 1), (9.0, 1), (5.0, 1), (4.0, 2), (1.0, 4), (0.5, 4), (0.0, 4)]
)
def test_a_step_is_counted_by_its_noise_level(sigma: float, step: int) -> None:
    assert Step.at(sigma, LEVELS, 0, torch.empty(0))[:3] == (0, step, 4)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_every_sampler_goes_forward(name: str) -> None:
    """However often it asks."""
    x = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(0)) * 14
    sigmas = [14.0, 9.0, 5.5, 3.0, 1.6, 0.8, 0.3, 0.03, 0.0]
    _, asked = run(name, x, sigmas, unguided(1.0))
    steps = [Step.at(each.sigma, sigmas, 0, x).step for each in asked if each.reports]
    assert steps == sorted(steps)
    assert steps[0] == 1
    assert steps[-1] >= len(sigmas) - 2


def test_a_preview_is_the_fitted_function_of_its_cells() -> None:
    latent = torch.tensor([0.5, -1.0, 0.0, 2.0]).view(1, 4, 1, 1).expand(1, 4, 6, 9)
    factors = torch.tensor([[0.4, 0.0, 0.0, 0.1], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    pixels = preview_pixels(latent, factors, torch.tensor([0.1, 1.2, 0.0]), 64)
    assert pixels.shape == (6, 9, 3)
    assert pixels.dtype == torch.uint8
    assert pixels[0, 0].tolist() == [127, 51, 255]
    assert preview_pixels(latent, factors, torch.zeros(3), 4).shape == (2, 3, 3)


def test_what_is_not_finite_makes_no_trouble() -> None:
    latent = torch.full((1, 4, 2, 2), float("nan"))
    assert preview_pixels(latent, torch.ones(3, 4), torch.zeros(3), 8).eq(0).all()


def test_a_preview_is_made_where_the_latent_lives() -> None:
    """Nothing of it is read back: on the meta device that would be an error."""
    latent, factors, bias = (
        torch.empty(shape, device="meta") for shape in ((1, 4, 40, 60), (3, 4), (3,))
    )
    pixels = preview_pixels(latent, factors, bias, 32)
    assert (pixels.device.type, pixels.shape) == ("meta", (20, 30, 3))
