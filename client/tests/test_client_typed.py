"""The installed package is typed for those who check strictly."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

CLIENT = Path(__file__).parent.parent
USER = """
import asyncio

import numpy as np

from segs_client import (
    AsyncClient,
    Client,
    DetailResult,
    Retries,
    Retry,
    Segs,
    ServerUnavailable,
    Tls,
    tools,
)


def told(retry: Retry) -> None:
    reveal_type(retry.error.retry_after_s)


def sync() -> DetailResult:
    segs = Segs.from_boxes([(0, 0, 8, 8)], (32, 32), labels=["face"])
    segs = tools.dilated(segs, 4)
    with Client(["a:1", "b:1"], pipeline="base", tls=Tls(ca="ca.pem")) as client:
        client.wait_ready()
        result = client.detail(np.zeros((32, 32, 3), np.uint8), segs, prompt="x", steps=4)
    reveal_type(result.report.segs[0].sampled_size)
    return result


async def main() -> None:
    async with AsyncClient("a:1", retries=Retries(rounds=2, on_retry=told)) as client:
        try:
            results = await asyncio.gather(client.detail("a.png", [(0, 0, 8, 8)], seed=3))
        except ServerUnavailable as error:
            reveal_type(error.request_id)
        else:
            reveal_type(results[0].image)


sync().tries + "wrong"
"""


@pytest.mark.slow
def test_a_strict_user_of_the_installed_package(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv" / "lib").glob("*/site-packages")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    install += ["--no-build-isolation", "--target", str(site), str(CLIENT)]
    subprocess.run(install, check=True, timeout=300)
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (tmp_path / "user.py").write_text(USER)
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(python)]
    environment = {name: value for name, value in os.environ.items() if name != "MYPYPATH"}
    checked = subprocess.run(
        [*command, "user.py"], cwd=tmp_path, env=environment, capture_output=True, text=True,
        timeout=900, check=False,
    )  # fmt: skip
    said = [line.partition(": ")[2] for line in checked.stdout.splitlines()]
    assert [line for line in said if line.startswith("error")] == [
        'error: Unsupported operand types for + ("int" and "str")  [operator]'
    ], checked.stdout
    revealed = [line.split('"')[1] for line in said if "Revealed type" in line]
    assert revealed == [
        "float | None",
        "tuple[int, int] | None",
        "str",
        "PIL.Image.Image | None",
    ]
