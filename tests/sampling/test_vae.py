"""The VAE's programs: bounded calls, and tiles whose seams cannot be seen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from examples.scene import draw
from pipelines import Network, PipelineDescriptor, load_all
from pipelines.descriptor import NetworkRole
from runners.in_process import LocalNetworks
from sampling import vae
from sampling.program import NetworkCall, Tensors, run_alone
from sampling.tiles import OVERLAP, Cover, Grid
from segs_client.arrays import ByteArray
from tests.descriptors import bare_pipeline

CELLS = (136, 152)
"""Of a latent that is tiled where 1024² px are the bound."""
BOUND_PX = 1024 * 1024
RANDOM = torch.Generator().manual_seed(0)


def bounded(descriptor: PipelineDescriptor, pixels: int | None) -> PipelineDescriptor:
    """The same with a VAE that takes so many pixels in one call."""
    channels: dict[NetworkRole, float] = {
        "vae_encoder": 3,
        "vae_decoder": descriptor.latent_channels / 64,
    }
    networks = {
        **descriptor.networks,
        **{
            role: descriptor.networks[role].model_copy(
                update={"max_batch_elements": pixels and int(pixels * per_pixel)}
            )
            for role, per_pixel in channels.items()
        },
    }
    return descriptor.model_copy(update={"networks": networks})


def network(model: str, bound: int | None = None) -> Network:
    return Network(
        model=model, max_batch=4, max_batch_elements=bound, inputs={}, outputs={}, files={}
    )


@pytest.fixture(scope="module")
def descriptor() -> PipelineDescriptor:
    """Of a pipeline that is nothing but a VAE."""
    networks = {role: network(role) for role in ("vae_encoder", "vae_decoder")}
    return bounded(bare_pipeline(latent_scale=0.2, networks=networks), BOUND_PX)


class LocalVae:
    """A VAE in which every cell sees itself alone; its calls are kept."""

    def __init__(self) -> None:
        self.calls: list[NetworkCall] = []

    def __call__(self, call: NetworkCall) -> Tensors:
        self.calls.append(call)
        if call.network == "vae_encoder":
            means = F.avg_pool2d(call.inputs["sample"], 8)
            return {"latent_mean": torch.cat([means, means[:, :1]], dim=1)}
        latent = call.inputs["latent_sample"][:, :3].sin()
        return {"sample": F.interpolate(latent, scale_factor=8, mode="nearest")}


def random_latent(height: int, width: int) -> torch.Tensor:
    return torch.randn(1, 4, height, width, generator=RANDOM)


def random_values(height: int, width: int) -> torch.Tensor:
    return torch.rand(1, 3, height * 8, width * 8, generator=RANDOM)


@pytest.mark.parametrize(
    ("length", "count"), [(1, 1), (8, 1), (129, 2), (136, 2), (256, 3), (257, 3), (2048, 7)]
)
def test_tiles_cover_an_axis(length: int, count: int) -> None:
    cover = Cover.of(length, count)
    assert len(cover.starts) == count
    assert cover.starts[0] == 0
    assert cover.starts[-1] + cover.size == length
    assert all(a + cover.size - b >= OVERLAP for a, b in pairwise(cover.starts))
    for cell in (1, 8):
        total = torch.zeros(length * cell)
        for place, share in zip(cover.places(cell), cover.shares(cell), strict=True):
            total[place] += share
        torch.testing.assert_close(total, torch.ones(length * cell), rtol=0, atol=1e-6)


@pytest.mark.parametrize("cells", [CELLS, (256, 256), (20, 900)])
def test_where_cells_do_not_see_each_other_tiles_change_nothing(
    descriptor: PipelineDescriptor, cells: tuple[int, int]
) -> None:
    whole = bounded(descriptor, None)
    values, latent = random_values(*cells), random_latent(*cells)
    network = LocalVae()
    both = (descriptor, whole)
    encoded = [run_alone(vae.encode(each, values), network) for each in both]
    decoded = [run_alone(vae.decode(each, latent), network) for each in both]
    for tiled, untiled in (encoded, decoded):
        torch.testing.assert_close(tiled, untiled, rtol=0, atol=1e-6)
    assert len(network.calls) > 4


@pytest.mark.parametrize(
    ("cells", "count", "size"),
    [
        ((128, 128), 1, (128, 128)),  # 1024² px
        ((96, 168), 1, (96, 168)),  # 1344 × 768
        ((129, 128), 2, (129, 76)),
        ((256, 256), 6, (140, 102)),
        ((20, 900), 2, (20, 462)),
    ],
)
def test_the_fewest_tiles_within_the_bound(
    cells: tuple[int, int], count: int, size: tuple[int, int]
) -> None:
    grid = Grid.of(*cells, 128 * 128)
    assert (grid.count, grid.rows.size, grid.columns.size) == (count, *size)


def test_calls_keep_to_the_bound(descriptor: PipelineDescriptor) -> None:
    network = LocalVae()
    run_alone(vae.decode(descriptor, random_latent(256, 256)), network)
    assert {call.inputs["latent_sample"].shape for call in network.calls} == {(1, 4, 140, 102)}
    assert len(network.calls) == vae.decoder(descriptor).grid(256, 256).count
    network.calls.clear()
    run_alone(vae.encode(bounded(descriptor, 2 * BOUND_PX), random_values(256, 256)), network)
    assert {call.inputs["sample"].shape for call in network.calls} == {(1, 3, 2048, 816)}


def test_a_picture_within_the_bound_is_one_call(descriptor: PipelineDescriptor) -> None:
    network = LocalVae()
    run_alone(vae.decode(descriptor, random_latent(128, 128)), network)
    run_alone(vae.encode(descriptor, random_values(128, 128)), network)
    assert [call.rows for call in network.calls] == [1, 1]
    run_alone(vae.decode(descriptor, random_latent(128, 136)), network)
    assert len(network.calls) == 2 + 2


@pytest.mark.parametrize("cells", [CELLS, (256, 256), (300, 177)])
def test_blending_spreads_a_tiles_offset_over_the_overlap(cells: tuple[int, int]) -> None:
    grid = Grid.of(*cells, 80 * 80)
    whole = torch.zeros(1, 1, cells[0] * 8, cells[1] * 8)
    offsets = torch.rand(grid.count, generator=RANDOM)
    size = grid.rows.size * 8, grid.columns.size * 8
    for number, offset in enumerate(offsets):
        grid.add(whole, torch.full((1, 1, *size), float(offset)), number, 8)
    steepest = float(offsets.max() - offsets.min()) / (OVERLAP * 8)
    for axis in (2, 3):
        assert float(whole.diff(dim=axis).abs().max()) <= steepest * 1.001


def test_an_old_descriptor_has_no_bound() -> None:
    fields = {"model": "m", "max_batch": 4, "inputs": {}, "outputs": {}, "files": {}}
    old = Network.model_validate(fields)
    assert old.batch_limit((10**9,)) == 4


@pytest.mark.parametrize(("elements", "rows"), [(1, 4), (25, 4), (26, 3), (100, 1), (1000, 1)])
def test_one_row_always_goes(elements: int, rows: int) -> None:
    assert network("m", bound=100).batch_limit((elements,)) == rows


@pytest.mark.parametrize(("name", "channels"), [("sd15", 4), ("sd15-inpaint", 9)])
def test_built_networks_are_bounded_by_their_pixels(
    repository: Path, name: str, channels: int
) -> None:
    networks = load_all([repository])[name][0].networks
    assert networks["vae_decoder"].batch_limit((4, 128, 128)) == 1
    assert networks["vae_decoder"].batch_limit((4, 64, 64)) == 4
    assert networks["vae_encoder"].batch_limit((3, 1024, 1024)) == 2
    assert networks["unet"].batch_limit((channels, 64, 64)) == 16
    assert networks["unet"].batch_limit((channels, 128, 128)) == 4
    assert networks["text_encoder"].max_batch_elements is None


def gradient(side: int) -> ByteArray:
    down, across = np.mgrid[:side, :side] / side
    values = np.stack([across, down, (across + down) / 2], axis=-1)
    return np.asarray(255 * values, np.uint8)


def scene(side: int) -> ByteArray:
    return np.array(draw()[0].resize((side, side), Image.Resampling.LANCZOS))


def worst_seam(tiled: NDArray[Any], whole: NDArray[Any], grid: Grid, cell: int) -> float:
    """By how much neighbours ``[c, H, W]`` differ more where a tile begins or ends than they do
    untiled, in units of what neighbours differ in the mean."""
    worst = 0.0
    for axis, cover in ((1, grid.rows), (2, grid.columns)):
        others = tuple({0, 1, 2} - {axis})
        steps, usual = (np.abs(np.diff(each, axis=axis)).mean(others) for each in (tiled, whole))
        for place in cover.places(cell):
            for line in {place.start - 1, place.stop - 1} & set(range(len(usual))):
                worst = max(worst, float((steps[line] - usual[line]) / usual.mean()))
    return worst


@pytest.mark.parametrize("picture", [gradient, scene])
def test_seams_are_no_steeper_than_the_picture(
    repository: Path, picture: Callable[[int], ByteArray]
) -> None:
    networks = LocalNetworks([repository])
    whole, tiled = (
        bounded(load_all([repository])["sd15"][0], pixels) for pixels in (None, 512 * 512)
    )

    def run(call: NetworkCall) -> Tensors:
        return asyncio.run(networks.run(call.network, call.inputs))

    values = vae.to_values(picture(640))
    latent, in_tiles = (run_alone(vae.encode(each, values), run) for each in (whole, tiled))
    grid = vae.decoder(tiled).grid(*latent.shape[-2:])
    assert worst_seam(in_tiles[0].numpy(), latent[0].numpy(), grid, 1) < 1
    seamed, plain = (
        vae.to_pixels(run_alone(vae.decode(each, latent), run)).transpose(2, 0, 1).astype(float)
        for each in (tiled, whole)
    )
    assert worst_seam(seamed, plain, grid, 8) < 1
    assert len(networks.calls) == 2 * (grid.count + 1) > 8
