"""SEGS of Impact Pack: objects, named tuples and dicts with its fields."""

from __future__ import annotations

from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tensors import Tensor

from segs_client import InvalidRequest, Segs, tools
from segs_client.messages import build

FIELDS = ("cropped_image", "cropped_mask", "confidence", "crop_region", "bbox", "label",
          "control_net_wrapper")  # fmt: skip
SEG = namedtuple("SEG", FIELDS, defaults=[None])
SIZE = (96, 128)


def seg(**changes: Any) -> Any:
    values = {
        "cropped_image": None,
        "cropped_mask": np.full((30, 40), 0.5, np.float32),
        "confidence": np.array([0.75], np.float32),
        "crop_region": [10, 20, 50, 50],
        "bbox": np.array([15.5, 25, 40, 45], np.float32),
        "label": "face",
        "control_net_wrapper": None,
    }
    return SEG(**{**values, **changes})


@pytest.mark.parametrize("form", [lambda item: item, lambda item: item._asdict(),
                                  lambda item: SimpleNamespace(**item._asdict())])  # fmt: skip
def test_the_fields_are_taken(form: Any) -> None:
    (found,) = tools.from_impact_pack((SIZE, [form(seg())]))
    assert found.bbox == (15.5, 25.0, 40.0, 45.0)
    assert found.crop_region == (10, 20, 50, 50)
    assert (found.label, found.confidence, found.image) == ("face", 0.75, None)
    np.testing.assert_array_equal(found.mask, np.full((30, 40), 0.5))


def test_masks_and_crops_may_be_batches_of_one_and_tensors() -> None:
    crop = np.random.default_rng(0).random((1, 30, 40, 3), np.float32)
    mask = Tensor(np.ones((1, 30, 40), np.float32))
    segs = tools.from_impact_pack((SIZE, [seg(cropped_image=Tensor(crop), cropped_mask=mask)]))
    np.testing.assert_array_equal(segs[0].image, crop[0])
    assert segs[0].mask.shape == (30, 40)
    built = build(np.zeros((*SIZE, 3)), segs, pipeline="base")
    assert built.request.segs.items[0].image is not None


@pytest.mark.parametrize("outputs", [tuple, list])
def test_the_outputs_of_a_node_are_taken(outputs: Any) -> None:
    (found,) = tools.from_impact_pack(outputs([(SIZE, [seg()])]))
    assert found.label == "face"


def test_empty_segs_are_empty() -> None:
    assert tools.from_impact_pack((SIZE, [])).size == SIZE
    for size in (SIZE, np.zeros((*SIZE, 3), np.uint8)):
        for own in (SIZE, (0, 0)):
            segs = tools.from_impact_pack(((own, []),), size)
            assert (segs.size, len(segs)) == (SIZE, 0)
    assert len(tools.from_impact_pack((SIZE, [seg()]), SIZE)) == 1


def test_controlnets_are_left_out_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="ControlNets of 1 SEGS are left out"):
        tools.from_impact_pack((SIZE, [seg(), seg(control_net_wrapper=object())]))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (5, r"segs: not SEGS \(got 'int'\); allowed: \(\(height, width\), "),
        ((SIZE, [seg()], 1), "segs: not SEGS"),
        (((96,), [seg()]), "size"),
        ((SIZE, [object()]), r"segs\.0\.cropped_mask: missing \(got 'object'\)"),
        ((SIZE, [seg(), seg(bbox=None)]), r"segs\.1\.bbox: missing"),
        ((SIZE, [seg(), seg(cropped_mask=np.ones((3, 3)))]),
         r"^segs\.1\.cropped_mask of 'face': wrong shape \(got \[3, 3\]\); allowed: \[30, 40\]"),
        ((SIZE, [seg(cropped_mask=np.full((30, 40), 1.01))]),
         r"segs\.0\.cropped_mask of 'face': values from 1\.01"),
        ((SIZE, [seg(label="", cropped_image=np.ones((3, 3)))]),
         r"^segs\.0\.cropped_image: wrong shape"),
        ((SIZE, [seg(crop_region=[1, 2, 3])]), r"segs\.0\.crop_region of 'face': not a box"),
        ((SIZE, [seg(bbox=[1, 2, 3])]), r"segs\.0\.bbox of 'face': not a box"),
        ((SIZE, [seg(confidence="x")]), r"segs\.0\.confidence of 'face': not a number \(got 'x'\)"),
        ((SIZE, [seg(confidence=[])]), r"segs\.0\.confidence of 'face': not a number"),
        (((0, 0), []), "size: required; allowed: the picture, or its height and width"),
        (((0, 0), [seg()]), "size: not a size"),
    ],
)  # fmt: skip
def test_what_is_none_is_refused(given: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        tools.from_impact_pack(given)


def test_segs_of_another_size_are_refused() -> None:
    words = r"size: differs \(got \[128, 96\]\); allowed: \[96, 128\], that of the SEGS"
    for items in ([], [seg()]):
        with pytest.raises(InvalidRequest, match=words):
            tools.from_impact_pack((SIZE, items), SIZE[::-1])


def test_segs_hold_segs_alone() -> None:
    with pytest.raises(InvalidRequest, match=r"items\.0: not a Seg.*from_impact_pack"):
        Segs(SIZE, [seg()])  # type: ignore[arg-type]
