"""The items of a batch: the pictures of a folder, or the lines of a JSONL file."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from PIL import Image
from pydantic import Field, ValidationError

from segs_client.contract import FloatBox, Model
from segs_client.local_files import HEIF_SUFFIXES, can_write, check_options, check_suffix, segments
from segs_client.segs import Segs

_WRITTEN_INSTEAD = ".png"


@dataclass(frozen=True)
class Item:
    """One picture to be redrawn.

    Attributes:
        name: unique in the batch: the picture's path in its folder or file.
        image: the picture.
        boxes: segments, half-open pixels.
        masks: pictures whose white areas are segments.
        options: of the request; pictures of ControlNets are paths.
        output: the result's path; its suffix is the format.
    """

    name: str
    image: Path
    boxes: tuple[FloatBox, ...]
    masks: tuple[Path, ...]
    options: Mapping[str, Any]
    output: Path

    def key(self) -> str:
        """A hash of pictures, segments and options, which decide the result.

        Raises:
            OSError: a file cannot be read.
        """
        # Pictures are hashed by their content, not by their path.
        options = _with_control_pictures(self.options, lambda _: "")
        values = [self.boxes, len(self.masks), options, self.output.suffix]
        found = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
        for path in (self.image, *self.masks, *_control_pictures(self.options)):
            found.update(hashlib.sha256(path.read_bytes()).digest())
        return found.hexdigest()

    def segments(self) -> Segs | list[FloatBox]:
        """See :func:`segs_client.local_files.segments`."""
        return segments(self.image, self.boxes, self.masks, self.options)


class Line(Model):
    """One line of a JSONL file. All paths but ``output`` are relative to the file's folder."""

    image: Annotated[str, Field(min_length=1, description="the picture")]
    boxes: Annotated[tuple[FloatBox, ...], Field(description="segments, x1, y1, x2, y2")] = ()
    masks: Annotated[tuple[str, ...], Field(description="pictures with white segments")] = ()
    options: Annotated[
        dict[str, Any], Field(description="of this request, over the command line's")
    ] = {}  # noqa: RUF012 - pydantic copies it
    output: Annotated[
        str | None, Field(description="path in the output folder; null: the picture's own")
    ] = None


def from_folder(
    folder: Path,
    output: Path,
    *,
    masks: Path | None,
    boxes: Sequence[FloatBox],
    suffix: str | None,
    options: Mapping[str, Any],
) -> list[Item]:
    """All pictures below ``folder``, by name, except those in ``output`` or ``masks``.

    Args:
        folder: the pictures.
        output: folder of the results, which have the pictures' relative paths.
        masks: folder with a mask for each picture, of the same name with any suffix.
        boxes: segments of every picture.
        suffix: of the results; None: the picture's own, or PNG's if it cannot be written.
        options: of every request.

    Raises:
        ValueError: a picture has no mask or no segments, or two have the same output.
        OSError: a folder cannot be read.
    """
    taken = [path.resolve() for path in (output, masks) if path is not None]
    known = {*Image.registered_extensions(), *HEIF_SUFFIXES}
    items = []
    for path in sorted(folder.rglob("*")):
        is_ours = any(path.resolve().is_relative_to(each) for each in taken)
        if path.suffix.lower() not in known or not path.is_file() or is_ours:
            continue
        name = path.relative_to(folder)
        place = name if suffix is None else name.with_suffix(suffix)
        if suffix is None and not can_write(place):
            place = name.with_suffix(_WRITTEN_INSTEAD)
        own = () if masks is None else (_mask_of(name, masks),)
        items.append(Item(name.as_posix(), path, tuple(boxes), own, options, output / place))
    return _checked(items, folder)


def from_lines(
    path: Path, output: Path, *, suffix: str | None, options: Mapping[str, Any]
) -> list[Item]:
    """The lines of a JSONL file, each a :class:`Line`; empty ones are skipped.

    Raises:
        ValueError: a line is malformed (the message has its number), or two have the same output.
        OSError: the file cannot be read.
    """
    items = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not text.strip():
            continue
        try:
            line = Line.model_validate_json(text)
            place = _place(line, suffix)
            check_options({**options, **line.options})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"{path}, line {number}: {where}: {first['msg']}") from None
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        masks = tuple(path.parent / each for each in line.masks)
        placed = _with_control_pictures(line.options, lambda name: str(path.parent / name))
        own = {**options, **placed}
        image = path.parent / line.image
        items.append(Item(place.as_posix(), image, line.boxes, masks, own, output / place))
    return _checked(items, path)


def _control_pictures(options: Mapping[str, Any]) -> list[Path]:
    """The paths of ControlNets' pictures in the options."""
    controlnets = options.get("controlnets")
    if not isinstance(controlnets, list):
        return []
    pictures = [each.get("image") for each in controlnets if isinstance(each, Mapping)]
    return [Path(picture) for picture in pictures if isinstance(picture, str)]


def _with_control_pictures(
    options: Mapping[str, Any], change: Callable[[str], str]
) -> dict[str, Any]:
    """The options with changed paths of ControlNets' pictures."""
    if not _control_pictures(options):
        return dict(options)

    def changed(control: Any) -> Any:
        if isinstance(control, Mapping) and isinstance(control.get("image"), str):
            return {**control, "image": change(control["image"])}
        return control

    return {**options, "controlnets": [changed(each) for each in options["controlnets"]]}


def _place(line: Line, suffix: str | None) -> PurePosixPath:
    place = PurePosixPath(line.output or PurePosixPath(line.image).name)
    if place.is_absolute() or ".." in place.parts:
        raise ValueError(f"output: {place} is not a path inside the output folder")
    return place if suffix is None or line.output else place.with_suffix(suffix)


def _mask_of(name: Path, masks: Path) -> Path:
    known = Image.registered_extensions()
    found = [
        each
        for each in sorted((masks / name.parent).glob("*"))
        if each.stem == name.stem and each.suffix.lower() in known
    ]
    if len(found) != 1:
        raise ValueError(f"{name}: {len(found)} masks in {masks}; one with that name is needed")
    return found[0]


def _checked(items: list[Item], source: Path) -> list[Item]:
    if not items:
        raise ValueError(f"{source}: no pictures")
    for item in items:
        check_suffix(item.output)
        if not item.boxes and not item.masks:
            raise ValueError(f"{item.name}: nothing to redraw: it has no boxes and no masks")
    (place, count), *_ = Counter(item.output for item in items).most_common(1)
    if count > 1:
        raise ValueError(f"{place}: the result of {count} pictures")
    return items
