"""SEGS in a file: one ``.npz`` with a JSON header and the arrays, nothing pickled.

``header`` is UTF-8 JSON as uint8 [n], see :class:`Header`. ``mask_<n>`` is SEG n's mask,
``image_<n>`` its crop, if any; float32, so that they are restored exactly.
``control_<n>_<k>`` is the picture of the k-th ControlNet among its options: uint8 [h, w, 3].
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from segs_client.boxes import Box, Size
from segs_client.contract import FloatBox, invalid
from segs_client.errors import contract_checked, within
from segs_client.pictures import read_pixels
from segs_client.refusals import from_validation_error
from segs_client.segs import Seg, Segs

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class StoredSeg(_Model):
    """One SEG in the header."""

    bbox: FloatBox
    crop_region: Box
    confidence: float
    label: str
    has_image: bool
    options: dict[str, Any] = {}
    """A ControlNet's picture is replaced by its array's name."""


class Header(_Model):
    """The header of a file of SEGS."""

    format: Literal["segs"] = "segs"
    version: Literal[1]
    size: Size
    segs: tuple[StoredSeg, ...]


@contract_checked()
def save(segs: Segs, file: str | Path | BinaryIO) -> None:
    """Writes SEGS, their masks, crops and options to a file that :func:`load` reads.

    Args:
        segs: to store.
        file: a path, or a file open for writing bytes.

    Raises:
        InvalidRequest: a ControlNet's picture in the options is invalid.
        OSError: the file cannot be written, or such a picture cannot be read.

    Example:
        >>> segs = Segs.from_boxes([(4, 4, 6, 6)], (10, 10), labels=["cat"])
        >>> file = io.BytesIO()
        >>> save(segs, file)
        >>> load(io.BytesIO(file.getvalue()))[0].label
        'cat'
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    stored = []
    for index, seg in enumerate(segs):
        arrays[f"mask_{index}"] = seg.mask
        if seg.image is not None:
            arrays[f"image_{index}"] = seg.image
        stored.append(
            StoredSeg(
                bbox=seg.bbox,
                crop_region=seg.crop_region,
                confidence=seg.confidence,
                label=seg.label,
                has_image=seg.image is not None,
                options=_without_pictures(seg.options, index, arrays),
            )
        )
    header = Header(version=1, size=segs.size, segs=tuple(stored)).model_dump_json()
    data = io.BytesIO()
    np.savez_compressed(data, header=np.frombuffer(header.encode(), np.uint8), **arrays)
    if isinstance(file, (str, Path)):
        Path(file).write_bytes(data.getvalue())
    else:
        file.write(data.getvalue())


@contract_checked()
def load(file: str | Path | BinaryIO) -> Segs:
    """Reads SEGS from a file of :func:`save`; nothing in it is executed.

    Args:
        file: a path, or a file open for reading bytes.

    Raises:
        InvalidRequest: the file is not valid.
        OSError: the file cannot be read.
    """
    arrays = _arrays(Path(file).read_bytes() if isinstance(file, (str, Path)) else file.read())
    try:
        header = Header.model_validate_json(_array(arrays, "header", np.uint8).tobytes())
    except ValidationError as error:
        raise from_validation_error(error, Header.model_json_schema()) from None
    items = tuple(_seg(arrays, index, stored) for index, stored in enumerate(header.segs))
    return Segs(header.size, items)


def _arrays(data: bytes) -> Arrays:
    try:
        loaded = np.load(io.BytesIO(data), allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            with loaded:
                # Members of the archive that are no arrays are loaded as bytes.
                parts = {name: loaded[name] for name in loaded.files}
                return {name: part for name, part in parts.items() if hasattr(part, "dtype")}
        problem = "one array"
    except (ValueError, LookupError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        problem = str(error)
    except (MemoryError, NotImplementedError, RuntimeError) as error:  # by a crafted archive
        problem = str(error)
    raise invalid("file", "not a file of SEGS", value=problem, allowed="what save wrote")


def _array(arrays: Arrays, name: str, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    if name not in arrays:
        raise invalid(name, "missing in the file", allowed=", ".join(arrays))
    if arrays[name].dtype != dtype:
        allowed = str(np.dtype(dtype))
        raise invalid(name, "wrong dtype", value=str(arrays[name].dtype), allowed=allowed)
    return arrays[name]


def _without_pictures(
    options: Mapping[str, Any], index: int, arrays: dict[str, npt.NDArray[Any]]
) -> dict[str, Any]:
    """The options as JSON values, with ControlNets' pictures moved into ``arrays`` and replaced by
    their names."""

    def replace(number: int, control: Mapping[str, Any]) -> dict[str, Any]:
        if control.get("image") is None:
            return dict(control)
        name = f"control_{index}_{number}"
        arrays[name] = read_pixels(control["image"])
        return {**control, "image": name}

    plain = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in options.items()
    }
    if options.get("controlnets"):
        plain["controlnets"] = [replace(*each) for each in enumerate(options["controlnets"])]
    return plain


def _with_pictures(options: Mapping[str, Any], arrays: Arrays) -> dict[str, Any]:
    def restore(control: Any) -> Any:
        if not isinstance(control, Mapping) or not isinstance(control.get("image"), str):
            return control
        return {**control, "image": _array(arrays, control["image"], np.uint8)}

    controlnets = options.get("controlnets")
    if not isinstance(controlnets, list):
        return dict(options)
    return {**options, "controlnets": [restore(control) for control in controlnets]}


def _seg(arrays: Arrays, index: int, stored: StoredSeg) -> Seg:
    mask = _array(arrays, f"mask_{index}", np.float32)
    image = _array(arrays, f"image_{index}", np.float32) if stored.has_image else None
    with within(f"segs.{index}", stored.label):
        return Seg(
            mask=mask,
            bbox=stored.bbox,
            crop_region=stored.crop_region,
            confidence=stored.confidence,
            label=stored.label,
            image=image,
            options=_with_pictures(stored.options, arrays),
        )
