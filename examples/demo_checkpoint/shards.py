"""Portraits as latents, drawn and encoded once and kept in files."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import avg_pool2d
from tqdm import tqdm

from examples.demo_checkpoint.degrade import by_lot, degrade
from examples.demo_checkpoint.person import caption, recoloured
from examples.demo_checkpoint.pictures import Drawing, Figure, draw_portrait, main_figure
from examples.demo_checkpoint.run import write_whole
from examples.demo_checkpoint.tensors import to_tensor
from preprocessing.control import canny

_ENCODED_AT_ONCE = 16
_CHANGED_SHARE = 0.5
_IRIS_WEIGHT, _HAT_WEIGHT, _HAIR_WEIGHT = 15.0, 2.0, 1.0
_SIZES = ((128, 128),) * 5 + ((96, 96), (112, 144), (144, 112), (160, 160), (192, 192))
"""Height and width; each shard has one of them."""

log = logging.getLogger("demo_checkpoint")


@dataclass(frozen=True)
class Shard:
    """Examples of one size.

    ``latents``, ``spoilt`` (of the picture blurred, shrunk and compressed, of those that are
    ``changed`` with other colours than the caption's) and ``around`` (of the picture without what
    ``masks`` cover) ``[N, 4, h, w]`` float16, ``changed`` ``[N]`` bool, ``masks`` ``[N, 1, h, w]``
    bool, ``weights`` ``[N, 1, h, w]`` float16 (what an error there counts: more where captions name
    a colour, most in the eyes, which are as small as a latent's pixel), ``edges``
    ``[N, H, W / 8]`` packed bits, and ``captions``.
    """

    latents: torch.Tensor
    spoilt: torch.Tensor
    changed: torch.Tensor
    around: torch.Tensor
    masks: torch.Tensor
    weights: torch.Tensor
    edges: NDArray[np.uint8]
    captions: tuple[str, ...]

    def hints(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """What a ControlNet is shown of these rows: ``[B, 3, H, W]``, edges 1, the rest 0."""
        bits = np.unpackbits(self.edges[rows], axis=2)
        return torch.from_numpy(bits)[:, None].float().expand(-1, 3, -1, -1)


@dataclass(frozen=True)
class _Drawn:
    pixels: NDArray[np.uint8]
    spoilt: NDArray[np.uint8]
    changed: NDArray[np.bool_]
    masks: NDArray[np.bool_]
    weights: NDArray[np.float32]
    captions: tuple[str, ...]


def open_shards(
    folder: Path, vae: Any, device: torch.device, count: int, size: int, workers: int
) -> list[Shard]:
    """The first ``count`` shards of ``size`` portraits, made where they are missing.

    ``vae`` makes the latents on ``device``; ``workers`` processes draw, if more than one. They lie
    in a folder of their own for each autoencoder and form of shard, so that none is out of date.
    """
    folder = folder / _digest(vae, size)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index:05}.pt" for index in range(count)]
    missing = [index for index, path in enumerate(paths) if not path.exists()]
    for index, drawn in zip(missing, _draw_all(missing, size, workers), strict=True):
        write_whole(paths[index], _encoded(drawn, vae, device).__dict__)
    return [Shard(**torch.load(path, weights_only=False)) for path in paths]


def _digest(vae: Any, size: int) -> str:
    digest = hashlib.sha256(repr((size, [field.name for field in fields(Shard)])).encode())
    for part in (vae.encoder, vae.quant_conv):
        for value in part.state_dict().values():
            digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def draw_shard(index: int, size: int) -> _Drawn:
    """The pictures of a shard, always the same for its number."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng([index, 0x5A4D])
    height, width = _SIZES[index % len(_SIZES)]
    drawings: list[Drawing] = []
    captions: list[str] = []
    spoilt: list[NDArray[np.uint8]] = []
    changed: list[bool] = []
    for _ in range(size):
        before = copy.deepcopy(rng)
        drawing = draw_portrait(rng, width, height, masks=True)
        words = _caption(drawing, rng)
        who = main_figure(drawing).person
        other = recoloured(who, words, rng) if rng.random() < _CHANGED_SHARE else who
        under = drawing
        if other != who:
            under = draw_portrait(before, width, height, {who: other})
        drawings.append(drawing)
        captions.append(words)
        spoilt.append(degrade(under.pixels, by_lot(rng)))
        changed.append(other != who)
    return _Drawn(
        pixels=np.stack([each.pixels for each in drawings]),
        spoilt=np.stack(spoilt),
        changed=np.array(changed),
        masks=np.stack([_blot(main_figure(each), each.pixels.shape, rng) for each in drawings]),
        weights=np.stack([loss_weights(each) for each in drawings]),
        captions=tuple(captions),
    )


def loss_weights(drawing: Drawing) -> NDArray[np.float32]:
    """What an error at each pixel counts, ``[H, W]``: 1 where captions name no colour."""
    masks = drawing.masks[drawing.figures.index(main_figure(drawing))]
    more = _IRIS_WEIGHT * masks.irises + _HAT_WEIGHT * masks.hat + _HAIR_WEIGHT * masks.hair
    return np.asarray(1 + more, dtype=np.float32)


def _caption(drawing: Drawing, rng: np.random.Generator) -> str:
    attributes = main_figure(drawing).person.attributes()
    return caption((*attributes, f"{drawing.background} background"), rng)


def _blot(figure: Figure, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.bool_]:
    """What an inpainting network is to redraw: about the head, or a part of it, or anything."""
    height, width = shape[:2]
    y, x = np.mgrid[:height, :width]
    scale = figure.height_px * rng.uniform(0.25, 0.8, size=2)
    middle = rng.normal(0, 0.15 * figure.height_px, size=2)
    far = np.abs((x - figure.x - middle[0]) / scale[0]) ** 2
    far = far + np.abs((y - figure.y - middle[1]) / scale[1]) ** 2
    return np.asarray(far < 1) if rng.random() > 0.05 else np.ones((height, width), bool)


def _draw_all(indices: list[int], size: int, workers: int) -> Iterator[_Drawn]:
    bar = tqdm(indices, desc="drawing shards", unit="shard", mininterval=10, disable=not indices)
    if workers < 2:
        yield from (draw_shard(index, size) for index in bar)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for first in range(0, len(indices), 4 * workers):
            chunk = indices[first : first + 4 * workers]
            for drawn in pool.map(draw_shard, chunk, [size] * len(chunk)):
                bar.update()
                yield drawn


def _encoded(drawn: _Drawn, vae: Any, device: torch.device) -> Shard:
    latents: list[torch.Tensor] = []
    spoilt: list[torch.Tensor] = []
    around: list[torch.Tensor] = []
    masks: list[torch.Tensor] = []
    with torch.no_grad():
        for first in range(0, len(drawn.pixels), _ENCODED_AT_ONCE):
            rows = slice(first, first + _ENCODED_AT_ONCE)
            pixels = to_tensor(drawn.pixels[rows]).to(device)
            covered = torch.from_numpy(drawn.masks[rows]).to(device)[:, None]
            for pictures, encoded in (
                (pixels, latents),
                (to_tensor(drawn.spoilt[rows]).to(device), spoilt),
                (pixels.masked_fill(covered, 0), around),
            ):
                encoded.append(vae.encode(pictures).latent_dist.mean.half().cpu())
            share = avg_pool2d(covered.float(), 8)
            masks.append((share >= 0.5).cpu())
    edges = [np.packbits(canny(picture)[:, :, 0] > 0, axis=1) for picture in drawn.pixels]
    return Shard(
        latents=torch.cat(latents),
        spoilt=torch.cat(spoilt),
        changed=torch.from_numpy(drawn.changed),
        around=torch.cat(around),
        masks=torch.cat(masks),
        weights=avg_pool2d(torch.from_numpy(drawn.weights)[:, None], 8).half(),
        edges=np.stack(edges),
        captions=drawn.captions,
    )
