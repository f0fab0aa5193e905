"""The training's own parts: optimiser, first weights, states to resume from."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from examples.demo_checkpoint import networks
from examples.demo_checkpoint.averages import start_from_averages
from examples.demo_checkpoint.curves import draw_curves
from examples.demo_checkpoint.diffusion_stage import DiffusionStage, velocity_to
from examples.demo_checkpoint.muon import Muon, orthogonal
from examples.demo_checkpoint.pictures import draw_portrait, main_figure
from examples.demo_checkpoint.run import Pace, averaged_weights, is_done, train
from examples.demo_checkpoint.shards import Shard, loss_weights, open_shards
from examples.demo_checkpoint.tensors import to_tensor
from examples.demo_checkpoint.vae_stage import Crops, DecoderStage, VaeStage, normalize_latents
from examples.demo_checkpoint.vocabulary import Vocabulary
from tests.conftest import CHECKPOINTS


class LineStage:
    """Finds a line: small enough to be trained in a test."""

    name = "line"
    learning_rate = 0.05

    def __init__(self, steps: int) -> None:
        torch.manual_seed(0)
        self.steps = steps
        self.trained: nn.Module = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 1))

    def batches(self, first_step: int) -> Iterator[torch.Tensor]:
        for step in range(first_step, self.steps):
            rng = np.random.default_rng(step)
            yield torch.from_numpy(rng.normal(size=(16, 3)).astype(np.float32))

    def losses(self, step: int, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        wanted = batch.sum(dim=1, keepdim=True) + 0.01 * torch.randn(len(batch), 1)
        return {"loss": functional.mse_loss(self.trained(batch), wanted)}

    def measure(self) -> tuple[dict[str, float], Image.Image]:
        return {"measured": 1.0}, Image.new("RGB", (8, 8))


def test_muons_steps_are_orthogonal() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 16, 27), (1, 64, 16), (2, 12, 12)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=generator)))
        assert values.min() > 0.3 and values.max() < 1.4


def test_muon_trains_convolutions() -> None:
    torch.manual_seed(0)
    wanted, layer = nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(3, 8, 3, bias=False)
    optimizer = Muon(layer.parameters(), lr=0.02)
    pictures = torch.randn(16, 3, 8, 8)

    def loss() -> torch.Tensor:
        return functional.mse_loss(layer(pictures), wanted(pictures).detach())

    before = float(loss().detach())
    for _ in range(100):
        optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float(loss().detach()) < 0.05 * before


def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = LineStage(40)
    assert train(whole, tmp_path / "whole", Pace())
    stops = 0
    while not train(LineStage(40), tmp_path / "parts", Pace(end_s=time.monotonic())):
        stops += 1
    assert stops == 39
    expected = averaged_weights(tmp_path / "whole")
    for name, value in averaged_weights(tmp_path / "parts").items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)


def test_a_training_leaves_its_log_curves_and_samples(tmp_path: Path) -> None:
    train(LineStage(150), tmp_path, Pace())
    notes = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = [note["loss"] for note in notes if "loss" in note]
    assert losses[-1] < 0.2 * losses[0]
    assert notes[-1] == {"step": 150, "measured": 1.0}
    assert is_done(tmp_path)
    for name in ("curves.png", "samples.png", "samples-000150.png"):
        assert Image.open(tmp_path / name).width > 0
    assert draw_curves(tmp_path / "log.jsonl").height >= 200


def test_the_first_autoencoder_averages_blocks() -> None:
    torch.manual_seed(0)
    vae = networks.new_vae()
    start_from_averages(vae)
    pixels = to_tensor(draw_portrait(np.random.default_rng(0), 64, 64).pixels[None])
    with torch.no_grad():
        latent = vae.encode(pixels).latent_dist.mean
        seen = vae.decode(latent).sample
    averages = functional.avg_pool2d(pixels, 8)
    for values in (latent[:, :3], functional.avg_pool2d(seen, 8)):
        together = torch.stack([values.flatten(), averages.flatten()])
        assert torch.corrcoef(together)[0, 1] > 0.97


def test_normalized_latents_decode_to_the_same_picture() -> None:
    torch.manual_seed(0)
    vae = networks.new_vae().requires_grad_(False)
    rng = np.random.default_rng(1)
    pixels = to_tensor(np.stack([draw_portrait(rng, 128, 128).pixels for _ in range(8)]))
    before = vae.decode(vae.encode(pixels).latent_dist.mean).sample
    noise_before = vae.encode(pixels).latent_dist.std / vae.encode(pixels).latent_dist.mean.std()
    normalize_latents(vae, pictures=16)
    posterior = vae.encode(pixels).latent_dist
    torch.testing.assert_close(vae.decode(posterior.mean).sample, before, rtol=0, atol=1e-3)
    assert posterior.mean.mean(dim=(0, 2, 3)).abs().max() < 0.5
    assert posterior.mean.std(dim=(0, 2, 3)).sub(1).abs().max() < 0.5
    assert noise_before.shape == posterior.std.shape


def test_the_velocity_to_a_clean_drawing_leads_there_from_a_spoilt_one() -> None:
    scheduler = networks.new_scheduler()
    scheduler.set_timesteps(10)
    generator = torch.Generator().manual_seed(0)
    clean, spoilt, noise = torch.randn((3, 2, 4, 8, 8), generator=generator)
    for timestep in (0, 300, 999):
        at = torch.full((2,), timestep)
        kept = scheduler.alphas_cumprod[at].view(-1, 1, 1, 1)
        noisy = scheduler.add_noise(clean, noise, at)
        wanted = scheduler.get_velocity(clean, noise, at)
        torch.testing.assert_close(velocity_to(clean, noisy, kept), wanted, rtol=0, atol=1e-4)
        noisy = scheduler.add_noise(spoilt, noise, at)
        found = scheduler.step(velocity_to(clean, noisy, kept), timestep, noisy)
        torch.testing.assert_close(found.pred_original_sample, clean, rtol=0, atol=1e-4)


def test_crops_are_the_same_for_a_step_and_grow() -> None:
    crops = Crops(100, 1)
    assert [tuple(crops[step].shape) for step in (0, 30, 80)] == [
        (16, 3, 32, 32),
        (16, 3, 64, 64),
        (4, 3, 128, 128),
    ]
    assert torch.equal(crops[5], crops[5])
    assert not torch.equal(crops[5], crops[6])


@pytest.mark.parametrize("workers", [0, 1])
def test_the_autoencoders_batches_go_on_from_a_step(workers: int) -> None:
    stage = VaeStage(torch.device("cpu"), 5, 1, workers, compiled=False)
    batches = list(stage.batches(3))
    assert len(batches) == 2
    assert torch.equal(batches[0], Crops(5, 1)[3])


def _shard(side: int, count: int = 64) -> Shard:
    latents = torch.zeros(count, 4, side, side, dtype=torch.float16)
    return Shard(
        latents=latents,
        spoilt=latents,
        changed=torch.zeros(count, dtype=torch.bool),
        around=latents,
        masks=torch.zeros(count, 1, side, side, dtype=torch.bool),
        weights=torch.ones(count, 1, side, side),
        edges=np.zeros((count, 8 * side, side), np.uint8),
        captions=("red hair",) * count,
    )


def test_small_pictures_are_many_in_a_batch_and_large_ones_few() -> None:
    stage = DiffusionStage(
        name="unet",
        parts={"unet": networks.new_unet()},
        trained=("unet",),
        shards=[_shard(16), _shard(12), _shard(24)],
        vae=None,
        vocabulary=Vocabulary(CHECKPOINTS / "sd15" / "tokenizer"),
        device=torch.device("cpu"),
        steps=20,
        scale=1,
        sample_steps=1,
        compiled=False,
    )
    counts = {tuple(each.latents.shape[2:]): len(each.latents) for each in stage.batches(0)}
    assert counts == {(12, 12): 56, (24, 24): 14}


def test_drawings_are_encoded_anew_for_another_autoencoder(tmp_path: Path) -> None:
    def encoded(vae: nn.Module) -> torch.Tensor:
        (shard,) = open_shards(tmp_path, vae, torch.device("cpu"), count=1, size=2, workers=0)
        return shard.latents

    torch.manual_seed(0)
    vae = networks.new_vae().requires_grad_(False)
    first = encoded(vae)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")}
    assert torch.equal(encoded(vae), first)
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")}
    vae.encoder.conv_in.bias += 1
    assert not torch.equal(encoded(vae), first)


def test_an_error_in_the_eyes_counts_most() -> None:
    drawing = draw_portrait(np.random.default_rng(0), 128, 128, masks=True)
    masks = drawing.masks[drawing.figures.index(main_figure(drawing))]
    weights = loss_weights(drawing)
    named = np.maximum.reduce([masks.irises, masks.hair, masks.hat])
    assert (masks.irises == 1).any() and weights[masks.irises == 1].min() > 10
    assert (weights[masks.hair == 1] == 2).all()
    assert (weights[named == 0] == 1).all()


def test_the_decoder_is_trained_further_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = networks.new_vae().requires_grad_(False)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    assert train(DecoderStage(vae, torch.device("cpu"), 2, 1, 0), tmp_path, Pace())
    for name, value in vae.state_dict().items():
        decodes = name.startswith(("decoder.", "post_quant_conv."))
        assert decodes or torch.equal(value, before[name])
    assert not torch.equal(vae.decoder.conv_in.weight, before["decoder.conv_in.weight"])
    assert set(averaged_weights(tmp_path)) == {
        name for name in before if name.startswith(("decoder.", "post_quant_conv."))
    }
