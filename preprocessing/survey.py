"""Checks a request by its JSON and file headers, and computes what it needs, before any work.

Nothing is decoded, resized or copied here. After the checks, all crop regions are inside the
picture, buffers inside their tensors, file headers as declared, names known and limits kept. Broken
pixels are found only when they are decoded.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from preprocessing.control import check_control
from preprocessing.images import check_size
from preprocessing.shapes import common_shape
from preprocessing.sizes import sampled_size
from request_plan.limits import Limits
from segs_client import boxes
from segs_client.arrays import ByteArray, checked_place
from segs_client.boxes import Size
from segs_client.contract import (
    Box,
    Buffer,
    ControlNet,
    DetailRequest,
    FloatBox,
    Prompt,
    SegItem,
    SegStatus,
    invalid,
)
from segs_client.scaling import scaled_boxes

_NOTHING: ByteArray = np.empty(0, dtype=np.uint8)
_PICTURE_BYTES = 3 + 3 + 12
"""Bytes per pixel of the picture: the input, the output, and float32 while SEGs are pasted."""
_WEBP_SIDE_PX = 16_383
"""Longest side in the WebP format."""
_PIXEL_BYTES, _VALUE_BYTES, _MASK_BYTES = 3, 12, 4


@dataclass(frozen=True)
class SurveyedSeg:
    """One SEG before its pixels are decoded."""

    region: Box
    """The crop region of its mask and its own crop, in pixels of ``segs.size``."""
    bbox: FloatBox
    """In pixels of the picture."""
    exact_region: Box
    crop_region: Box
    """The crop region in pixels of the picture, or grown for a common size."""
    size: Size | SegStatus
    """Sampled (height, width) if its mask is not empty, or why it is skipped."""
    chain: tuple[ControlNet, ...]
    chain_field: str


class Survey:
    """Checks one request.

    After :meth:`segs`, ``memory_bytes`` is the size of all arrays that the request needs, ``work``
    is in megapixel-steps, ``sampled_pixels`` counts all SEGs and passes, and ``picture_bytes`` is
    the size of all its pictures and masks as uint8.

    Args:
        size: (height, width) of the picture.
        profile_bytes: the most that its ICC profile may take.
        controlnets: names of the pipeline's.
        masks, images, controls: the request's flat tensors.
    """

    def __init__(
        self,
        request: DetailRequest,
        size: Size,
        controlnets: Collection[str],
        limits: Limits,
        *,
        profile_bytes: int,
        masks: ByteArray | None,
        images: ByteArray | None,
        controls: ByteArray | None,
    ) -> None:
        self._request = request
        self._size = size
        self._segs_size = request.segs.size or size
        self._known = controlnets
        self._limits = limits
        self._masks = _NOTHING if masks is None else masks
        self._images = _NOTHING if images is None else images
        self._controls = _NOTHING if controls is None else controls
        self._control_pictures: set[Buffer] = set()
        self.sampled_pixels = 0
        self.work = 0.0
        self._answer_bytes = profile_bytes
        self.memory_bytes = math.prod(size) * _PICTURE_BYTES + 2 * profile_bytes
        self.picture_bytes = math.prod(size) * _PIXEL_BYTES

    def segs(self) -> tuple[SurveyedSeg, ...]:
        """Checks all SEGs and returns them.

        Raises:
            ContractError: the first wrong field or exceeded limit.
        """
        request, limits = self._request, self._limits
        items = request.segs.items
        _check_most("segs.items", "too many", len(items), limits.max_segs)
        passes = len(items) * request.batch_size
        _check_most("batch_size", "too many SEGs in all passes", passes, limits.max_seg_passes)
        check_size(*self._segs_size, "segs.size", limits)
        self._check_output_format()
        self._prompt_masks(request.prompts, "prompts")
        self._prompt_masks(request.negatives, "negatives")
        self._check_chain(request.controlnets, "controlnets")
        return tuple(self._seg(index, item) for index, item in enumerate(items))

    def _seg(self, index: int, item: SegItem) -> SurveyedSeg:
        field = f"segs.items.{index}"
        region = self._region(item, field)
        self._check_arrays(item, region, field)
        bbox: FloatBox = item.bbox
        exact = region
        if self._segs_size != self._size:
            bbox, exact = scaled_boxes(item.bbox, region, self._segs_size, self._size, field)
        chain, chain_field = self._request.controlnets, "controlnets"
        if item.controlnets is not None:
            chain, chain_field = item.controlnets, f"{field}.controlnets"
            self._check_chain(chain, chain_field)
        size: Size | SegStatus = "skipped_by_request"
        if not item.skip:
            size = sampled_size(bbox, exact, self._request)
        crop_region = exact
        if not isinstance(size, str):
            if self._request.shapes == "throughput":
                crop_region, size = self._common(item, exact, size)
            self._count(item, size, len(chain), field)
            hints = sum(each.image is not None or each.preprocessor != "none" for each in chain)
            pixel_bytes = math.prod(size) * _PIXEL_BYTES
            self._take(pixel_bytes * (1 + hints + self._request.batch_size))
            if self._request.output.control_images:
                self._send(pixel_bytes * len(chain))
        self._take_region(item, region, crop_region)
        return SurveyedSeg(region, bbox, exact, crop_region, size, chain, chain_field)

    def _region(self, item: SegItem, field: str) -> Box:
        if item.crop_region is None:
            _check_centre(item.bbox, self._segs_size, f"{field}.bbox")
            factor, least = self._request.crop_factor, self._request.crop_min_size
            return boxes.crop_region(item.bbox, self._segs_size, factor, least)
        _check_inside(item.crop_region, self._segs_size, f"{field}.crop_region")
        return item.crop_region

    def _check_arrays(self, item: SegItem, region: Box, field: str) -> None:
        height, width = region[3] - region[1], region[2] - region[0]
        if item.mask is not None:
            _check_shape(item.mask, (height, width), f"{field}.mask.shape")
            checked_place(item.mask, self._masks, f"{field}.mask")
            self.picture_bytes += height * width
        if item.image is not None:
            _check_shape(item.image, (height, width, 3), f"{field}.image.shape")
            checked_place(item.image, self._images, f"{field}.image")
            self.picture_bytes += height * width * _PIXEL_BYTES

    def _common(self, item: SegItem, region: Box, size: Size) -> tuple[Box, Size]:
        """Region and size of throughput mode; the region of a given crop does not grow."""
        height, width = self._size
        within = (0, 0, width, height) if item.image is None else region
        most = self._limits.max_seg_pixels
        shape = common_shape(region, size, within, self._request.max_size, most)
        return shape.crop_region, shape.size

    def _prompt_masks(self, prompts: Sequence[Prompt], field: str) -> None:
        for index, prompt in enumerate(prompts):
            if prompt.mask is None:
                continue
            name = f"{field}.{index}.mask"
            if prompt.mask.shape not in (self._size, self._segs_size):
                shape = list(prompt.mask.shape)
                allowed = str(list(self._size))
                raise invalid(f"{name}.shape", "not the picture's", value=shape, allowed=allowed)
            checked_place(prompt.mask, self._masks, name)
            self.picture_bytes += math.prod(prompt.mask.shape)
            self._take((math.prod(self._size) + math.prod(prompt.mask.shape)) * _MASK_BYTES)

    def _check_chain(self, chain: Sequence[ControlNet], field: str) -> None:
        for index, control in enumerate(chain):
            name = f"{field}.{index}"
            check_control(control, self._known, name)
            if control.image is None or control.image in self._control_pictures:
                continue
            height, width, _ = control.image.shape
            check_size(height, width, f"{name}.image.shape", self._limits)
            checked_place(control.image, self._controls, f"{name}.image")
            self._control_pictures.add(control.image)
            self.picture_bytes += height * width * _PIXEL_BYTES
            self._take(height * width * _VALUE_BYTES + math.prod(self._size) * _PIXEL_BYTES)

    def _count(self, item: SegItem, size: Size, controls: int, field: str) -> None:
        request, limits = self._request, self._limits
        area = math.prod(size)
        if area > limits.max_seg_pixels:
            raise invalid(
                field,
                "would be sampled too large; lower guide_size or max_size",
                value=f"{size[1]}×{size[0]}",
                allowed=f"up to {limits.max_seg_pixels} pixels",
            )
        self.sampled_pixels += area * request.batch_size
        if self.sampled_pixels > limits.max_request_pixels:
            raise invalid(
                "segs.items",
                "the SEGs are too many or too large together",
                allowed=f"up to {limits.max_request_pixels} sampled pixels in all passes",
            )
        if request.stream.segment_pictures:
            self._send(area * _PIXEL_BYTES * request.batch_size)
        steps = request.steps if item.steps is None else item.steps
        denoise = request.denoise if item.denoise is None else item.denoise
        if steps / denoise > limits.max_schedule_steps:
            raise invalid(
                f"{field}.denoise",
                "steps / denoise is too large",
                value=f"{steps} / {denoise:g}",
                allowed=f"up to {limits.max_schedule_steps}",
            )
        sides = 2 + len(request.prompts) + len(request.negatives)
        runs = steps * request.cycle * request.batch_size * sides / 2 * (1 + controls)
        self.work += area / 1e6 * runs
        if self.work > limits.max_work:
            raise invalid(
                "steps",
                "too much work; take fewer SEGs, steps, cycles or passes, or smaller sizes",
                value=f"{self.work:.0f} and more",
                allowed=f"up to {limits.max_work:.0f} megapixel-steps of a request",
            )

    def _take_region(self, item: SegItem, region: Box, crop_region: Box) -> None:
        """Counts a SEG's mask and its own crop, as received and as kept, and the crops of the
        response."""
        each = _MASK_BYTES + (0 if item.image is None else _VALUE_BYTES)
        sent = {"none": 0, "float32": _VALUE_BYTES}.get(
            self._request.output.seg_images, _PIXEL_BYTES
        )
        sent_bytes = boxes.area(crop_region) * sent * self._request.batch_size
        self._take((boxes.area(region) + boxes.area(crop_region)) * each + sent_bytes)
        self._send(sent_bytes)

    def _check_output_format(self) -> None:
        form = self._request.output.image
        if form != "none":
            self._send(math.prod(self._size) * _PIXEL_BYTES)
        if form == "webp" and max(self._size) > _WEBP_SIDE_PX:
            allowed = f"another form, or sides up to {_WEBP_SIDE_PX} px"
            raise invalid("output.image", "too large for it", value=form, allowed=allowed)

    def _send(self, size_bytes: int) -> None:
        self._answer_bytes += size_bytes
        most = self._limits.max_answer_bytes
        if self._answer_bytes > most:
            raise invalid(
                "output",
                "too much to send back",
                value=f"{self._answer_bytes} bytes and more",
                allowed=f"up to {most} bytes",
            )

    def _take(self, size_bytes: int) -> None:
        self.memory_bytes += size_bytes
        most = self._limits.max_request_memory_bytes
        if self.memory_bytes > most:
            raise invalid(
                "segs.items",
                "the picture, crops, masks and control images are too large together",
                value=f"{self.memory_bytes} bytes and more",
                allowed=f"up to {most} bytes of a request",
            )


def _check_most(field: str, message: str, count: int, most: int) -> None:
    if count > most:
        raise invalid(field, message, value=count, allowed=f"up to {most}")


def _check_inside(box: Box, size: Size, field: str) -> None:
    if box[2] > size[1] or box[3] > size[0]:
        allowed = f"x up to {size[1]}, y up to {size[0]}"
        raise invalid(field, "outside the picture", value=list(box), allowed=allowed)


def _check_centre(box: FloatBox, size: Size, field: str) -> None:
    """A box at the picture's edge may reach out of it; one of another picture hardly passes."""
    height, width = size
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    if not (0 <= x <= width and 0 <= y <= height):
        message = f"its centre x {x:g}, y {y:g} is outside the picture"
        allowed = f"boxes with their centre inside: x 0 … {width}, y 0 … {height}"
        raise invalid(field, message, value=list(box), allowed=allowed)


def _check_shape(place: Buffer, expected: tuple[int, ...], field: str) -> None:
    if place.shape != expected:
        shape = list(place.shape)
        raise invalid(field, "not the crop region's", value=shape, allowed=str(list(expected)))
