"""What a network needs in memory while it runs, beyond its weights, by size and rows.

    python -m benchmarks.network_memory --repository DIR --pipeline NAME [--network ROLE] [CASE…]

A case is SIDE×ROWS, as ``512x4``; ``1408x1t`` runs one picture through the VAE's programs, which
tile it where its bound asks for that. Prints a Markdown table. The figure is the process's peak
of resident memory during a call over what it held before, on Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.machine import describe
from pipelines import PipelineDescriptor, load_all
from runners.in_process import LocalNetworks
from sampling import vae
from sampling.program import NetworkCall, Tensors, run_alone

CASES = ("512x1", "512x2", "512x4", "768x1", "768x2", "1024x1", "1408x1t")
ROLES = ("vae_encoder", "vae_decoder", "unet")
_PROCESS = Path("/proc/self")


@dataclass(frozen=True)
class Case:
    """Square pictures of ``side`` pixels, ``rows`` at once."""

    side: int
    rows: int
    tiled: bool

    @classmethod
    def parse(cls, text: str) -> Case:
        """Reads ``512x4``."""
        match = re.fullmatch(r"(\d+)x(\d+)(t?)", text)
        if match is None:
            raise argparse.ArgumentTypeError(f"{text!r} is not SIDExROWS, as 512x4 or 1408x1t")
        return cls(int(match[1]), int(match[2]), bool(match[3]))

    @property
    def pixels(self) -> int:
        return self.side**2 * self.rows

    def work(
        self, descriptor: PipelineDescriptor, role: str, networks: LocalNetworks
    ) -> Callable[[], object]:
        """A function that runs the network."""
        cells = self.side // vae.FACTOR
        latent = torch.randn(self.rows, descriptor.latent_channels, cells, cells)
        values = torch.rand(self.rows, 3, self.side, self.side)

        def run(call: NetworkCall) -> Tensors:
            return asyncio.run(networks.run(call.network, call.inputs))

        if self.tiled and role == "vae_encoder":
            return lambda: run_alone(vae.encode(descriptor, values), run)
        if self.tiled:
            return lambda: run_alone(vae.decode(descriptor, latent), run)
        inputs = {
            "vae_encoder": {"sample": values * 2 - 1},
            "vae_decoder": {"latent_sample": latent},
            "unet": {
                "sample": latent,
                "timestep": torch.full((self.rows, 1), 500.0),
                "encoder_hidden_states": torch.randn(self.rows, 77, descriptor.context_dim),
            },
        }[role]
        return lambda: run(NetworkCall(descriptor.networks[role].model, inputs))  # type: ignore[index]


def peak_bytes(work: Callable[[], object]) -> int:
    """How far the process's resident memory rises while it works."""
    ctypes.CDLL(None).malloc_trim(0)
    (_PROCESS / "clear_refs").write_text("5")  # the peak starts anew
    before = _resident("VmRSS")
    work()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", (_PROCESS / "status").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"/proc/self/status has no {field}")
    return int(found[1]) * 1024


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.network_memory")
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--pipeline", required=True)
    parser.add_argument("--network", choices=ROLES, default="vae_decoder")
    parser.add_argument("cases", nargs="*", type=Case.parse, default=[Case.parse(c) for c in CASES])
    arguments = parser.parse_args(argv)
    descriptor, _ = load_all([arguments.repository])[arguments.pipeline]
    networks = LocalNetworks([arguments.repository])
    networks.session(descriptor.networks[arguments.network].model)
    sys.stdout.write(f"{describe()}; {arguments.network}\n\n")
    sys.stdout.write("| side, px | rows | peak, GB | kB a pixel | s |\n|---|---|---|---|---|\n")
    for case in arguments.cases:
        work = case.work(descriptor, arguments.network, networks)
        start_s = time.perf_counter()
        peak = peak_bytes(work)
        seconds = time.perf_counter() - start_s
        rows = f"{case.rows}{', in tiles' if case.tiled else ''}"
        per_pixel = peak / case.pixels / 1e3
        line = f"| {case.side} | {rows} | {peak / 1e9:.2f} | {per_pixel:.2f} | {seconds:.1f} |\n"
        sys.stdout.write(line)
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
