"""The Dockerfiles: pinned, unprivileged at the end, and copying what there is."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from tests.deploy.compose import ROOT
from tests.deploy.dockerfiles import Dockerfile

PATHS = sorted((ROOT / "deploy" / "docker").glob("*.Dockerfile"))
SHIPPED = (*WheelBuilder(str(ROOT)).config.only_include.values(), "client/segs_client")


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def dockerfile(request: pytest.FixtureRequest) -> Dockerfile:
    return Dockerfile(request.param)


def test_both_are_here() -> None:
    assert [path.stem for path in PATHS] == ["cpu", "gpu"]


def test_bases_are_pinned(dockerfile: Dockerfile) -> None:
    (base,) = dockerfile.values("FROM")
    name, tag = base.rsplit(":", 1)
    assert name in {"python", "nvcr.io/nvidia/tritonserver"}
    assert re.fullmatch(r"\d+\.\d+(\.\d+)?-[a-z0-9-]+", tag)


def test_nobody_is_root_at_the_end(dockerfile: Dockerfile) -> None:
    assert dockerfile.instructions[-1] == ("USER", dockerfile.user)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", dockerfile.user)


def test_known_instructions_alone(dockerfile: Dockerfile) -> None:
    known = {"FROM", "ARG", "RUN", "WORKDIR", "COPY", "ENV", "EXPOSE", "USER"}
    assert {name for name, _ in dockerfile.instructions} <= known


def test_what_is_copied_is_there_and_not_ignored(dockerfile: Dockerfile) -> None:
    patterns = _ignore_patterns(ROOT / ".dockerignore")
    assert dockerfile.copied[-1] == "."
    for source in (*dockerfile.copied[:-1], *SHIPPED, "pyproject.toml"):
        assert (ROOT / source).exists()
        assert not _ignored(source, patterns)


@pytest.mark.parametrize(
    "path",
    [".git", ".env", "checkpoints", "out", "tests", "client/tests", "serving/__pycache__"],
)
def test_what_is_no_part_of_an_image_is_ignored(path: str) -> None:
    assert _ignored(path, _ignore_patterns(ROOT / ".dockerignore"))


def _ignore_patterns(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def _ignored(path: str, patterns: list[str]) -> bool:
    """By the last pattern that matches the path or a folder above it, as Docker has it."""
    ignored = False
    parts = path.split("/")
    above = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    for pattern in patterns:
        bare = pattern.removeprefix("!")
        if any(_matches(each, bare) for each in above):
            ignored = not pattern.startswith("!")
    return ignored


def _matches(path: str, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatch(path.rsplit("/", 1)[-1], pattern.removeprefix("**/"))
    return path.count("/") == pattern.count("/") and fnmatch(path, pattern)


def test_the_gpu_image_leaves_the_embedded_server_out() -> None:
    runs = "\n".join(Dockerfile(ROOT / "deploy/docker/gpu.Dockerfile").values("RUN"))
    pattern = re.search(r"grep -v '([^']+)' requirements\.txt", runs)
    assert pattern is not None
    requirements = (ROOT / "requirements.txt").read_text().splitlines()
    left_out = [line for line in requirements if re.search(pattern[1], line)]
    assert [line.partition("=")[0] for line in left_out] == ["nvidia-pytriton"]


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_an_image_pins_nothing_twice(name: str) -> None:
    """pip refuses two versions of a package, also without dependencies."""
    runs = "\n".join(Dockerfile(ROOT / f"deploy/docker/{name}.Dockerfile").values("RUN"))
    lines = [line for line in runs.replace('"', "\n").splitlines() if "==" in line]
    pinned = [line.strip() for line in lines if "grep" not in line]
    pinned = [each.replace("${TENSORRT}", "tensorrt-cu13") for each in pinned]
    pinned += (ROOT / "requirements.txt").read_text().splitlines()
    names = [each.partition("==")[0] for each in pinned if "==" in each and each[0] != "#"]
    assert len(names) > 5
    assert sorted(set(names)) == sorted(names)


def test_the_gpu_image_checks_tensorrt_as_soon_as_it_is_there() -> None:
    dockerfile = Dockerfile(ROOT / "deploy/docker/gpu.Dockerfile")
    runs = dockerfile.values("RUN")
    installed = next(n for n, run in enumerate(runs) if "${TENSORRT_VERSION}" in run)
    assert runs[installed + 1].endswith("python deploy/docker/check_tensorrt.py")
    assert re.fullmatch(r"tensorrt-cu\d+", dockerfile.arguments["TENSORRT"])
    # The tests read the signatures of what builds and serves.
    bindings = "{TENSORRT}-bindings=={TENSORRT_VERSION}".format_map(dockerfile.arguments)
    assert bindings in (ROOT / "requirements-dev.txt").read_text().splitlines()
