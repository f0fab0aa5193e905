"""Reads a golden case: a request's parts and the pictures that the reference made of it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from build_engines.options import Lora
from segs_client.segs import Seg, Segs

_FOLDERS = {"base": "", "inpaint": "-inpaint", "v": "-v"}
ZERO_SNR = "-zsnr"
"""Ends the name of a checkpoint that is read as one with zero terminal SNR."""
CONTROLNET = "controlnet"
_CONTROL_OPTIONS = ("strength", "start_percent", "end_percent")


@dataclass(frozen=True)
class Case:
    """One golden case.

    ``expected`` holds per output SEG its pixels ``[h, w, 3]`` (float64, 0…255), or None where it
    has no image; ``pasted`` the picture with all of them, if the case has it. ``loras`` are folded
    into the checkpoint, not into the refiner's.
    """

    name: str
    checkpoint: str
    refiner: str | None
    image: Path
    segs: Segs
    options: dict[str, Any]
    expected: tuple[NDArray[np.float64] | None, ...]
    crop_regions: tuple[tuple[int, ...], ...]
    pasted: NDArray[np.float64] | None
    loras: tuple[Lora, ...] = ()

    @property
    def pipeline(self) -> str:
        """Name of the pipeline that runs it: the checkpoint's, with the LoRAs and strengths."""
        loras = (f"{each.path.stem}_{each.model:g}_{each.clip:g}" for each in self.loras)
        return "-".join((self.checkpoint, *loras))


def find(folder: Path, names: Iterable[str]) -> list[Path]:
    """The case files of a folder: all, or those whose name begins with one of ``names``."""
    wanted = tuple(names)
    files = [path for path in sorted(folder.glob("*.npz")) if "meta" in np.load(path).files]
    return [path for path in files if not wanted or path.stem.startswith(wanted)]


def read(path: Path) -> Case:
    """Reads one case."""
    with np.load(path) as data:
        arrays = {name: data[name] for name in data.files}
    meta = json.loads(arrays["meta"].tobytes())
    # The format tells the family by the case's name alone.
    family = "sdxl" if meta["name"].startswith("sdxl") else "sd15"
    checkpoint = family + _FOLDERS[meta["pipeline"]]
    if meta.get("zero_terminal_snr"):
        checkpoint += ZERO_SNR
    refiner = f"{family}-refiner" if meta["refiner"] else None
    return Case(
        name=meta["name"],
        checkpoint=checkpoint,
        refiner=refiner,
        image=path.parent / meta["image"],
        segs=_segs(meta, arrays),
        options=_options(meta, arrays, refiner),
        expected=tuple(
            None if missing else arrays[f"out_{index}"].astype(np.float64)
            for index, missing in enumerate(meta["out_is_none"])
        ),
        crop_regions=tuple(tuple(region) for region in meta["out_crop_regions"]),
        pasted=arrays["pasted"].astype(np.float64) if "pasted" in arrays else None,
        loras=tuple(
            Lora(path.parent / "loras" / file, model, clip)
            for file, model, clip in meta.get("loras") or ()
        ),
    )


def _options(
    meta: dict[str, Any], arrays: dict[str, NDArray[Any]], refiner: str | None
) -> dict[str, Any]:
    options: dict[str, Any] = {
        **meta["params"],
        "prompt": meta["positive"],
        "negative": meta["negative"],
        "paste": meta.get("paste") or {},
        "output": {"image": "png", "seg_images": "float32"},
        "controlnets": _controlnets(meta, arrays),
    }
    if refiner is not None:
        options["refiner"] = {"pipeline": refiner}
    if meta["sigma_func"] is not None:
        options["scheduler_func"] = {"name": "karras", **meta["sigma_func"]}
    if meta.get("sigma_list") is not None:
        options["scheduler_func"] = {"name": "sigmas", "sigmas": meta["sigma_list"]}
    if meta["pos_mask"] is not None:
        x1, y1, x2, y2 = meta["pos_mask"]
        mask = np.zeros(meta["image_size"], dtype=np.float32)
        mask[y1:y2, x1:x2] = 1
        strength = meta["pos_mask_strength"]
        options["prompts"] = [{"text": meta["positive"], "mask": mask, "strength": strength}]
        options["prompt"] = meta["second_positive"]
    return options


def _controlnets(meta: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> list[dict[str, Any]]:
    images = (arrays[f"control_image_{index}"] for index in range(len(meta["controlnets"])))
    chain = []
    for entry in meta["controlnets"]:
        told = {name: entry[name] for name in _CONTROL_OPTIONS if name in entry}
        image = next(images) if entry.get("control_image") else None
        chain.append({"name": CONTROLNET, **told, "image": image})
    return chain


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
