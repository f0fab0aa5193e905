"""The gallery's page: complete, valid requests beside the pictures, nothing from a network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from examples.demo_service import REPAIR
from examples.gallery import SEED, SIZE, groups, make_gallery
from examples.spoilt_scene import SpoiltScene, spoilt_scene
from segs_client import DetailRequest, Segs
from segs_client.arrays import ByteArray


class Links(HTMLParser):
    """Collects what a page refers to, and whether its tags are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.targets += [value for name in ("src", "href") if (value := values.get(name))]
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def redraw(scene: SpoiltScene, segs: Segs, options: Mapping[str, Any]) -> ByteArray:
        assert set(REPAIR) <= set(options)
        return scene.drawing.pixels

    return make_gallery(redraw, tmp_path_factory.mktemp("gallery") / "page")


def test_all_that_the_page_shows_lies_beside_it(page: Path) -> None:
    links = Links()
    text = page.read_text()
    links.feed(text)
    assert not links.open
    assert "http" not in text and "//" not in re.sub(r"</\w+>", "", text)
    for target in links.targets:
        assert (page.parent / target).stat().st_size > 0
    pictures = {target for target in links.targets if target.endswith(".png")}
    settings = sum(len(group.settings) for group in groups(spoilt_scene(SEED, *SIZE)))
    assert len(pictures) == settings + 1, "one per setting, and the picture before"


def test_each_picture_has_the_request_that_made_it(page: Path) -> None:
    requests = [
        DetailRequest.model_validate_json(p.read_text()) for p in page.parent.glob("*.json")
    ]
    assert {request.pipeline for request in requests} == {"demo", "demo_inpaint"}
    assert {request.sampler_name for request in requests} >= {"euler", "dpmpp_2m", "uni_pc"}
    assert any(request.controlnets for request in requests)
    assert len({request.model_dump_json() for request in requests}) > 30
    for request in requests:
        assert all(item.prompt for item in request.segs.items)


def test_the_page_is_made_anew(page: Path, tmp_path: Path) -> None:
    (tmp_path / "old.png").write_bytes(b"old")
    index = make_gallery(lambda scene, segs, options: scene.pixels, tmp_path)
    assert index.read_text() == page.read_text()
    assert not (tmp_path / "old.png").exists()
