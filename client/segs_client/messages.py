"""Building of requests and parsing of responses: pure functions for all clients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from pydantic import ValidationError

from segs_client import arrays, contract
from segs_client.arrays import ByteArray, FloatArray
from segs_client.boxes import Boxes, FloatBox, Size, checked_box
from segs_client.colors import ColorOption
from segs_client.contract import (
    DetailRequest,
    Report,
    SegReport,
    invalid,
)
from segs_client.errors import ServerError, contract_checked
from segs_client.pictures import Picture, decode_picture, encode_picture, read_pixels
from segs_client.refusals import closest_name
from segs_client.scaling import scale_box, warn_if_distorted
from segs_client.segs import Seg, Segs, box_mask
from segs_client.segs_hints import hint_for
from segs_client.tools.regions import moved
from segs_client.unit_floats import as_unit_floats

_OWN_FIELDS = ("version", "image", "segs")
OUTPUTS = ("report", "detailed_image", "detailed_segs", "used_control_images")
"""Names of a response's tensors, as arguments of :func:`parse`."""
_SEGS = (
    "Segs, or a list of boxes x1, y1, x2, y2; Segs of others' are made by tools.from_ultralytics, "
    "from_supervision, from_coco, from_detections, from_polygons and from_impact_pack"
)
OPTIONS = tuple(name for name in DetailRequest.model_fields if name not in _OWN_FIELDS)


@dataclass(frozen=True, eq=False)
class BuiltRequest:
    """A checked request and its tensors.

    Attributes:
        request: the ``request`` tensor's content.
        image: uint8 [n]: an encoded file or raw pixels.
        masks: uint8 [n], or None if no SEG has a mask.
        seg_images: uint8 [n], or None if no SEG has a crop.
        control_images: uint8 [n], or None if no ControlNet has a picture.
        image_size: height and width of the upright picture.
        segs: the SEGS sent, or None if boxes were sent.
        profile: the ICC profile, of RGB, of the picture's values and the result's.
    """

    request: DetailRequest
    image: ByteArray
    masks: ByteArray | None
    seg_images: ByteArray | None
    control_images: ByteArray | None
    image_size: Size
    segs: Segs | None
    profile: bytes | None = None


@dataclass(frozen=True, eq=False)
class DetailResult:
    """The server's response.

    Attributes:
        image: the picture with all detailed crops pasted, RGB, upright, with the ICC profile of the
            picture that was sent as ``info["icc_profile"]``; None with output.image "none".
        segs: one SEG per SEG and pass, in the order of ``report.segs``, in pixels of the picture;
            with its detailed crop if output.seg_images requests it (the original crop if it was
            skipped or failed).
        report: the result of each SEG.
        control_images: per SEG of ``report.segs`` its ControlNets' control images, RGB; if
            output.control_images requests them.
        url: the server that made it.
        tries: the number of tries, those with UNAVAILABLE included.
    """

    image: Image.Image | None
    segs: Segs
    report: Report
    control_images: tuple[tuple[Image.Image, ...], ...] = ()
    url: str = ""
    tries: int = 1

    @property
    def failed(self) -> tuple[SegReport, ...]:
        """The failed SEGs with their ``error``; their regions are unchanged. (If all SEGs fail, the
        call itself raises ServerError.)"""
        return tuple(seg for seg in self.report.segs if seg.status == "failed")


def _boxes(boxes: Boxes) -> list[FloatBox]:
    kind = type(boxes).__name__
    if isinstance(boxes, Iterator):
        boxes = list(boxes)
    if (hint := hint_for(boxes)) is not None:
        allowed = f"Segs, as {hint.maker} makes them of it, or a list of boxes x1, y1, x2, y2"
        raise invalid("segs", hint.what, value=kind, allowed=allowed)
    if not isinstance(boxes, Iterable) or isinstance(boxes, (bytes, Mapping)):
        raise invalid("segs", "not SEGS", value=kind, allowed=_SEGS)
    given = list(boxes)
    if len(given) == 4 and all(isinstance(edge, (int, float, np.number)) for edge in given):
        raise invalid("segs", "one box", value=given, allowed="a list of boxes, or Segs")
    for index, box in enumerate(given):
        if not isinstance(box, (int, float, Sequence)) and not hasattr(box, "__array__"):
            kind = type(box).__name__
            raise invalid(f"segs.items.{index}.bbox", "not a box", value=kind, allowed=_SEGS)
    return [checked_box(box, f"segs.items.{index}.bbox") for index, box in enumerate(given)]


@contract_checked()
def build(
    image: Picture,
    segs: Segs | Boxes,
    *,
    pipeline: str,
    **options: Any,
) -> BuiltRequest:
    """Builds a request.

    Args:
        image: see :func:`segs_client.pictures.encode_picture`.
        segs: SEGS, or boxes (x1, y1, x2, y2; half-open pixels, whole or with fractions; a list, or
            an array [N, 4]) around which the server makes crop regions with ``crop_factor`` and
            ``crop_min_size``.
        pipeline: name of a compiled checkpoint.
        options: the other fields of :class:`~segs_client.contract.DetailRequest`, with pictures and
            arrays for its buffers, e.g. ``controlnets=[{"name": "edges", "image": picture}]``,
            ``prompts=[{"text": "a hat", "mask": array}]``.

    Raises:
        InvalidRequest: an unknown option or a value out of range.
        OSError: the image's path cannot be read.

    Example:
        >>> built = build(np.zeros((64, 64, 3)), [(8, 8, 40, 40)], pipeline="base", steps=4)
        >>> built.request.steps, built.request.segs.items[0].bbox
        (4, (8, 8, 40, 40))
    """
    refuse_unknown(options)
    encoded = encode_picture(image, _color(options))
    size = encoded.size
    tensors = _Tensors()
    options = tensors.packed(options)
    if isinstance(segs, Segs):
        warn_if_distorted(segs.size, size)
        items = [_item(seg, tensors) for seg in segs]
    else:
        items = [{"bbox": box} for box in _boxes(segs)]
    declared_segs = {"size": segs.size if isinstance(segs, Segs) else size, "items": items}
    try:
        request = DetailRequest.model_validate(
            {"pipeline": pipeline, "image": encoded.declared, "segs": declared_segs, **options}
        )
    except ValidationError as error:
        raise contract.from_validation_error(error) from None
    return BuiltRequest(
        request=request,
        image=encoded.data,
        masks=tensors.masks.tensor(),
        seg_images=tensors.crops.tensor(),
        control_images=tensors.controls.tensor(),
        image_size=size,
        segs=segs if isinstance(segs, Segs) else None,
        profile=encoded.profile,
    )


def parse(
    built: BuiltRequest,
    report: str | bytes,
    image: ByteArray,
    seg_images: ByteArray,
    control_images: ByteArray,
) -> DetailResult:
    """Reads the response to ``built``.

    Args:
        built: the request; the resulting SEGS have its masks.
        report: JSON of a :class:`~segs_client.contract.Report`.
        image: uint8 [n], the ``detailed_image`` output.
        seg_images: uint8 [n], the ``detailed_segs`` output.
        control_images: uint8 [n], the ``used_control_images`` output.

    Raises:
        ServerError: the response breaks the contract.
    """
    try:
        parsed = Report.model_validate_json(report)
        picture = decode_picture(parsed.image, image, built.profile)
        height, width, _ = parsed.image.shape
        items = tuple(_answered(built, seg, seg_images) for seg in parsed.segs)
        controls = tuple(_controls(seg, control_images) for seg in parsed.segs)
        return DetailResult(picture, Segs((height, width), items), parsed, controls)
    except (ValueError, LookupError) as error:  # also pydantic's and the contract's errors
        raise ServerError(f"the server's answer breaks the contract: {error}") from error


class _Concatenation:
    """Collects arrays into one byte tensor."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._length = 0

    def add(self, array: FloatArray) -> contract.Buffer:
        buffer, data = arrays.encode(array, self._length)
        self._parts.append(data)
        self._length += len(data)
        return buffer

    def tensor(self) -> ByteArray | None:
        return np.frombuffer(b"".join(self._parts), np.uint8) if self._parts else None


@contract_checked()
def refuse_unknown(options: Iterable[str]) -> None:
    """Refuses unknown options of a request.

    Raises:
        InvalidRequest: has the name and the closest known one.
    """
    for name in options:
        if name not in OPTIONS:
            closest = closest_name(name, OPTIONS)
            known = ", ".join(OPTIONS)
            allowed = f"closest is '{closest}' among {known}" if closest else known
            raise invalid(name, "unknown option", allowed=allowed)


def _color(options: Mapping[str, Any]) -> ColorOption:
    """What ``output.color`` asks for; a wrong value is refused later."""
    output = options.get("output")
    color = output.get("color") if isinstance(output, Mapping) else getattr(output, "color", None)
    return "srgb" if color == "srgb" else "keep"


class _Tensors:
    """Collects the byte tensors of one request."""

    def __init__(self) -> None:
        self.masks, self.crops, self.controls = (
            _Concatenation(),
            _Concatenation(),
            _Concatenation(),
        )

    def packed(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options with pictures and arrays replaced by their places."""
        packed = dict(options)
        packers = {
            "prompts": self._prompt,
            "negatives": self._prompt,
            "controlnets": self._control,
        }
        for name, pack in packers.items():
            given = options.get(name)
            if isinstance(given, Iterable) and not isinstance(given, (str, bytes, Mapping)):
                packed[name] = [pack(each) for each in given]
        return packed

    def _prompt(self, prompt: Mapping[str, Any]) -> Mapping[str, Any]:
        if not isinstance(prompt, Mapping) or prompt.get("mask") is None:
            return prompt
        mask = as_unit_floats(prompt["mask"], "mask", 2)
        return {**prompt, "mask": self.masks.add(mask)}

    def _control(self, control: Mapping[str, Any]) -> Mapping[str, Any]:
        if not isinstance(control, Mapping) or control.get("image") is None:
            return control
        pixels = read_pixels(control["image"])
        return {**control, "image": self.controls.add(arrays.from_bytes(pixels))}


def _item(seg: Seg, tensors: _Tensors) -> dict[str, Any]:
    return {
        **tensors.packed(seg.options),
        "bbox": seg.bbox,
        "crop_region": seg.crop_region,
        "label": seg.label,
        "confidence": seg.confidence,
        "mask": tensors.masks.add(seg.mask),
        "image": None if seg.image is None else tensors.crops.add(seg.image),
    }


def _answered(built: BuiltRequest, seg: SegReport, seg_images: ByteArray) -> Seg:
    if built.segs is None:
        mask = box_mask(seg.bbox, seg.crop_region)
    else:
        sent = built.segs[seg.index]
        region = scale_box(sent.crop_region, built.segs.size, built.image_size)
        x1, y1, x2, y2 = region
        mask = arrays.resize_bilinear(sent.mask, y2 - y1, x2 - x1)
        if region != seg.crop_region:  # grown for a common size
            mask = moved(mask, region, seg.crop_region)
    return Seg(
        mask=mask,
        bbox=seg.bbox,
        crop_region=seg.crop_region,
        confidence=seg.confidence,
        label=seg.label,
        image=_crop(seg, seg_images),
    )


def _controls(seg: SegReport, control_images: ByteArray) -> tuple[Image.Image, ...]:
    return tuple(
        Image.fromarray(arrays.to_pixels_rounded(arrays.decode(place, control_images, "control")))
        for place in seg.control_images
    )


def _crop(seg: SegReport, seg_images: ByteArray) -> FloatArray | None:
    if seg.image is None:
        return None
    return arrays.decode(seg.image, seg_images, f"segs.{seg.index}.image")
