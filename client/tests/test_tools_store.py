"""SEGS kept and shown."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sample_segs import EMPTY, SEGS, SIZE, box_seg, random_segs, same

from segs_client import InvalidRequest, Segs, scaled_to, tools


@pytest.mark.parametrize("seed", range(5))
def test_saved_segs_come_back_bit_by_bit(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "segs.file"
    for segs in (random_segs(seed), EMPTY):
        tools.save(segs, path)
        assert same(tools.load(path), segs)
        with path.open("rb") as file:
            assert same(tools.load(file), segs)


def test_crops_of_other_sizes_are_kept() -> None:
    segs = Segs(SIZE, (box_seg((0, 0, 9, 9), (0, 0, 9, 9), image=np.ones((30, 20, 3))),))
    file = io.BytesIO()
    tools.save(segs, file)
    assert same(tools.load(io.BytesIO(file.getvalue())), segs)


def test_own_options_are_kept(tmp_path: Path) -> None:
    picture = np.random.default_rng(4).integers(0, 256, (7, 5, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "edges.png")
    options = {"prompt": "a hat", "seed": np.int64(3), "cfg": 2.5, "skip": True}
    controls = [
        {"name": "canny", "image": picture, "strength": 0.5},
        {"name": "edges", "image": tmp_path / "edges.png"},
        {"name": "edges", "preprocessor": "sobel"},
    ]
    box = (0, 0, 9, 9)
    items = [box_seg(box, box, options={**options, "controlnets": controls}), box_seg(box, box)]
    file = io.BytesIO()
    tools.save(Segs(SIZE, tuple(items)), file)
    loaded = tools.load(io.BytesIO(file.getvalue()))
    found = dict(loaded[0].options)
    for control, kept in zip(controls, found.pop("controlnets"), strict=True):
        assert {**kept, "image": None} == {**control, "image": None}
        if "image" in control:
            assert np.array_equal(kept["image"], picture)
    assert found == options
    assert not loaded[1].options


def archive(said: Any = None, **arrays: Any) -> bytes:
    """A file as save writes it, with some of it replaced."""
    seg = {"bbox": [0, 0, 2, 2], "crop_region": [0, 0, 2, 2], "confidence": 1.0, "label": "",
           "has_image": False}  # fmt: skip
    good = {"format": "segs", "version": 1, "size": [4, 4], "segs": [seg]}
    text = json.dumps({**good, **(said or {})}).encode()
    content = {"header": np.frombuffer(text, np.uint8), "mask_0": np.ones((2, 2), np.float32)}
    file = io.BytesIO()
    parts = {name: part for name, part in {**content, **arrays}.items() if part is not None}
    np.savez(file, **parts)
    return file.getvalue()


def one_array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


def no_array() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        opened.writestr("header.npy", b"no array")
    return file.getvalue()


def test_the_archive_is_good() -> None:
    assert len(tools.load(io.BytesIO(archive()))) == 1


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "file: not a file of SEGS"),
        (b"PK\x03\x04 and so on", "file: not a file of SEGS"),
        (archive()[:-200], "file: not a file of SEGS"),
        (one_array(), "file: not a file of SEGS .*one array"),
        (archive(mask_0=np.array([None])), "file: not a file of SEGS .*pickle"),
        (no_array(), "header: missing"),
        (archive({"version": 2}), r"version: unknown value \(got 2\); allowed: 1"),
        (archive({"format": "other"}), "format: unknown value"),
        (archive({"size": [0, 4]}), "size: not a size"),
        (archive({"segs": 3}), "segs: wrong type"),
        (archive({"segs": [{}]}), r"segs\.0\.bbox: required"),
        (archive({"more": 1}), "more: unknown field"),
        (archive(header=None), "header: missing"),
        (archive(header=np.zeros(3)), "header: wrong dtype .*float64.*uint8"),
        (archive(header=np.zeros(3, np.uint8)), "not valid JSON"),
        (archive(mask_0=None), "mask_0: missing"),
        (archive(mask_0=np.ones((2, 2))), "mask_0: wrong dtype .*float64.*float32"),
        (archive(mask_0=np.ones((3, 2), np.float32)), r"segs\.0\.mask: wrong shape"),
        (archive(mask_0=np.full((2, 2), 7, np.float32)), r"segs\.0\.mask: values from 7"),
    ],
)
def test_malformed_files_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        tools.load(io.BytesIO(data))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        tools.load(tmp_path / "none.npz")


def test_preview_tints_masks_and_scales_segs() -> None:
    black = Image.new("RGB", (128, 96))
    flat = np.asarray(tools.preview_image(black, SEGS, boxes=False, labels=False))
    expected = tools.combined_mask(scaled_to(SEGS, (96, 128))) > 0
    np.testing.assert_array_equal(flat.any(axis=2), expected)
    drawn = np.asarray(tools.preview_image(black, SEGS))
    assert drawn.any(axis=2).sum() > expected.sum()
    outlines = np.asarray(tools.preview_image(black, SEGS, masks=False, labels=False))
    assert 0 < outlines.any(axis=2).sum() < expected.sum()
    assert not np.asarray(tools.preview_image(black, EMPTY)).any()
