"""Files of phones and cameras on a real server: first pictures, orientations, profiles."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from tritonclient.grpc import InferenceServerClient, InferInput

from segs_client import Client, InvalidRequest
from segs_client.colors import srgb
from serving.server import EmbeddedServer
from tests import icc

pytestmark = pytest.mark.server

FORMS: dict[str, dict[str, Any]] = {
    "png": {},
    "jpeg": {"quality": 95, "subsampling": 0},
    "webp": {"lossless": True},
}
SMALL = np.random.default_rng(4).integers(0, 256, (12, 16, 3), np.uint8)
PICTURE = Image.fromarray(SMALL).resize((128, 96), Image.Resampling.BICUBIC)
BOX = (40, 40, 56, 56)
OPTIONS: dict[str, Any] = {"steps": 1, "guide_size": 64, "max_size": 64, "crop_factor": 1.0}


def file_of(picture: Image.Image = PICTURE, form: str = "png", **options: Any) -> bytes:
    data = io.BytesIO()
    picture.save(data, form, **FORMS.get(form, {}), **options)
    return data.getvalue()


def turned(orientation: int, form: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return file_of(form=form, exif=exif)


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def around_box(picture: Image.Image) -> Any:
    """The pixels that no SEG covers; those of the box are 0."""
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 0
    return pixels


@pytest.fixture(scope="module")
def client(server: EmbeddedServer) -> Iterator[Client]:
    with Client(server.grpc_url, pipeline="sd15", timeout_s=120) as connected:
        yield connected


@pytest.fixture(scope="module")
def triton(server: EmbeddedServer) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(server.grpc_url) as connected:
        yield connected


def called(triton: InferenceServerClient, data: bytes, **output: Any) -> tuple[Any, Image.Image]:
    """Calls with a file as any gRPC client may; the report, and the file that comes back."""
    request = {"pipeline": "sd15", "segs": {"items": [{"bbox": BOX}]}, "output": output, **OPTIONS}
    inputs = []
    for name, array, kind in (
        ("request", np.array([json.dumps(request).encode()], object), "BYTES"),
        ("image", np.frombuffer(data, np.uint8), "UINT8"),
    ):
        inputs.append(InferInput(name, list(array.shape), kind))
        inputs[-1].set_data_from_numpy(array)
    answer = triton.infer("segs_detailer", inputs, client_timeout=60)
    report = json.loads(answer.as_numpy("report").tobytes())
    return report, opened(answer.as_numpy("detailed_image").tobytes())


def test_the_first_picture_of_a_file_is_taken(
    triton: InferenceServerClient, client: Client, tmp_path: Path
) -> None:
    mpo = file_of(form="mpo", save_all=True, append_images=[PICTURE.resize((64, 48))])
    first = around_box(opened(mpo))
    assert np.array_equal(around_box(called(triton, mpo)[1]), first)
    (tmp_path / "photo.jpg").write_bytes(mpo)
    for picture in (mpo, tmp_path / "photo.jpg", opened(mpo)):
        result = client.detail(picture, [BOX], **OPTIONS)
        assert result.image is not None
        assert np.array_equal(around_box(result.image), first)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("orientation", [2, 5, 6])
def test_a_file_comes_back_upright(
    triton: InferenceServerClient, client: Client, form: str, orientation: int
) -> None:
    data = turned(orientation, form)
    upright = ImageOps.exif_transpose(opened(data))
    report, result = called(triton, data)
    assert report["image"]["shape"] == [upright.height, upright.width, 3]
    assert np.array_equal(around_box(result), around_box(upright))
    assert not result.getexif()
    for picture in (data, opened(data)):
        detailed = client.detail(picture, [BOX], **OPTIONS).image
        assert detailed is not None
        assert np.array_equal(around_box(detailed), around_box(upright))
        assert not detailed.getexif()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("source", FORMS)
def test_the_profile_comes_back(triton: InferenceServerClient, form: str, source: str) -> None:
    data = file_of(form=source, icc_profile=icc.rgb())
    _, result = called(triton, data, image=form)
    assert result.info["icc_profile"] == icc.rgb()
    if form == "png":
        assert np.array_equal(around_box(result), around_box(opened(data)))


@pytest.mark.parametrize("form", ["png", "jpeg", "webp", "raw"])
@pytest.mark.parametrize("how", ["file", "PIL"])
def test_the_client_has_the_profile_with_any_output(client: Client, form: str, how: str) -> None:
    data = file_of(icc_profile=icc.rgb())
    picture = data if how == "file" else opened(data)
    result = client.detail(picture, [BOX], output={"image": form}, **OPTIONS).image
    assert result is not None
    assert result.info["icc_profile"] == icc.rgb()


@pytest.mark.parametrize("how", ["gRPC", "file", "PIL"])
def test_srgb_is_converted(triton: InferenceServerClient, client: Client, how: str) -> None:
    data = file_of(icc_profile=icc.rgb())
    if how == "gRPC":
        result: Image.Image | None = called(triton, data, color="srgb")[1]
    else:
        picture = data if how == "file" else opened(data)
        result = client.detail(picture, [BOX], output={"color": "srgb"}, **OPTIONS).image
    assert result is not None
    assert "icc_profile" not in result.info
    assert np.array_equal(around_box(result), around_box(srgb(opened(data))))
    assert np.abs(around_box(result) - around_box(PICTURE)).max() > 20


def test_cmyk_becomes_srgb_by_its_profile(triton: InferenceServerClient) -> None:
    cmyk = PICTURE.convert("CMYK")
    for profile in (icc.cmyk(), None):
        data = file_of(cmyk, "jpeg", icc_profile=profile)
        _, result = called(triton, data)
        assert "icc_profile" not in result.info
        assert np.array_equal(around_box(result), around_box(srgb(opened(data))))


@pytest.mark.parametrize("name", [*icc.BROKEN, *icc.UNUSABLE])
def test_a_broken_profile_fails_no_request(triton: InferenceServerClient, name: str) -> None:
    data = file_of(icc_profile={**icc.BROKEN, **icc.UNUSABLE}[name])
    for color in ("keep", "srgb"):
        _, result = called(triton, data, color=color)
        assert np.array_equal(around_box(result), around_box(PICTURE))
        assert "icc_profile" not in result.info


def test_pictures_of_a_stream_have_the_profile(client: Client) -> None:
    stream = {"segment_pictures": True}
    data = file_of(icc_profile=icc.rgb())
    updates = list(client.stream(data, [BOX], stream=stream, **OPTIONS))
    pictures = [update.picture for update in updates if update.picture is not None]
    assert pictures
    for picture in (*pictures, updates[-1].result.image if updates[-1].result else None):
        assert picture is not None
        assert picture.info["icc_profile"] == icc.rgb()


def test_a_picture_that_is_too_large_is_told_its_size(client: Client) -> None:
    data = file_of(Image.new("L", (16_300, 12_200)))
    with pytest.raises(InvalidRequest, match=r"image: too large .*16300×12200.*64000000 pixels"):
        client.detail(data, [BOX], **OPTIONS)
