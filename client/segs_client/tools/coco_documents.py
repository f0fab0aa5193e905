"""One picture's part of a COCO document or of a list of annotations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, TypeAlias

from segs_client.boxes import Size, agreed_size, checked_size
from segs_client.contract import invalid

Annotation: TypeAlias = Mapping[str, Any]
Source: TypeAlias = Iterable[Annotation] | Mapping[str, Any] | str | Path
Categories: TypeAlias = Mapping[int, str] | Iterable[Mapping[str, Any]]

_DOCUMENT = "a COCO document with images, annotations and categories"
_SHOWN = 8


@dataclass(frozen=True)
class PicturePart:
    """The annotations of one picture, each with its name in errors, and what goes with them."""

    annotations: tuple[tuple[str, Annotation], ...]
    size: Size
    categories: Mapping[int, str] | None


def picture_part(
    source: Source, size: Size | None, image_id: int | str | None, categories: Categories | None
) -> PicturePart:
    """Chooses one picture's annotations; see :func:`segs_client.tools.from_coco`.

    Raises:
        ContractError: not such a source, no such picture, or several and none chosen.
        OSError: the file cannot be read.
    """
    if isinstance(source, (str, Path)):
        source = _read(Path(source))
    if isinstance(source, Mapping):
        if not isinstance(source.get("annotations"), (list, tuple)):
            names = ", ".join(map(str, list(source)[:_SHOWN]))
            allowed = f"a list of annotations, or {_DOCUMENT}"
            raise invalid("annotations", "missing in the dict", value=names, allowed=allowed)
        if categories is None:
            categories = source.get("categories")
        annotations = _named(source["annotations"])
        if source.get("images") is not None:
            image = _chosen(source["images"], image_id)
            size, image_id = _size(image, size), image.get("id")
    else:
        annotations = _named(source)
    if size is None:
        raise invalid("size", "required but for a document with images", allowed="height, width")
    return PicturePart(_of_picture(annotations, image_id), size, _table(categories))


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        allowed = f"{_DOCUMENT}, or a list of annotations"
        raise invalid("annotations", f"{path}: not JSON: {error}", allowed=allowed) from None


def _named(annotations: Any) -> tuple[tuple[str, Annotation], ...]:
    try:
        named = tuple((f"annotations.{index}", each) for index, each in enumerate(annotations))
    except TypeError:
        kind, allowed = type(annotations).__name__, f"a list of annotations, or {_DOCUMENT}"
        raise invalid("annotations", "not a list", value=kind, allowed=allowed) from None
    for name, each in named:
        if not isinstance(each, Mapping):
            allowed = "a dict with segmentation or bbox"
            raise invalid(name, "not an annotation", value=each, allowed=allowed)
    return named


def _chosen(images: Any, image_id: int | str | None) -> Mapping[str, Any]:
    """The entry of the document's images with this id or file name, or the only one."""
    if not isinstance(images, (list, tuple)) or not all(isinstance(i, Mapping) for i in images):
        raise invalid("images", "not a list of images", allowed="dicts with id, height and width")
    chosen: list[Mapping[str, Any]] = [
        image for image in images if image_id is None or _is(image, image_id)
    ]
    if len(chosen) != 1:
        shown = ", ".join(f"{_shown(i)}" for i in images[:_SHOWN])
        more = f" and {len(images) - _SHOWN} more" if len(images) > _SHOWN else ""
        matched = "" if image_id is None else " have it"
        problem = f"{len(chosen)} pictures of the document{matched}"
        raise invalid(
            "image_id", problem, value=image_id, allowed=f"an id or a file name of: {shown}{more}"
        )
    return chosen[0]


def _shown(image: Mapping[str, Any]) -> str:
    name = image.get("file_name")
    return f"{image.get('id')} ({name})" if name else str(image.get("id"))


def _is(image: Mapping[str, Any], image_id: int | str) -> bool:
    """Whether an image has this id, or this file name with or without its folders."""
    if image.get("id") == image_id:
        return True
    name = image.get("file_name")
    return isinstance(name, str) and image_id in (name, PurePath(name).name)


def _size(image: Mapping[str, Any], size: Size | None) -> Size:
    own = checked_size((image.get("height"), image.get("width")))  # type: ignore[arg-type]
    return agreed_size(own, size, "the image's in the document")


def _of_picture(
    annotations: tuple[tuple[str, Annotation], ...], image_id: int | str | None
) -> tuple[tuple[str, Annotation], ...]:
    """The annotations of the picture with this id; None: of the only one."""
    known = {each["image_id"] for _, each in annotations if "image_id" in each}
    if image_id is None:
        if len(known) > 1:
            shown = ", ".join(sorted(map(str, known))[:_SHOWN])
            problem = f"the annotations are of {len(known)} pictures"
            raise invalid("image_id", problem, allowed=f"one of {shown}")
        return annotations
    return tuple(pair for pair in annotations if pair[1].get("image_id", image_id) == image_id)


def _table(categories: Any) -> Mapping[int, str] | None:
    """The label of each category's number."""
    if categories is None or isinstance(categories, Mapping):
        return categories
    try:
        return {each["id"]: str(each["name"]) for each in categories}
    except (TypeError, LookupError):
        allowed = "{number: name}, or dicts with id and name"
        raise invalid("categories", "not categories", allowed=allowed) from None
