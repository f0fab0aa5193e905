"""The networks in torch, by themselves."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from itertools import product

import torch

from benchmarks.gpu.cases import Case, Latest, Options, Row, free_memory, tflops, timed
from benchmarks.random_networks import Chain, configs
from examples.random_checkpoint import SIZES
from networks import ControlNet, SdxlUnet, Unet, VaeDecoder, VaeEncoder
from pipelines.descriptor import Precision
from runners.torch_session import TorchSettings

MODES = {
    "graphs": TorchSettings(),
    "eager": TorchSettings(graphs=False),
    "graphs, channels first": TorchSettings(channels_last=False),
}
_COMPILED = {"compiled, graphs": TorchSettings(compile=True)}
SIDES_PX = {"sd15": 512, "sdxl": 1024, "tiny": 64}
FACTOR = 8
"""Pixels to a latent cell."""

Made = tuple[Chain, int]
"""A chain, and the operations of a row."""


def unet(options: Options, stack: ExitStack) -> list[Case]:
    """Rows for every size, without and with a ControlNet, number of rows and mode."""
    latest: Latest[Made] = Latest()
    stack.callback(latest.free)
    cases = []
    for size, controlled in product(options.sizes, (False, True)):
        control = "with" if controlled else "without"
        named: Row = {"networks": size, "ControlNet": control, "px": SIDES_PX[size]}
        make = partial(_unet_chain, options, size, controlled)
        side = SIDES_PX[size] // FACTOR
        for rows in options.batches:
            cases += _modes(options, latest, named, make, rows, side)
    return cases


def _unet_chain(options: Options, size: str, controlled: bool) -> Made:
    made = configs(size)
    kind = SdxlUnet if SIZES[size].family == "sdxl" else Unet
    chosen = [kind(made["unet"], controlled=controlled)]
    networks = [ControlNet("x", made["controlnet"], kind.time_ids), *chosen]
    chain = Chain.random(networks if controlled else chosen, options.device, options.precision)
    return chain, chain.row_flops(SIDES_PX[size] // FACTOR)


def vae(options: Options, stack: ExitStack) -> list[Case]:
    """Rows for every half, precision, side, number of rows and mode."""
    latest: Latest[Made] = Latest()
    stack.callback(latest.free)
    config = configs(options.sizes[0])["vae"]
    cases = []
    for precision, kind in product(
        dict.fromkeys((options.precision, "fp32")), (VaeEncoder, VaeDecoder)
    ):
        cells = FACTOR if kind is VaeEncoder else 1  # the encoder's sides are pixels
        for px in sorted({SIDES_PX[size] for size in options.sizes}):
            named = {"network": kind.role, "precision": precision, "px": px}
            side = px // FACTOR * cells
            make = partial(_vae_chain, options, kind(config), precision, side)
            for rows in options.batches[:3:2]:
                cases += _modes(options, latest, named, make, rows, side)
    return cases


def _vae_chain(
    options: Options, network: VaeEncoder | VaeDecoder, precision: Precision, side: int
) -> Made:
    chain = Chain.random([network], options.device, precision)
    return chain, chain.row_flops(side)


def _modes(
    options: Options,
    latest: Latest[Made],
    named: Row,
    make: Callable[[], Made],
    rows: int,
    side: int,
) -> list[Case]:
    """A row for each mode; what does not fit into memory says so."""

    def run(settings: TorchSettings, seconds: float) -> Row:
        chain, operations = latest.get(tuple(named.values()), make)
        free_memory()
        on_gpu = options.device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        try:
            session = chain.runner(rows, side, settings)
            taken_s = timed(session, min(options.seconds, seconds / 2))
        except torch.OutOfMemoryError:
            return {"ms": "out of memory"}
        peak = torch.cuda.max_memory_allocated() if on_gpu else 0
        return {
            "ms": round(taken_s * 1e3, 2),
            "ms a row": round(taken_s * 1e3 / rows, 2),
            "TFLOP/s": tflops(rows * operations, taken_s),
            "GB": round(peak / 1e9, 1),
        }

    modes = {**MODES, **_COMPILED} if options.compile else MODES
    return [
        Case({**named, "rows": rows, "mode": mode}, partial(run, settings))
        for mode, settings in modes.items()
    ]
