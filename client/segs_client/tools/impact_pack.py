"""SEGS from those of ComfyUI's Impact Pack, read by their fields."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from segs_client.boxes import Size, agreed_size, checked_size
from segs_client.contract import invalid
from segs_client.conversions import as_array
from segs_client.errors import contract_checked, within
from segs_client.pictures import Picture, size_of
from segs_client.segs import Seg, Segs

_ALLOWED = "((height, width), [SEG, …])"
_NEEDED = ("cropped_mask", "crop_region", "bbox")
_NAMES = {"mask": "cropped_mask", "image": "cropped_image"}
"""Impact Pack's names of a :class:`Seg`'s fields."""


@contract_checked()
def from_impact_pack(segs: Any, size: Size | Picture | None = None) -> Segs:
    """The SEGS of ComfyUI's Impact Pack, as one of its nodes returns them.

    Control images and ControlNets (``control_net_wrapper``) are ComfyUI's objects and cannot be
    sent: they are left out with a warning, see ``controlnets`` of the request.

    Args:
        segs: ``((height, width), [SEG, …])``, or a node's outputs with it alone, ``(segs,)``. A SEG
            is an object or a dict with ``cropped_mask`` [h, w] or [1, h, w], ``crop_region`` and
            ``bbox`` (x1, y1, x2, y2), and optionally ``cropped_image`` [h, w, 3] or [1, h, w, 3] in
            0..1, ``confidence`` and ``label``; arrays or torch tensors.
        size: the picture, or its height and width; required only for SEGS of size (0, 0) without a
            SEG, as of a detector that found nothing.

    Raises:
        InvalidRequest: not such SEGS, or of another size; names the SEG and its field.
        OSError: the picture's path cannot be read.

    Example:
        >>> from types import SimpleNamespace as SEG
        >>> import numpy as np
        >>> face = SEG(cropped_image=None, cropped_mask=np.ones((30, 30)), confidence=0.9,
        ...            crop_region=[0, 0, 30, 30], bbox=[10.0, 10.0, 20.5, 20.0], label="face",
        ...            control_net_wrapper=None)
        >>> from_impact_pack(((96, 128), [face]))[0].bbox
        (10.0, 10.0, 20.5, 20.0)
    """
    given = None if size is None else size_of(size)
    own, items = _parts(segs)
    if not items and tuple(own) == (0, 0):
        if given is None:
            allowed = "the picture, or its height and width, as these SEGS are empty and of 0×0"
            raise invalid("size", "required", allowed=allowed)
        return Segs(given)
    known = agreed_size(checked_size(own), given, "that of the SEGS")
    found = tuple(_seg(item, f"segs.{index}") for index, item in enumerate(items))
    controlled = sum(_field(item, "control_net_wrapper") is not None for item in items)
    if controlled:
        text = f"the ControlNets of {controlled} SEGS are left out; see controlnets of the request"
        warnings.warn(text, UserWarning, stacklevel=2)
    return Segs(known, found)


def _parts(segs: Any) -> tuple[Any, list[Any]]:
    """The size and the SEGs, of SEGS or of a node's only output."""
    if isinstance(segs, (list, tuple)) and len(segs) == 1:
        segs = segs[0]
    try:
        size, items = segs
        return tuple(size), list(items)
    except (TypeError, ValueError):
        raise invalid("segs", "not SEGS", value=type(segs).__name__, allowed=_ALLOWED) from None


def _seg(item: Any, name: str) -> Seg:
    label = str(_field(item, "label") or "")
    for field in _NEEDED:
        if _field(item, field) is None:
            allowed = "a SEG with cropped_mask, crop_region and bbox"
            raise invalid(f"{name}.{field}", "missing", value=type(item).__name__, allowed=allowed)
    image, confidence = _field(item, "cropped_image"), _field(item, "confidence")
    if image is not None:
        image = as_array(image, f"{name}.cropped_image")
        image = image[0] if image.ndim == 4 and len(image) == 1 else image
    with within(name, label, _NAMES):
        return Seg(
            mask=_field(item, "cropped_mask"),
            bbox=_field(item, "bbox"),
            crop_region=_field(item, "crop_region"),
            confidence=1.0 if confidence is None else confidence,
            label=label,
            image=image,
        )


def _field(item: Any, name: str) -> Any:
    return item.get(name) if isinstance(item, Mapping) else getattr(item, name, None)
