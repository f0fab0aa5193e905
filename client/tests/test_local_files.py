"""Pictures and masks on disk: how the command line reads and writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bad_files import FOLLOWED, SIZE, picture, saved
from fake_server import FakeTriton, serving
from PIL import Image
from test_client_cli import invert, sent

from segs_client import InvalidRequest, Segs, cli
from segs_client.local_files import save, segments
from tests import icc

SHAPE = SIZE[1], SIZE[0]
ALPHA = np.zeros(SHAPE, np.uint8)
ALPHA[2:14, 3:20] = 255
BOX = (3, 2, 20, 14)


def mask_file(path: Path, kind: str) -> Path:
    """A mask of :data:`BOX`; its content lies where ``kind`` says."""
    grey = Image.fromarray(ALPHA)
    black, white = (Image.new("L", SIZE, level) for level in (0, 255))
    made = {
        "levels": grey,
        "0 and 1": Image.fromarray(ALPHA // 255),
        "levels, opaque": Image.merge("LA", (grey, white)),
        "alpha of black": Image.merge("RGBA", (black, black, black, grey)),
        "alpha of white": Image.merge("LA", (white, grey)),
        "a white shape on nothing": Image.merge("RGBA", (grey, grey, grey, grey)),
        "palette": Image.merge("RGBA", (white, black, white, grey)).quantize(4),
        "a hole in a photo": Image.merge("RGBA", (*picture().split(), grey)),
    }[kind]
    made.save(path)
    return path


KINDS = ("levels", "0 and 1", "levels, opaque", "alpha of black", "alpha of white",
         "a white shape on nothing", "palette")  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_is_where_its_information_is(kind: str, tmp_path: Path) -> None:
    segs = segments(tmp_path / "none.png", [], [mask_file(tmp_path / "mask.png", kind)], {})
    assert isinstance(segs, Segs)
    (seg,) = segs
    assert seg.bbox == BOX
    x1, y1, x2, y2 = seg.crop_region
    np.testing.assert_array_equal(seg.mask, ALPHA[y1:y2, x1:x2] / 255)


def test_a_mask_that_may_mean_two_things_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = mask_file(tmp_path / "mask.png", "a hole in a photo")
    picture().save(tmp_path / "in.png")
    words = [str(tmp_path / "in.png"), "--mask", str(path), "--pipeline", "base"]
    status = cli.main([*words, "-o", str(tmp_path / "out.png")])
    assert status == cli.WRONG_INPUT
    message = capsys.readouterr().err
    assert f"{path}: both its colours and its transparency vary; allowed: a mask in" in message


@pytest.mark.parametrize("name", FOLLOWED)
def test_masks_may_be_photos_of_phones(name: str, tmp_path: Path) -> None:
    path = tmp_path / "mask"
    path.write_bytes(FOLLOWED[name]())
    assert segments(tmp_path / "none.png", [], [path], {}).size == SHAPE  # type: ignore[union-attr]


def test_masks_are_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    path = tmp_path / "mask.jpg"
    Image.fromarray(ALPHA).save(path, exif=exif, quality=100)
    segs = segments(tmp_path / "none.png", [], [path], {})
    assert isinstance(segs, Segs)
    assert segs.size == SIZE
    x1, y1, x2, y2 = segs[0].bbox
    assert x2 - x1 < y2 - y1


BOMB = saved("png", Image.new("L", (16_300, 12_200)))


def test_a_mask_beyond_pillows_limit_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    path.write_bytes(BOMB)
    with pytest.raises(InvalidRequest, match=r"too large .*16300×12200.*up to 178956970 pixels"):
        segments(tmp_path / "none.png", [], [path], {})


def test_a_file_of_another_format_beyond_it_is_too_large_too(tmp_path: Path) -> None:
    path = tmp_path / "mask.pgm"
    path.write_bytes(b"P5 16300 12200 255\n")
    with pytest.raises(InvalidRequest, match=r"too large: .*198860000 pixels"):
        segments(tmp_path / "none.png", [], [path], {})


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff"])
@pytest.mark.parametrize("profile", [icc.rgb(), icc.rgb(100_000), None])
def test_a_profile_is_written(suffix: str, profile: bytes | None, tmp_path: Path) -> None:
    image = picture()
    if profile is not None:
        image.info["icc_profile"] = profile
    path = tmp_path / f"out{suffix}"
    save(image, path)
    with Image.open(path) as written:
        assert written.info.get("icc_profile") == profile


@pytest.mark.parametrize("suffix", [".bmp", ".gif", ".ppm"])
def test_other_formats_are_written_without(
    suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = picture()
    save(image, tmp_path / f"out{suffix}")
    assert not caplog.records
    image.info["icc_profile"] = icc.rgb()
    save(image, tmp_path / f"out{suffix}")
    assert "no colour profile" in caplog.text
    assert Image.open(tmp_path / f"out{suffix}").size == SIZE


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("command", ["one", "batch"])
def test_the_profile_goes_all_the_way(suffix: str, command: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / f"a{suffix}"
    image = Image.new("RGB", (64, 48))
    image.save(path, icc_profile=icc.rgb())
    out = tmp_path / "out"
    with serving(FakeTriton(invert)) as url:
        common = ["--box", "4,4,20,24", "--url", url, "--pipeline", "base", "-o"]
        if command == "batch":
            assert cli.main(["batch", str(path.parent), *common, str(out)]) == cli.DONE
        else:
            out.mkdir()
            assert cli.main([str(path), *common, str(out / path.name)]) == cli.DONE
    with Image.open(out / path.name) as written:
        assert written.info["icc_profile"] == icc.rgb()


def test_srgb_is_a_flag(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (64, 48)).save(path, icc_profile=icc.rgb())
    fake = FakeTriton(invert)
    with serving(fake) as url:
        words = ["--box", "4,4,20,24", "--url", url, "--pipeline", "base", "--output-color", "srgb"]
        assert cli.main([str(path), *words, "-o", str(tmp_path / "b.png")]) == cli.DONE
    assert sent(fake).output.color == "srgb"
    assert "icc_profile" not in Image.open(tmp_path / "b.png").info


def test_the_comparison_is_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    path = tmp_path / "a.jpg"
    Image.new("RGB", (48, 64)).save(path, exif=exif)
    with serving(FakeTriton(invert)) as url:
        words = ["--box", "4,4,20,24", "--url", url, "--pipeline", "base"]
        both = ["-o", str(tmp_path / "b.png"), "--compare", str(tmp_path / "c.png")]
        assert cli.main([str(path), *words, *both]) == cli.DONE
    assert Image.open(tmp_path / "c.png").width > 2 * 64
