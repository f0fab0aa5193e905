"""What the load benchmarks are made of, without a server."""

from __future__ import annotations

import math

import pytest

from benchmarks.clients import Answer, Crowd
from benchmarks.cost_model import FittedCosts, HostTime, NetworkTime, Observed, fit
from benchmarks.gpu_curve import curves
from benchmarks.standin import tiny_repository
from benchmarks.watch import Batch, mean_rows, read_batches
from benchmarks.workload import Kind, picture, request
from pipelines import load_all
from preprocessing.prepare import prepare
from segs_client import ServerUnavailable

LIMITS = {"text_encoder": 16, "vae_encoder": 4, "unet": 16, "vae_decoder": 4}
TRUE = FittedCosts(
    {
        "text_encoder": NetworkTime(0.002, 0.001, 0.0),
        "vae_encoder": NetworkTime(0.003, 2e-5, 0.0),
        "unet": NetworkTime(0.004, 1e-5, 3e-9),
        "vae_decoder": NetworkTime(0.003, 4e-5, 0.0),
    },
    LIMITS,
    HostTime(0.02, 1e-5, 0.001),
)


def test_a_gpu_takes_as_long_for_few_rows_as_for_one() -> None:
    unet = curves()["unet"]
    assert unet.seconds((1, 4, 64, 64)) == unet.seconds((16, 4, 64, 64)) == unet.floor_s
    assert unet.seconds((32, 4, 64, 64)) == 2 * unet.floor_s
    assert curves(scale=2)["unet"].seconds((2, 4, 32, 32)) == 2 * unet.floor_s
    assert curves(flat_rows=1)["unet"].seconds((3, 4, 64, 64)) == 3 * unet.floor_s


@pytest.mark.parametrize(
    ("role", "shape", "output"),
    [
        ("text_encoder", (3, 77), (3, 77, 768)),
        ("unet", (2, 4, 32, 24), (2, 4, 32, 24)),
        ("vae_encoder", (2, 3, 256, 192), (2, 4, 32, 24)),
        ("vae_decoder", (2, 4, 32, 24), (2, 3, 256, 192)),
    ],
)
def test_a_stand_in_answers_its_networks_shape(
    role: str, shape: tuple[int, ...], output: tuple[int, ...]
) -> None:
    assert curves()[role].output_shape(shape) == output


@pytest.mark.parametrize("kind", [Kind(128, 3), Kind(256, 2, segs=5), Kind(512, 1, guided=False)])
def test_requests_of_a_kind_cost_the_same_and_differ(kind: Kind) -> None:
    descriptors = {name: each for name, (each, _) in load_all([tiny_repository()]).items()}
    first, second = (request(kind, index) for index in range(2))
    assert first.boxes != second.boxes
    assert first.options["prompt"] != second.options["prompt"]
    for one in (first, second):
        plan = prepare(one.inputs("tiny"), pipelines=descriptors).plan
        sizes = [(seg.crop.height, seg.crop.width) for seg in plan.segs if seg.crop is not None]
        assert sizes == [(kind.size, kind.size)] * kind.segs
        assert all(seg.steps == kind.steps for seg in plan.segs)
    assert picture().shape == (512, 512, 3)


def test_the_log_tells_of_batches() -> None:
    text = (
        "INFO x other\n"
        "DEBUG sampling.engine batch network=tiny_unet rows=16 calls=8 requests=7 ms=12.5\n"
        "DEBUG sampling.engine batch network=tiny_vae_decoder rows=4 calls=4 requests=4 ms=3.0\n"
        "DEBUG sampling.engine batch network=tiny_unet rows=8 calls=4 requests=4 ms=7.0\n"
    )
    batches = read_batches(text)
    assert batches[0] == Batch("tiny_unet", 16, 8, 7, 0.0125)
    assert len(batches) == 3
    assert mean_rows(batches) == 12


def test_a_crowds_figures_count_who_was_served() -> None:
    kind = Kind(segs=2)
    refused = ServerUnavailable("busy", retry_after_s=1.0)
    lost = ServerUnavailable("gone")
    crowd = Crowd((Answer(kind, 1.0, 3.0), Answer(kind, 1.5, 5.0), Answer(kind, 2.0, 2.1, refused)))
    assert crowd.wall_s == 4.0
    assert crowd.segs_per_s == 1.0
    assert crowd.percentile_s(50) == 2.75
    assert crowd.answers[2].refused
    assert not Answer(kind, 0.0, 1.0, lost).refused


def test_the_model_of_cost_is_found_again_from_what_it_predicts() -> None:
    kinds = [Kind(size, steps) for size in (128, 256) for steps in (5, 20)]
    seen = [_observed(kind, segs) for kind in kinds for segs in (1, 4)]
    found = fit(seen, LIMITS)
    for kind, segs in ((Kind(256, 20), 8), (Kind(192, 12), 32), (Kind(256, 20, guided=False), 8)):
        assert found.seconds(kind, segs) == pytest.approx(TRUE.seconds(kind, segs), rel=0.01)


def test_full_batches_are_cheapest_where_rows_cost_little() -> None:
    kind = Kind(256, 20)
    per_seg = [TRUE.seconds(kind, segs) / segs for segs in (1, 2, 4, 8)]
    assert per_seg == sorted(per_seg, reverse=True)
    assert TRUE.saturated_s(kind) < per_seg[-1]
    assert TRUE.devices(kind, 10) == math.ceil(10 * TRUE.saturated_s(kind) / 0.8)


def _observed(kind: Kind, segs: int) -> Observed:
    """What the true model's server would show."""
    batches = []
    for role, time in TRUE.networks.items():
        rows = kind.rows if role == "unet" else 1
        cells = 1 if role == "text_encoder" else kind.cells
        a_batch = LIMITS[role] // rows
        sizes = [min(a_batch, segs - start) for start in range(0, segs, a_batch)]
        for size in sizes * (kind.steps if role == "unet" else 1):
            seconds = time.seconds(size * rows, cells)
            batches.append(Batch(f"x_{role}", size * rows, size, size, seconds))
    return Observed(kind, segs, TRUE.seconds(kind, segs), batches)
