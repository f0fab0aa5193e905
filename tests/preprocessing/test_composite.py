"""What a SEG that failed leaves behind, in the picture and in the report."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from preprocessing.composite import Composed, composite
from preprocessing.prepare import Prepared
from request_plan.packing import Packer
from request_plan.plan import FailedSeg, SampledSeg, SampleOutcome
from segs_client.arrays import ByteArray
from segs_client.contract import SegError
from tests.preprocessing.test_prepare import PIXELS, prepared

ERROR = SegError(code="INTERNAL", message="internal error; the log has incident 12", incident="12")
BOXES = [(8, 8, 40, 40), (24, 24, 56, 56), (80, 8, 112, 40)]
"""The first two overlap."""


def three(skipped: int | None = None, **fields: Any) -> Prepared:
    items = [{"bbox": box, "label": str(i), "skip": i == skipped} for i, box in enumerate(BOXES)]
    segs = {"items": items}
    output = {"image": "raw", "seg_images": "uint8"}
    return prepared(segs=segs, crop_factor=1.0, paste={"feather": 0}, output=output, **fields)


def composed(made: Prepared, failed: set[tuple[int, int]]) -> Composed:
    """As if every SEG had become white, but for those (pass, index) that failed."""
    packer = Packer()
    done: list[SampledSeg] = []
    lost: list[FailedSeg] = []
    for batch_pass in range(made.plan.request.batch_size):
        for index, seg in enumerate(made.plan.segs):
            if seg.skip == "skipped_by_request":
                continue
            assert seg.crop is not None
            if (batch_pass, index) in failed:
                one = FailedSeg(index=index, batch_pass=batch_pass, seed=index, error=ERROR)
                lost.append(one)
                continue
            white = np.full((seg.crop.height, seg.crop.width, 3), 255, np.uint8)
            done.append(
                SampledSeg(
                    index=index, batch_pass=batch_pass, status="enhanced",
                    pixels=packer.add(white), seed=index, steps_run=3, sample_s=0.1,
                )
            )  # fmt: skip
    outcome = SampleOutcome(segs=tuple(done), failed=tuple(lost), sample_s=0.1)
    return composite(
        made.plan, outcome, canvas=made.canvas, crops=made.crops, sampled=packer.tensor(),
        masks=made.masks, given=made.given,
    )  # fmt: skip


def picture(made: Composed) -> ByteArray:
    return made.image.reshape(PIXELS.shape)


@pytest.mark.parametrize("index", range(3))
def test_where_a_seg_failed_the_picture_is_what_the_others_make_of_it(index: int) -> None:
    result = composed(three(), {(0, index)})
    expected = PIXELS.copy()
    for other, (x1, y1, x2, y2) in enumerate(BOXES):
        if other != index:
            expected[y1:y2, x1:x2] = 255
    np.testing.assert_array_equal(picture(result), expected)


@pytest.mark.parametrize("index", range(3))
def test_a_seg_that_is_to_be_skipped_leaves_what_the_others_make(index: int) -> None:
    result = composed(three(skipped=index), set())
    expected = PIXELS.copy()
    for other, (x1, y1, x2, y2) in enumerate(BOXES):
        if other != index:
            expected[y1:y2, x1:x2] = 255
    np.testing.assert_array_equal(picture(result), expected)
    assert result.report.segs[index].status == "skipped_by_request"


def test_a_failed_seg_comes_back_as_it_came_and_says_why() -> None:
    result = composed(three(), {(0, 1)})
    first, failed, _ = result.report.segs
    assert (first.status, first.error) == ("enhanced", None)
    assert (failed.status, failed.error, failed.label) == ("failed", ERROR, "1")
    assert (failed.sampled_size, failed.steps_run, failed.seed) == (None, 0, 1)
    assert failed.image is not None
    crop = result.seg_images[failed.image.offset :][: failed.image.length]
    x1, y1, x2, y2 = BOXES[1]
    np.testing.assert_array_equal(crop.reshape(32, 32, 3), PIXELS[y1:y2, x1:x2])


def test_a_failed_pass_takes_nothing_from_the_others() -> None:
    made = three(batch_size=2)
    whole = composed(made, set())
    result = composed(made, {(1, 0), (1, 1), (1, 2)})
    np.testing.assert_array_equal(picture(result), picture(whole))
    assert [seg.status for seg in result.report.segs] == ["enhanced"] * 3 + ["failed"] * 3
