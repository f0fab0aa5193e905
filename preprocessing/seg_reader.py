"""Reads the SEGs of one request: masks, crops, hints, and the options of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from preprocessing.control import ControlReader
from preprocessing.images import read_buffer
from preprocessing.prompts import PromptBook
from preprocessing.survey import SurveyedSeg
from request_plan.packing import Packer
from request_plan.plan import Piece, PlannedPrompt, PlannedSeg
from segs_client.arrays import ByteArray, FloatArray, resize_bilinear, resize_lanczos, to_pixels
from segs_client.boxes import Size
from segs_client.contract import Box, DetailRequest, Prompt, SegItem
from segs_client.scaling import scaled_seg
from segs_client.segs import Seg, box_mask
from segs_client.tools.regions import moved


class SegReader:
    """Reads SEGs in order, collecting their arrays in ``crops``, ``masks`` and ``given``.

    Args:
        pixels: the picture ``[H, W, 3]``.
        book: the prompts.
        masks, images, controls: the request's flat tensors.

    What :class:`~preprocessing.survey.Survey` checks is not checked again.
    """

    def __init__(
        self,
        request: DetailRequest,
        pixels: ByteArray,
        book: PromptBook,
        *,
        masks: ByteArray | None,
        images: ByteArray | None,
        controls: ByteArray | None,
    ) -> None:
        self._request = request
        self._pixels = pixels
        self._mask_tensor = masks
        self._image_tensor = images
        self._size = pixels.shape[0], pixels.shape[1]
        self._segs_size = request.segs.size or self._size
        self._book = book
        self.crops, self.masks, self.given = Packer(), Packer(), Packer()
        self._crops_of_picture: dict[tuple[Box, Size], tuple[ByteArray, Piece]] = {}
        self._controls = ControlReader(controls, self._size, self.crops)
        self._positives = self._parts(request.prompts, "prompts")
        self._negatives = self._parts(request.negatives, "negatives")

    def read(self, index: int, item: SegItem, surveyed: SurveyedSeg) -> PlannedSeg:
        """Plans one SEG.

        Raises:
            ContractError: its files or values are broken.
        """
        mask, given = self._arrays(item, surveyed, f"segs.items.{index}")
        size, crop_region = surveyed.size, surveyed.crop_region
        if not (item.skip or mask.any()):
            size, crop_region = "skipped_empty_mask", surveyed.exact_region
        mask = moved(mask, surveyed.exact_region, crop_region)
        planned = PlannedSeg(
            bbox=surveyed.bbox,
            crop_region=crop_region,
            label=item.label,
            confidence=item.confidence,
            mask=self.masks.add(mask),
            given=None if given is None else self.given.add(given),
        )
        if isinstance(size, str):
            return planned.model_copy(update={"skip": size})
        crop, place = self._crop(crop_region, size, given)
        chain = surveyed.chain, crop_region, crop, place, surveyed.chain_field
        update = {
            "crop": place,
            "controls": self._controls.plan(*chain),
            **self._options(index, item),
        }
        return planned.model_copy(update=update)

    def _arrays(
        self, item: SegItem, surveyed: SurveyedSeg, field: str
    ) -> tuple[FloatArray, FloatArray | None]:
        """A SEG's mask and its own crop, in pixels of the picture."""
        mask = box_mask(item.bbox, surveyed.region)
        if item.mask is not None:
            mask = read_buffer(self._mask_tensor, item.mask, f"{field}.mask")
        given = None
        if item.image is not None:
            given = read_buffer(self._image_tensor, item.image, f"{field}.image")
        if self._segs_size == self._size:
            return mask, given
        own = Seg(mask, item.bbox, surveyed.region, image=given)
        scaled = scaled_seg(own, self._segs_size, self._size, field)
        return scaled.mask, scaled.image

    def _crop(self, region: Box, size: Size, given: FloatArray | None) -> tuple[ByteArray, Piece]:
        """The resized crop and its place; a crop of the picture is made and packed once."""
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

    def _options(self, index: int, item: SegItem) -> Mapping[str, Any]:
        """Prompts, seed, steps, cfg and denoise of a SEG, by default the request's."""
        request = self._request
        positives = (PlannedPrompt(text=self._book.positive(index, item)), *self._positives)
        negatives = (PlannedPrompt(text=self._book.negative(index, item)), *self._negatives)
        options: dict[str, Any] = {
            name: getattr(request if getattr(item, name) is None else item, name)
            for name in ("seed", "steps", "cfg", "denoise")
        }
        options |= {"positives": positives, "negatives": negatives}
        refiner = request.refiner
        if refiner is not None:
            for side, name, same in (
                ("refiner_positives", "prompt", positives),
                ("refiner_negatives", "negative", negatives),
            ):
                text = self._book.refiner(name, item)
                options[side] = same if text is None else (PlannedPrompt(text=text),)
        return options

    def _parts(self, prompts: Iterable[Prompt], field: str) -> tuple[PlannedPrompt, ...]:
        """The further conditionings, with their masks checked and packed."""
        return tuple(
            PlannedPrompt(
                text=self._book.more(field, index),
                mask=self._prompt_mask(prompt, f"{field}.{index}.mask"),
                strength=prompt.strength,
            )
            for index, prompt in enumerate(prompts)
        )

    def _prompt_mask(self, prompt: Prompt, field: str) -> Piece | None:
        if prompt.mask is None:
            return None
        mask = read_buffer(self._mask_tensor, prompt.mask, field)
        return self.masks.add(resize_bilinear(mask, *self._size))
