"""Control images: preprocessors, and what becomes a hint."""

from __future__ import annotations

import numpy as np
import pytest

from preprocessing.control import ControlReader, check_control, preprocessors
from request_plan.packing import Packer, pixels_at
from sampling.control import hint_for
from segs_client.contract import Buffer, ContractError, ControlNet

RNG = np.random.default_rng(0)
CROP = RNG.integers(0, 256, (24, 16, 3), dtype=np.uint8)
PICTURE = RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", preprocessors())
def test_preprocessors_keep_the_shape(name: str) -> None:
    made = preprocessors()[name](CROP)
    assert made.shape == CROP.shape
    assert made.dtype == np.uint8


def test_canny_finds_the_edge_of_a_square() -> None:
    square = np.zeros((40, 40, 3), dtype=np.uint8)
    square[10:30, 10:30] = 255
    edges = preprocessors()["canny"](square)[:, :, 0]
    assert edges[9:12, 20].max() == 255
    assert edges[20, 20] == 0


def test_invert_and_gray() -> None:
    assert np.array_equal(preprocessors()["invert"](CROP), 255 - CROP)
    grey = preprocessors()["gray"](CROP)
    assert np.array_equal(grey[:, :, 0], grey[:, :, 2])


def planned(control: ControlNet, tensor: bytes = b"") -> np.ndarray:  # type: ignore[type-arg]
    crops = Packer()
    place = crops.add(CROP)
    reader = ControlReader(np.frombuffer(tensor, np.uint8), (40, 50), crops)
    (made,) = reader.plan([control], (5, 10, 13, 22), CROP, place, "controlnets")
    return pixels_at(crops.tensor(), made.hint)


def test_without_a_picture_the_crop_is_shown() -> None:
    assert np.array_equal(planned(ControlNet(name="edges")), CROP)


def test_a_picture_is_cut_to_the_region() -> None:
    place = Buffer(length=PICTURE.size, shape=PICTURE.shape, encoding="uint8")
    shown = planned(ControlNet(name="edges", image=place), PICTURE.tobytes())
    assert np.array_equal(shown, PICTURE[10:22, 5:13])


def test_a_picture_of_another_size_is_resized_first() -> None:
    small = PICTURE[::2, ::2]
    place = Buffer(length=small.size, shape=small.shape, encoding="uint8")
    assert planned(ControlNet(name="edges", image=place), small.tobytes()).shape == (12, 8, 3)


@pytest.mark.parametrize(
    ("control", "field"),
    [
        (ControlNet(name="depth"), "controlnets.0.name"),
        (ControlNet(name="edges", preprocessor="magic"), "controlnets.0.preprocessor"),
    ],
)
def test_unknown_names_are_refused(control: ControlNet, field: str) -> None:
    with pytest.raises(ContractError) as refusal:
        check_control(control, ["edges"], "controlnets.0")
    assert refusal.value.detail.field == field
    assert refusal.value.detail.allowed


def test_a_hint_has_eight_times_the_latents_sides() -> None:
    hint = hint_for(CROP, 3, 2)
    assert hint.shape == (1, 3, 24, 16)
    assert np.array_equal((hint[0].permute(1, 2, 0) * 255).round().byte().numpy(), CROP)


def test_a_hint_of_another_aspect_is_cut_about_the_centre() -> None:
    striped = np.zeros((16, 48, 3), dtype=np.uint8)
    striped[:, 16:32] = 255
    assert float(hint_for(striped, 2, 2).min()) == 1.0
