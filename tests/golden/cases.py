"""Reads a golden case: a request's parts and the pictures that the reference made of it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segs_client.contract import SamplerName, SchedulerName
from segs_client.segs import Seg, Segs

_FOLDERS = {"base": "", "inpaint": "-inpaint", "v": "-v"}
_ONLY_WITH_REFINER = "refiner_ratio"


class UnsupportedError(Exception):
    """The case asks for what the service cannot do yet."""


@dataclass(frozen=True)
class Case:
    """One golden case.

    ``expected`` holds per output SEG its pixels ``[h, w, 3]`` (float64, 0…255), or None where it
    has no image; ``pasted`` the picture with all of them, if the case has it.
    """

    name: str
    checkpoint: str
    image: Path
    segs: Segs
    options: dict[str, Any]
    expected: tuple[NDArray[np.float64] | None, ...]
    crop_regions: tuple[tuple[int, ...], ...]
    pasted: NDArray[np.float64] | None


def find(folder: Path, names: Iterable[str]) -> list[Path]:
    """The case files of a folder: all, or those whose name begins with one of ``names``."""
    wanted = tuple(names)
    files = [path for path in sorted(folder.glob("*.npz")) if "meta" in np.load(path).files]
    return [path for path in files if not wanted or path.stem.startswith(wanted)]


def read(path: Path) -> Case:
    """Reads one case.

    Raises:
        UnsupportedError: it needs a feature that is not there, and which.
    """
    with np.load(path) as data:
        arrays = {name: data[name] for name in data.files}
    meta = json.loads(arrays["meta"].tobytes())
    _check_supported(meta)
    family = "sdxl" if _is_sdxl(meta) else "sd15"
    return Case(
        name=meta["name"],
        checkpoint=family + _FOLDERS[meta["pipeline"]],
        image=path.parent / meta["image"],
        segs=_segs(meta, arrays),
        options=_options(meta),
        expected=tuple(
            None if missing else arrays[f"out_{index}"].astype(np.float64)
            for index, missing in enumerate(meta["out_is_none"])
        ),
        crop_regions=tuple(tuple(region) for region in meta["out_crop_regions"]),
        pasted=arrays["pasted"].astype(np.float64) if "pasted" in arrays else None,
    )


def _is_sdxl(meta: dict[str, Any]) -> bool:
    """The format tells the family by the case's name alone."""
    return bool(meta["name"].startswith("sdxl"))


def _check_supported(meta: dict[str, Any]) -> None:
    params = meta["params"]
    missing = {
        "refiner": meta["refiner"],
        "ControlNet": meta["controlnets"],
        "regional prompts": meta["pos_mask"] or meta["second_positive"],
        "scheduler_func_opt": meta["sigma_func"],
        "inpaint_model": params["inpaint_model"],
        "9-channel networks": meta["pipeline"] == "inpaint",
        "v-prediction": meta["pipeline"] == "v",
        "SDXL": _is_sdxl(meta),
        f"sampler {params['sampler_name']}": (
            params["sampler_name"] not in SamplerName.__args__  # type: ignore[attr-defined]
        ),
        f"scheduler {params['scheduler']}": (
            params["scheduler"] not in SchedulerName.__args__  # type: ignore[attr-defined]
        ),
    }
    names = [name for name, needed in missing.items() if needed]
    if names:
        raise UnsupportedError(f"not supported yet: {', '.join(names)}")


def _options(meta: dict[str, Any]) -> dict[str, Any]:
    params = dict(meta["params"])
    del params["inpaint_model"], params[_ONLY_WITH_REFINER]
    return {
        **params,
        "prompt": meta["positive"],
        "negative": meta["negative"],
        "paste": meta.get("paste") or {},
        "output": {"image": "png", "seg_images": "float32"},
    }


def _segs(meta: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Segs:
    height, width = meta["segs_size"]
    items = []
    for index, seg in enumerate(meta["segs"]):
        own = arrays.get(f"seg_image_{index}")
        items.append(
            Seg(
                mask=arrays[f"mask_{index}"],
                bbox=tuple(seg["bbox"]),
                crop_region=tuple(seg["crop_region"]),
                confidence=seg["confidence"],
                label=seg["label"],
                image=None if own is None else own[0],
            )
        )
    return Segs((height, width), tuple(items))
