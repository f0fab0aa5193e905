"""The wheels: whole, and at work where nothing of the checkout can be imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
import venv
from email import message_from_bytes
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image

from examples.demo_service import CHECKPOINT
from examples.spoilt_scene import spoilt_scene
from segs_client import __version__

ROOT = Path(__file__).parent.parent
NOT_SHIPPED = {".ci", "benchmarks", "client", "deploy", "docgen", "docs", "examples", "tests"}
VARIABLES = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
SCRIPTS = {
    "segs-detail": "segs_client.cli",
    "segs-server": "serving",
    "segs-build": "build_engines",
}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The client's and the server's, in this order."""
    folder = tmp_path_factory.mktemp("wheels")
    for project in (ROOT, ROOT / "client"):
        run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], project)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def environment(wheels: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheels and links to the dependencies of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
    run([*pip, "install", "--quiet", "--no-deps", "--no-index", *map(str, wheels)], folder)
    dependencies = folder / "dependencies" / "site-packages"
    dependencies.mkdir(parents=True)
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "segs_" not in path.name:  # this project, as it is installed here
            (dependencies / path.name).symlink_to(path)
    (site_packages,) = folder.glob("lib/python3*/site-packages")
    (site_packages / "dependencies.pth").write_text(f"{dependencies}\n")
    return folder


def run(command: list[str], folder: Path) -> str:
    """What a command that succeeds prints."""
    result = subprocess.run(
        command, cwd=folder, env=VARIABLES, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_every_file_is_in_its_wheel(wheels: list[Path]) -> None:
    listed = run(["git", "ls-files", "-z"], ROOT).split("\0")
    wanted = {
        file.removeprefix("client/")
        for file in listed
        if file.startswith("client/segs_client/")
        or ("/" in file and file.partition("/")[0] not in NOT_SHIPPED)
    }
    there = {name for wheel in wheels for name in ZipFile(wheel).namelist()}
    assert {file for file in wanted if (ROOT / file).exists()} <= there
    assert not {name.partition("/")[0] for name in there} & NOT_SHIPPED


def test_the_metadata(wheels: list[Path]) -> None:
    for wheel, name in zip(wheels, ("segs_client", "segs_detailer"), strict=True):
        archive = ZipFile(wheel)
        metadata = message_from_bytes(archive.read(f"{name}-{__version__}.dist-info/METADATA"))
        assert "```" in metadata.get_payload()
        requirements = metadata.get_all("Requires-Dist", [])
    assert f"segs-client=={__version__}" in requirements


@pytest.mark.parametrize(("script", "module"), SCRIPTS.items())
def test_a_command_has_the_name_that_it_was_called_by(
    environment: Path, script: str, module: str, tmp_path: Path
) -> None:
    program = str(environment / "bin" / script)
    assert run([program, "--version"], tmp_path) == f"{script} {__version__}\n"
    assert run([program, "--help"], tmp_path).startswith(f"usage: {script} ")
    python = str(environment / "bin" / "python")
    file = run([python, "-c", f"import {module}; print({module}.__file__)"], tmp_path)
    assert file.startswith(str(environment / "lib"))
    if script != "segs-detail":
        said = run([python, "-m", module, "--help"], tmp_path)
        assert said.startswith(f"usage: python -m {module} ")


@pytest.mark.server
def test_from_a_checkpoint_to_a_picture(environment: Path, tmp_path: Path) -> None:
    build, serve, detail = (
        str(environment / "bin" / f"segs-{name}") for name in ("build", "server", "detail")
    )
    run([build, str(CHECKPOINT), "--name", "demo", "--repository", "pipelines"], tmp_path)
    scene = spoilt_scene(17)
    Image.fromarray(scene.pixels).save(tmp_path / "photo.png")
    x1, y1, x2, y2 = map(int, scene.segs[0].bbox)
    ready = tmp_path / "ready.json"
    server = subprocess.Popen(
        [serve, "serve", "--repository", "pipelines", "--grpc-port", "0", "--ready-file", ready],
        cwd=tmp_path,
        env=VARIABLES,
    )
    try:
        while not ready.exists():
            assert server.poll() is None
            time.sleep(0.1)
        port = json.loads(ready.read_text())["grpc_port"]
        call = [detail, "photo.png", "--url", f"127.0.0.1:{port}", "--pipeline", "demo"]
        call += ["--box", f"{x1},{y1},{x2},{y2}", "--guide-size", "96", "--steps", "2"]
        call += ["--paste-feather", "0"]
        assert "enhanced" in run([*call, "-o", "out.png"], tmp_path)
    finally:
        server.terminate()
        server.wait()
    changed = (np.asarray(Image.open(tmp_path / "out.png")) != scene.pixels).any(axis=2)
    assert changed[y1:y2, x1:x2].mean() > 0.5
    changed[y1:y2, x1:x2] = False
    assert not changed.any()
    assert server.returncode == 0
