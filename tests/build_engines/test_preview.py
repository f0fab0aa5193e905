"""How a latent's colours are guessed: the fit, and what it says of a whole VAE."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from build_engines.preview import drawn_pictures, fit
from pipelines import load_all
from tests.conftest import PIPELINES


def test_the_fit_finds_an_affine_function_again() -> None:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(3, 4, 5, 6, generator=generator)
    factors = torch.randn(3, 4, generator=generator)
    bias = torch.tensor([0.1, 0.5, 0.9])
    colours = torch.einsum("kc,nchw->nkhw", factors, latents) + bias.view(1, 3, 1, 1)
    found = fit(latents, colours)
    assert found is not None
    assert torch.allclose(torch.tensor(found.factors), factors, atol=1e-5)
    assert torch.allclose(torch.tensor(found.bias), bias, atol=1e-5)
    assert found.error < 1e-6


def test_latents_that_say_nothing_leave_the_mean_colour() -> None:
    colours = torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    found = fit(torch.zeros(2, 4, 4, 4), colours)
    assert found is not None
    assert found.bias == pytest.approx((0.2, 0.4, 0.6), abs=1e-5)


def test_what_is_not_finite_is_not_fitted() -> None:
    latents = torch.zeros(1, 4, 2, 2)
    latents[0, 0, 0, 0] = torch.nan
    assert fit(latents, torch.zeros(1, 3, 2, 2)) is None


def test_drawn_pictures_have_many_colours() -> None:
    pictures = drawn_pictures()
    assert pictures.shape == (12, 3, 96, 96)
    assert 0 <= pictures.min() < 0.02 and 0.98 < pictures.max() <= 1
    assert torch.equal(pictures, drawn_pictures())
    assert pictures.mean(dim=(2, 3)).std(dim=0).min() > 0.1


def test_every_pipeline_has_its_own(repository: Path) -> None:
    """VAEs differ, and so do the functions; each explains its VAE's pictures for the most part."""
    built = load_all([repository])
    previews = {name: built[name][0].preview for name in PIPELINES}
    colours = drawn_pictures()
    for name, preview in previews.items():
        assert preview is not None, name
        assert {len(row) for row in preview.factors} == {built[name][0].latent_channels}
        assert preview.error < colours.std()
    assert previews["sd15"] != previews["sdxl"]
