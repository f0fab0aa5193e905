"""Comparison of requests run with the original UNet and the quantised one."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from build_engines.progress import progress
from build_engines.quantize.report import RequestQuality, StepQuality
from build_engines.quantize.runs import Array, Arrays, Redrawn, Runs
from build_engines.quantize.workload import CalibrationRequest
from runners.onnx_session import OnnxSession
from segs_client.boxes import window

OUTPUT = "out_sample"
_BIN = 100
"""Timesteps per entry of the report."""
_EQUAL_DB = 99.0


class StepErrors:
    """Collects the quantised UNet's errors on the original's inputs, row by row."""

    def __init__(self, quantized: OnnxSession) -> None:
        self._quantized = quantized
        self._found: dict[int, list[tuple[float, float]]] = defaultdict(list)

    def watch(self, inputs: Arrays, outputs: Arrays) -> None:
        """Adds one call of the original: inputs and outputs ``[rows, …]`` by name."""
        found = self._quantized.run(dict(inputs))[OUTPUT]
        for row, timestep in enumerate(inputs["timestep"][:, 0]):
            pair = difference(found[row], outputs[OUTPUT][row])
            self._found[int(timestep) // _BIN].append(pair)

    def steps(self) -> tuple[StepQuality, ...]:
        """Errors by timesteps, the least noise first."""
        steps = []
        for index, pairs in sorted(self._found.items()):
            errors, cosines = zip(*pairs, strict=True)
            steps.append(
                StepQuality(
                    timesteps=(index * _BIN, (index + 1) * _BIN),
                    rows=len(pairs),
                    error_mean=float(np.mean(errors)),
                    error_max=float(np.max(errors)),
                    cosine_min=float(np.min(cosines)),
                )
            )
        return tuple(steps)


def compare(
    runs: Runs,
    requests: Sequence[CalibrationRequest],
    original: OnnxSession,
    quantized: OnnxSession,
) -> tuple[tuple[StepQuality, ...], tuple[RequestQuality, ...]]:
    """Runs every request with both UNets."""
    errors = StepErrors(quantized)
    results = []
    with progress("Comparing with the UNet before", len(requests), "request") as advance:
        for request in requests:
            expected = runs.redraw(request, original, errors.watch)
            found = runs.redraw(request, quantized)
            results.append(judge(request, found, expected))
            advance(what=request.name)
    return errors.steps(), tuple(results)


def judge(request: CalibrationRequest, found: Redrawn, expected: Redrawn) -> RequestQuality:
    """Compares final latents, and pictures within the request's box."""
    error, cosine = difference(found.latent, expected.latent)
    region = window(request.box)
    apart = np.abs(found.picture[region].astype(int) - expected.picture[region])
    power = float((apart.astype(float) ** 2).mean())
    return RequestQuality(
        name=request.name,
        prompt=request.options["prompt"],
        denoise=request.options["denoise"],
        latent_shape=expected.latent.shape,
        latent_error=error,
        latent_cosine=cosine,
        picture_mean=float(apart.mean()),
        picture_max=int(apart.max()),
        picture_psnr_db=10 * math.log10(255**2 / power) if power else _EQUAL_DB,
    )


def difference(found: Array, expected: Array) -> tuple[float, float]:
    """The relative error, ‖a − b‖/‖b‖, and the cosine of two arrays."""
    a, b = found.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    length = max(float(np.linalg.norm(b)), 1e-12)
    both = max(float(np.linalg.norm(a)) * length, 1e-12)
    return float(np.linalg.norm(a - b)) / length, float(a @ b) / both
