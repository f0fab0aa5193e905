"""The last step: resize sampled crops back, paste them and encode the response."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from preprocessing.images import encode
from request_plan.packing import Packer, bytes_at, mask_at, pixels_at, values_at
from request_plan.plan import FailedSeg, Plan, PlannedSeg, SampledSeg, SampleOutcome
from segs_client.arrays import ByteArray, FloatArray, from_bytes, resize_lanczos, to_pixels_rounded
from segs_client.contract import Buffer, ImageReport, OutputOptions, Report, SegReport
from segs_client.pasting import paste_crop

_LEFT_ALONE = ("skipped_by_request", "skipped_too_small")
"""Statuses without a pasted crop, which the reference does not have."""


@dataclass(frozen=True)
class Composed:
    """The response: its JSON and its flat uint8 tensors, empty if not requested."""

    report: Report
    image: ByteArray
    seg_images: ByteArray
    control_images: ByteArray


def composite(
    plan: Plan,
    outcome: SampleOutcome,
    *,
    canvas: ByteArray,
    crops: ByteArray,
    sampled: ByteArray,
    masks: ByteArray,
    given: ByteArray,
) -> Composed:
    """Pastes every SEG of every pass in order and encodes the requested outputs. Failed and skipped
    SEGs are not pasted.

    Args:
        canvas, crops, masks, given: tensors of prepare; ``sampled``: of sample.
    """
    start_s = time.perf_counter()
    request = plan.request
    height, width = plan.image_size
    pixels = canvas.reshape(height, width, 3)
    values = from_bytes(pixels)
    results: dict[tuple[int, int], SampledSeg | FailedSeg] = {
        **{(seg.batch_pass, seg.index): seg for seg in outcome.segs},
        **{(seg.batch_pass, seg.index): seg for seg in outcome.failed},
    }
    images, controls = Packer(), Packer()
    shown = [
        _add_controls(controls, seg, crops) if request.output.control_images else ()
        for seg in plan.segs
    ]
    reports = []
    for batch_pass in range(request.batch_size):
        for index, seg in enumerate(plan.segs):
            result = results.get((batch_pass, index))
            crop = _crop(seg, result, pixels, sampled, given)
            left_alone = isinstance(result, FailedSeg) or _is_left_alone(seg)
            if crop is not None and not left_alone:
                paste_crop(
                    values, crop, mask_at(masks, seg.mask), seg.crop_region,
                    feather=request.paste.feather, alpha=request.paste.alpha,
                )  # fmt: skip
            place = None if crop is None else _add_image(images, crop, request.output)
            seg_report = _seg_report(index, batch_pass, seg, result, place)
            reports.append(seg_report.model_copy(update={"control_images": shown[index]}))
    image = np.empty(0, dtype=np.uint8)
    if request.output.image != "none":
        pasted = to_pixels_rounded(values)
        profile = bytes_at(given, plan.profile)
        image = encode(pasted, request.output.image, request.output.quality, profile)
    report = Report(
        request_id=plan.request_id,
        pipeline=request.pipeline,
        image=ImageReport(encoding=request.output.image, shape=(height, width, 3)),
        segs=tuple(reports),
        times_s={
            "prepare": round(plan.prepare_s, 6),
            "sample": round(outcome.sample_s, 6),
            "composite": round(time.perf_counter() - start_s, 6),
        },
    )
    return Composed(report, image, images.tensor(), controls.tensor())


def _is_left_alone(seg: PlannedSeg) -> bool:
    """Whether nothing is pasted, so that overlapping SEGs stay as they are."""
    return seg.given is None and seg.skip in _LEFT_ALONE


def _crop(
    seg: PlannedSeg,
    result: SampledSeg | FailedSeg | None,
    pixels: ByteArray,
    sampled: ByteArray,
    given: ByteArray,
) -> FloatArray | None:
    """A SEG's final crop at its region's size; None if it has no image."""
    x1, y1, x2, y2 = seg.crop_region
    if isinstance(result, SampledSeg):
        return from_bytes(resize_lanczos(pixels_at(sampled, result.pixels), y2 - y1, x2 - x1))
    if seg.given is not None:
        return values_at(given, seg.given)
    if seg.skip == "skipped_empty_mask":
        return None
    return from_bytes(pixels[y1:y2, x1:x2])


def _add_image(images: Packer, crop: FloatArray, output: OutputOptions) -> Buffer | None:
    if output.seg_images == "none":
        return None
    if output.seg_images == "float32":
        flat = np.ascontiguousarray(crop).reshape(-1).view(np.uint8)
    else:
        pixels = to_pixels_rounded(crop)
        flat = encode(pixels, "png" if output.seg_images == "png" else "raw", output.quality)
    return Buffer(
        offset=images.add_bytes(flat),
        length=flat.size,
        shape=crop.shape,
        encoding=output.seg_images,
    )


def _add_controls(controls: Packer, seg: PlannedSeg, crops: ByteArray) -> tuple[Buffer, ...]:
    """Packs the control images of a SEG's chain as PNG files."""
    places = []
    for control in seg.controls:
        pixels = pixels_at(crops, control.hint)
        flat = encode(pixels, "png", quality=100)
        place = controls.add_bytes(flat)
        places.append(Buffer(offset=place, length=flat.size, shape=pixels.shape, encoding="png"))
    return tuple(places)


def _seg_report(
    index: int,
    batch_pass: int,
    seg: PlannedSeg,
    result: SampledSeg | FailedSeg | None,
    place: Buffer | None,
) -> SegReport:
    report = SegReport(
        index=index,
        batch_pass=batch_pass,
        status=seg.skip or "enhanced",
        label=seg.label,
        confidence=seg.confidence,
        bbox=seg.bbox,
        crop_region=seg.crop_region,
        image=place,
    )
    if result is None or seg.crop is None:
        return report
    options = {
        "prompt": seg.positives[0].text if seg.positives else None,
        "seed": result.seed,
    }
    if isinstance(result, FailedSeg):
        return report.model_copy(update={**options, "status": "failed", "error": result.error})
    outcome = {
        **options,
        "status": result.status,
        "sampled_size": (seg.crop.height, seg.crop.width),
        "steps_run": result.steps_run,
        "sample_s": round(result.sample_s, 6),
    }
    return report.model_copy(update=outcome)
