"""What serving adds to one SEG: a request through gRPC against its bare network calls.

    python -m benchmarks.overhead --repository DIR --pipeline NAME

Both run in turns, on the same machine and with the same threads: the request through the real
server, then the same network calls, one after another, in this process. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe
from examples import scene
from preprocessing.prepare import RequestTensors
from runners.in_process import LocalDetailer
from segs_client import Client
from segs_client.messages import build
from serving.server import EmbeddedServer

PICTURE = np.asarray(scene.draw(512, 512)[0])
BOX = (192, 192, 320, 320)
LONG_S = 2.0
MAX_RATIO = 1.15
FIXED_S, PER_STEP_S = 0.060, 0.004


@dataclass(frozen=True)
class Setting:
    """One row of the table."""

    guide_size: int
    steps: int
    sampler_name: str = "euler"

    def options(self) -> dict[str, Any]:
        return {
            "prompt": "a face",
            "crop_factor": 1.0,
            "guide_size": self.guide_size,
            "max_size": self.guide_size,
            "steps": self.steps,
            "sampler_name": self.sampler_name,
        }


@dataclass(frozen=True)
class Measured:
    """Seconds of one setting, each the median of its rounds."""

    setting: Setting
    request_s: float
    networks_s: float

    @property
    def allowed_s(self) -> float:
        if self.networks_s >= LONG_S:
            return self.networks_s * MAX_RATIO
        return self.networks_s + FIXED_S + PER_STEP_S * self.setting.steps


def measure(
    server: EmbeddedServer, local: LocalDetailer, pipeline: str, setting: Setting, rounds: int
) -> Measured:
    """Request and bare calls in turns, after one round that is not counted."""
    built = build(PICTURE, [BOX], pipeline=pipeline, **setting.options())
    request_json = built.request.model_dump_json().encode()
    requests_s, networks_s = [], []
    with Client(server.grpc_url, pipeline=pipeline, timeout_s=600) as client:
        for turn in range(rounds + 1):
            start_s = time.perf_counter()
            client.detail(PICTURE, [BOX], **setting.options())
            request_s = time.perf_counter() - start_s
            local.networks.calls.clear()
            local.detail(RequestTensors(request_json, built.image, built.masks, built.seg_images))
            if turn > 0:
                requests_s.append(request_s)
                networks_s.append(sum(call.seconds for call in local.networks.calls))
    return Measured(setting, statistics.median(requests_s), statistics.median(networks_s))


def table(rows: Sequence[Measured]) -> str:
    """The results in Markdown."""
    lines = [
        "| size | sampler | steps | networks alone, s | request, s | added, ms | ratio "
        "| allowed, s | within |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        setting = row.setting
        lines.append(
            f"| {setting.guide_size}² | {setting.sampler_name} | {setting.steps} "
            f"| {row.networks_s:.3f} | {row.request_s:.3f} "
            f"| {(row.request_s - row.networks_s) * 1e3:.0f} "
            f"| {row.request_s / row.networks_s:.2f} | {row.allowed_s:.3f} "
            f"| {'yes' if row.request_s <= row.allowed_s else 'NO'} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; returns 1 if a row is over its bar."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--pipeline", required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256], metavar="PX")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 20, 40])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args(argv)
    settings = [Setting(size, steps) for size in arguments.sizes for steps in arguments.steps]
    local = LocalDetailer([arguments.repository])
    with EmbeddedServer([arguments.repository]) as server:
        rows = [
            measure(server, local, arguments.pipeline, setting, arguments.rounds)
            for setting in settings
        ]
        memory = server.rss_bytes()
    sys.stdout.write(f"{describe()}\n\n{table(rows)}\n\nMemory of the server: {memory}\n")
    return 0 if all(row.request_s <= row.allowed_s for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
