"""The first step: a request and its bytes become a plan and arrays of known shape."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass

from preprocessing import limits
from preprocessing.images import (
    Pixels,
    Values,
    decode_input,
    read_buffer,
    resize_lanczos,
    to_pixels,
    to_values,
)
from preprocessing.packing import Packer
from preprocessing.plan import Plan, PlannedSeg
from preprocessing.sizes import sampled_size, scale_box
from segs_client import boxes
from segs_client.arrays import FloatArray, resize_bilinear
from segs_client.contract import Box, DetailRequest, SegItem, SegOptions, invalid, parse_request
from segs_client.segs import box_mask


@dataclass(frozen=True)
class Prepared:
    """The plan and the flat uint8 tensors it points into."""

    plan: Plan
    canvas: Pixels
    """The picture's pixels, ``[H·W·3]``."""
    crops: Pixels
    """Crops at the size they are sampled at."""
    masks: Pixels
    """Masks of the crop regions, float32."""
    given: Pixels
    """The SEGS' own crops, float32."""


def prepare(
    request_json: bytes,
    image: Pixels,
    masks: Pixels | None,
    seg_images: Pixels | None,
    *,
    pipelines: Collection[str],
    request_id: str = "",
    deadline_s: float | None = None,
) -> Prepared:
    """Validates a request and brings every crop to its sampled size.

    Args:
        image, masks, seg_images: the request's flat uint8 tensors.
        pipelines: the names that may be asked for.
        deadline_s: ``time.time()`` at which the answer is worthless.

    Raises:
        ContractError: whatever is wrong with the input, naming the field.
    """
    start_s = time.perf_counter()
    request = parse_request(request_json)
    if request.pipeline not in pipelines:
        raise invalid(
            "pipeline", "unknown", value=request.pipeline, allowed=", ".join(sorted(pipelines))
        )
    _refuse_unsupported(request)
    items = request.segs.items
    if len(items) > limits.MAX_SEGS:
        raise invalid(
            "segs.items", "too many", value=len(items), allowed=f"up to {limits.MAX_SEGS}"
        )
    pixels = decode_input(image, request.image)
    size = pixels.shape[0], pixels.shape[1]
    reader = _SegReader(request, pixels, masks, seg_images)
    segs = tuple(reader.read(index, item) for index, item in enumerate(items))
    plan = Plan(
        request=request,
        request_id=request_id,
        deadline_s=deadline_s,
        image_size=size,
        segs=segs,
        prepare_s=time.perf_counter() - start_s,
    )
    return Prepared(
        plan,
        pixels.reshape(-1),
        reader.crops.tensor(),
        reader.masks.tensor(),
        reader.given.tensor(),
    )


class _SegReader:
    """Reads the SEGs of one request in order, collecting their arrays."""

    def __init__(
        self,
        request: DetailRequest,
        pixels: Pixels,
        mask_tensor: Pixels | None,
        image_tensor: Pixels | None,
    ) -> None:
        self._request = request
        self._pixels = pixels
        self._mask_tensor = mask_tensor
        self._image_tensor = image_tensor
        self._size = pixels.shape[0], pixels.shape[1]
        self._segs_size = request.segs.size or self._size
        self._sampled_pixels = 0
        self.crops, self.masks, self.given = Packer(), Packer(), Packer()

    def read(self, index: int, item: SegItem) -> PlannedSeg:
        field = f"segs.items.{index}"
        region = self._region(item, field)
        mask = self._mask(item, region, field)
        given = self._given(item, region, field)
        bbox, crop_region = item.bbox, region
        if self._segs_size != self._size:
            bbox = scale_box(bbox, self._segs_size, self._size)
            crop_region = scale_box(region, self._segs_size, self._size)
            _check_area(bbox, f"{field}.bbox")
            _check_area(crop_region, f"{field}.crop_region")
            height, width = crop_region[3] - crop_region[1], crop_region[2] - crop_region[0]
            mask = resize_bilinear(mask, height, width)
            if given is not None:
                given = to_values(resize_lanczos(to_pixels(given), height, width))
        planned = PlannedSeg(
            bbox=bbox,
            crop_region=crop_region,
            label=item.label,
            confidence=item.confidence,
            mask=self.masks.add(mask),
            given=None if given is None else self.given.add(given),
        )
        if not mask.any():
            return planned.model_copy(update={"skip": "skipped_empty_mask"})
        size = sampled_size(bbox, crop_region, self._request)
        if isinstance(size, str):
            return planned.model_copy(update={"skip": size})
        self._count(size, field)
        x1, y1, x2, y2 = crop_region
        crop = self._pixels[y1:y2, x1:x2] if given is None else to_pixels(given)
        return planned.model_copy(update={"crop": self.crops.add(resize_lanczos(crop, *size))})

    def _region(self, item: SegItem, field: str) -> Box:
        height, width = self._segs_size
        if item.crop_region is None:
            _check_inside(item.bbox, self._segs_size, f"{field}.bbox")
            factor, least = self._request.crop_factor, self._request.crop_min_size
            return boxes.crop_region(item.bbox, (height, width), factor, least)
        _check_inside(item.crop_region, self._segs_size, f"{field}.crop_region")
        return item.crop_region

    def _mask(self, item: SegItem, region: Box, field: str) -> FloatArray:
        height, width = region[3] - region[1], region[2] - region[0]
        if item.mask is None:
            return box_mask(item.bbox, region)
        _check_shape(item.mask.shape, (height, width), f"{field}.mask.shape")
        return read_buffer(self._mask_tensor, item.mask, f"{field}.mask")

    def _given(self, item: SegItem, region: Box, field: str) -> Values | None:
        if item.image is None:
            return None
        height, width = region[3] - region[1], region[2] - region[0]
        _check_shape(item.image.shape, (height, width, 3), f"{field}.image.shape")
        return read_buffer(self._image_tensor, item.image, f"{field}.image")

    def _count(self, size: tuple[int, int], field: str) -> None:
        area = size[0] * size[1]
        if area > limits.MAX_SAMPLED_PIXELS:
            raise invalid(
                field,
                "would be sampled too large; lower guide_size or max_size",
                value=f"{size[1]}×{size[0]}",
                allowed=f"up to {limits.MAX_SAMPLED_PIXELS} pixels",
            )
        self._sampled_pixels += area * self._request.batch_size
        if self._sampled_pixels > limits.MAX_REQUEST_SAMPLED_PIXELS:
            raise invalid(
                "segs.items",
                "the SEGs are too many or too large together",
                allowed=f"up to {limits.MAX_REQUEST_SAMPLED_PIXELS} sampled pixels in all passes",
            )


_UNSUPPORTED = (
    "prompts",
    "negatives",
    "seg_prompts",
    "wildcards",
    "refiner",
    "inpaint_model",
    "scheduler_func",
    "controlnets",
)


def _refuse_unsupported(request: DetailRequest) -> None:
    """Refuses what the contract has and the engine cannot do yet, rather than ignore it."""
    for name in _UNSUPPORTED:
        if getattr(request, name):
            raise invalid(name, "not supported yet", allowed="its default")
    for index, item in enumerate(request.segs.items):
        for name in SegOptions.model_fields:
            if getattr(item, name) != SegOptions.model_fields[name].default:
                field = f"segs.items.{index}.{name}"
                raise invalid(field, "not supported yet", allowed="its default")


def _check_inside(box: Box, size: tuple[int, int], field: str) -> None:
    if box[2] > size[1] or box[3] > size[0]:
        allowed = f"x up to {size[1]}, y up to {size[0]}"
        raise invalid(field, "outside the picture", value=list(box), allowed=allowed)


def _check_shape(shape: tuple[int, ...], expected: tuple[int, ...], field: str) -> None:
    if tuple(shape) != expected:
        raise invalid(
            field, "not the crop region's", value=list(shape), allowed=str(list(expected))
        )


def _check_area(box: Box, field: str) -> None:
    if box[2] <= box[0] or box[3] <= box[1]:
        raise invalid(field, "nothing is left of it at the picture's size", value=list(box))
