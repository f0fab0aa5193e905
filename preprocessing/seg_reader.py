"""Reads the SEGs of one request: regions, masks, crops, hints, and the options of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from preprocessing import limits
from preprocessing.control import ControlReader
from preprocessing.images import Pixels, Values, read_buffer
from preprocessing.packing import Packer
from preprocessing.plan import Piece, PlannedPrompt, PlannedSeg
from preprocessing.prompts import PromptBook
from preprocessing.shapes import Shape, common_shape
from preprocessing.sizes import sampled_size
from segs_client import boxes
from segs_client.arrays import FloatArray, resize_bilinear, resize_lanczos, to_pixels
from segs_client.contract import Box, DetailRequest, Prompt, SegItem, SegStatus, invalid
from segs_client.scaling import scaled_seg
from segs_client.segs import Seg, box_mask
from segs_client.tools.regions import moved


class SegReader:
    """Reads SEGs in order, collecting their arrays in ``crops``, ``masks`` and ``given``.

    Args:
        pixels: the picture ``[H, W, 3]``.
        controlnets: those of the pipeline.
        masks, images, controls: the request's flat tensors.
    """

    def __init__(
        self,
        request: DetailRequest,
        pixels: Pixels,
        controlnets: Iterable[str],
        *,
        masks: Pixels | None,
        images: Pixels | None,
        controls: Pixels | None,
    ) -> None:
        self._request = request
        self._pixels = pixels
        self._mask_tensor = masks
        self._image_tensor = images
        self._size = pixels.shape[0], pixels.shape[1]
        self._segs_size = request.segs.size or self._size
        self._sampled_pixels = 0
        self._book = PromptBook(request)
        self.crops, self.masks, self.given = Packer(), Packer(), Packer()
        self._crops_of_picture: dict[tuple[Box, tuple[int, int]], tuple[Pixels, Piece]] = {}
        self._controls = ControlReader(controls, self._size, tuple(controlnets), self.crops)
        self._positives = self._parts(request.prompts, "prompts")
        self._negatives = self._parts(request.negatives, "negatives")

    def read(self, index: int, item: SegItem) -> PlannedSeg:
        """Plans one SEG.

        Raises:
            ContractError: what is wrong with it.
        """
        field = f"segs.items.{index}"
        region = self._region(item, field)
        mask = self._mask(item, region, field)
        given = self._given(item, region, field)
        bbox, crop_region = item.bbox, region
        if self._segs_size != self._size:
            own = Seg(mask, bbox, region, image=given)
            scaled = scaled_seg(own, self._segs_size, self._size, field)
            bbox, crop_region, mask, given = (
                scaled.bbox,
                scaled.crop_region,
                scaled.mask,
                scaled.image,
            )
        size = self._sampled_size(item, bbox, crop_region, mask)
        if self._request.shapes == "throughput" and not isinstance(size, str):
            shape = self._common_shape(crop_region, size, given)
            mask = moved(mask, crop_region, shape.crop_region)
            crop_region, size = shape.crop_region, shape.size
        planned = PlannedSeg(
            bbox=bbox,
            crop_region=crop_region,
            label=item.label,
            confidence=item.confidence,
            mask=self.masks.add(mask),
            given=None if given is None else self.given.add(given),
        )
        if isinstance(size, str):
            return planned.model_copy(update={"skip": size})
        self._count(size, field)
        crop, place = self._crop(crop_region, size, given)
        chain, chain_field = self._request.controlnets, "controlnets"
        if item.controlnets is not None:
            chain, chain_field = item.controlnets, f"{field}.controlnets"
        controls = self._controls.plan(chain, crop_region, crop, place, chain_field)
        update = {"crop": place, "controls": controls, **self._options(index, item)}
        return planned.model_copy(update=update)

    def _crop(
        self, region: Box, size: tuple[int, int], given: Values | None
    ) -> tuple[Pixels, Piece]:
        """The resized crop and its place; of the picture's own each is made and sent once."""
        known = self._crops_of_picture.get((region, size))
        if given is None and known is not None:
            return known
        x1, y1, x2, y2 = region
        crop = self._pixels[y1:y2, x1:x2] if given is None else to_pixels(given)
        crop = resize_lanczos(crop, *size)
        made = crop, self.crops.add(crop)
        if given is None:
            self._crops_of_picture[region, size] = made
        return made

    def _sampled_size(
        self, item: SegItem, bbox: Box, crop_region: Box, mask: FloatArray
    ) -> tuple[int, int] | SegStatus:
        """The (height, width) that the reference samples a SEG at, or why it is left out."""
        if item.skip:
            return "skipped_by_request"
        if not mask.any():
            return "skipped_empty_mask"
        return sampled_size(bbox, crop_region, self._request)

    def _common_shape(
        self, crop_region: Box, exact: tuple[int, int], given: Values | None
    ) -> Shape:
        """The region and size of throughput mode; a given crop cannot grow, so its region stays."""
        height, width = self._size
        within = (0, 0, width, height) if given is None else crop_region
        return common_shape(crop_region, exact, within, self._request.max_size)

    def _options(self, index: int, item: SegItem) -> Mapping[str, Any]:
        """Prompts, seed, steps, cfg and denoise of a SEG: its own, or else the request's."""
        request = self._request
        positives = (PlannedPrompt(text=self._book.positive(index, item)), *self._positives)
        negatives = (PlannedPrompt(text=self._book.negative(item)), *self._negatives)
        options: dict[str, Any] = {
            name: getattr(request if getattr(item, name) is None else item, name)
            for name in ("seed", "steps", "cfg", "denoise")
        }
        options |= {"positives": positives, "negatives": negatives}
        refiner = request.refiner
        if refiner is not None:
            for side, own, same in (
                ("refiner_positives", refiner.prompt, positives),
                ("refiner_negatives", refiner.negative, negatives),
            ):
                text = None if own is None else self._book.resolved(own, item.seed)
                options[side] = same if text is None else (PlannedPrompt(text=text),)
        return options

    def _parts(self, prompts: Iterable[Prompt], field: str) -> tuple[PlannedPrompt, ...]:
        """Conditionings beside the main one, their masks checked and packed."""
        return tuple(
            PlannedPrompt(
                text=self._book.resolved(prompt.text),
                mask=self._prompt_mask(prompt, f"{field}.{index}.mask"),
                strength=prompt.strength,
            )
            for index, prompt in enumerate(prompts)
        )

    def _prompt_mask(self, prompt: Prompt, field: str) -> Piece | None:
        if prompt.mask is None:
            return None
        mask = read_buffer(self._mask_tensor, prompt.mask, field)
        if mask.shape not in (self._size, self._segs_size):
            raise invalid(
                f"{field}.shape", "not the picture's", value=mask.shape, allowed=str(self._size)
            )
        return self.masks.add(resize_bilinear(mask, *self._size))

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


def _check_inside(box: Box, size: tuple[int, int], field: str) -> None:
    if box[2] > size[1] or box[3] > size[0]:
        allowed = f"x up to {size[1]}, y up to {size[0]}"
        raise invalid(field, "outside the picture", value=list(box), allowed=allowed)


def _check_shape(shape: tuple[int, ...], expected: tuple[int, ...], field: str) -> None:
    if tuple(shape) != expected:
        raise invalid(
            field, "not the crop region's", value=list(shape), allowed=str(list(expected))
        )
