"""The parts of the benchmark, in the order in which they are run, and their shares of the time."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.gpu.cases import Case, NotRun, Options


@dataclass(frozen=True)
class Part:
    """One table."""

    cases_in: str
    """``module:function``, of ``function(options, stack) -> list[Case]``. It is imported when the
    part is run, since a machine may lack packages of other parts. What it enters into the stack is
    ended after its last case."""
    weight: float
    """Of its share of the time."""
    about: str

    def cases(self, options: Options, stack: ExitStack) -> list[Case]:
        """Its rows to be measured.

        Raises:
            NotRun: something that all of them need is missing here.
        """
        module, _, name = self.cases_in.partition(":")
        try:
            function: Callable[[Options, ExitStack], list[Case]]
            function = getattr(importlib.import_module(module), name)
        except ImportError as error:
            raise NotRun(f"a package is missing: {error}") from error
        return function(options, stack)


PARTS = {
    "rate": Part(
        "benchmarks.gpu.rate:rate",
        2,
        "The device's own rate: products of two square matrices.",
    ),
    "pipeline": Part(
        "benchmarks.gpu.pipeline:pipeline",
        10,
        "The pipeline with random weights that the next three parts run, written to disk.",
    ),
    "seg": Part(
        "benchmarks.gpu.engine:seg",
        6,
        "One SEG in one process, end to end: time in its networks, and the rest.",
    ),
    "server": Part(
        "benchmarks.gpu.server:server",
        22,
        "Callers of the real server, each with its next SEG when it has the last; for one caller "
        "also where its time goes.",
    ),
    "engine": Part(
        "benchmarks.gpu.engine:engine",
        8,
        "As many callers of the step engine in one process, without Triton; a network there holds "
        "up the engine's own work.",
    ),
    "tensorrt": Part(
        "benchmarks.gpu.plans:tensorrt",
        35,
        "The UNet as a TensorRT engine against torch, from and to host memory.",
    ),
    "unet": Part(
        "benchmarks.gpu.networks:unet",
        14,
        "A step of denoising in torch, without and with a ControlNet.",
    ),
    "vae": Part(
        "benchmarks.gpu.networks:vae",
        4,
        "Both halves of the VAE in torch, in the precision asked for and in float32.",
    ),
    "golden": Part(
        "benchmarks.gpu.golden:golden",
        5,
        "How far the pictures are from the reference's, in grey levels.",
    ),
}
