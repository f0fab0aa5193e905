"""A model of what requests cost, fitted to some loads of a server and tried on others.

    python -m benchmarks.cost_model [--gpu | --repository DIR --pipeline NAME]

N SEGs at once, of ``a`` latent cells and ``r`` rows (2 with guidance), in ``s`` steps, take

    networks = s · Σ unet(rows, a) + Σ encoder(rows, a) + Σ decoder(rows, a) + Σ text(rows)
    network(rows, a) = fixed + linear · rows·a + square · rows·a²
    seconds = start + N·a·picture + N·s·step + networks          where all share one batch
    seconds = start + N·a·picture + max(N·s·step, networks)      where batches take turns

Each Σ is over the batches that the network's limit makes of N SEGs. ``fixed``, ``linear`` and
``square`` are the network's (its speed divides them); ``step`` is the engine's own work for a SEG's
step, ``picture`` preparing and composing, per latent cell, ``start`` what each request waits once.

The fit sees one and four SEGs of two sizes and lengths; everything else in the table is predicted.
Returns 1 if a prediction is off by more than 20 %.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from benchmarks.bench import Bench, chosen, median, parser_of
from benchmarks.machine import describe
from benchmarks.tables import markdown
from benchmarks.watch import Batch
from benchmarks.workload import Kind
from pipelines import load_all

MOST_ERROR = 0.20
UTILISATION = 0.8
"""Of a device, at which those who arrive at random still wait little."""
ROLES = ("text_encoder", "vae_encoder", "unet", "vae_decoder")
_TEXT_CELLS = 1
"""Prompts are of one length."""

Point = tuple[int, int, float]
"""Rows, latent cells, seconds."""


@dataclass(frozen=True)
class NetworkTime:
    """Seconds of a batch: fixed + linear·rows·cells + square·rows·cells²."""

    fixed_s: float
    linear_s: float
    square_s: float

    def seconds(self, rows: int, cells: int) -> float:
        return self.fixed_s + rows * cells * (self.linear_s + self.square_s * cells)

    def scaled(self, times: float) -> NetworkTime:
        """The same network on a device that takes so many times as long."""
        return NetworkTime(self.fixed_s * times, self.linear_s * times, self.square_s * times)


@dataclass(frozen=True)
class HostTime:
    """Seconds outside the networks: once, per SEG and cell, per SEG and step."""

    start_s: float
    picture_s: float
    step_s: float


@dataclass(frozen=True)
class FittedCosts:
    """The networks by role, how many rows each takes at once, and the rest."""

    networks: Mapping[str, NetworkTime]
    limits: Mapping[str, int]
    host: HostTime

    def networks_s(self, kind: Kind, segs: int) -> float:
        """Of so many SEGs at once, in as few batches as there can be."""
        times = {
            "text_encoder": self._batches_s("text_encoder", segs, 1, _TEXT_CELLS),
            "vae_encoder": self._batches_s("vae_encoder", segs, 1, kind.cells),
            "unet": kind.steps * self._batches_s("unet", segs, kind.rows, kind.cells),
            "vae_decoder": self._batches_s("vae_decoder", segs, 1, kind.cells),
        }
        return sum(times.values())

    def seconds(self, kind: Kind, segs: int) -> float:
        """From the request to the answer of so many SEGs at once."""
        host, networks_s = self.host, self.networks_s(kind, segs)
        steps_s = segs * kind.steps * host.step_s
        one_batch = segs * kind.rows <= self.limits["unet"]
        middle_s = steps_s + networks_s if one_batch else max(steps_s, networks_s)
        return host.start_s + segs * kind.cells * host.picture_s + middle_s

    def saturated_s(self, kind: Kind) -> float:
        """Per SEG, where there are always enough to fill the batches and the host keeps up."""
        full = self.limits["unet"] // kind.rows
        return self.networks_s(kind, full) / full

    def devices(self, kind: Kind, segs_per_s: float) -> int:
        """How many a load of so many SEGs a second needs."""
        return math.ceil(segs_per_s * self.saturated_s(kind) / UTILISATION)

    def _batches_s(self, role: str, segs: int, rows: int, cells: int) -> float:
        a_batch = max(self.limits[role] // rows, 1)
        full, rest = divmod(segs, a_batch)
        seconds = full * self.networks[role].seconds(a_batch * rows, cells)
        return seconds + (self.networks[role].seconds(rest * rows, cells) if rest else 0.0)


@dataclass(frozen=True)
class Observed:
    """So many SEGs of a kind at once: seconds from first to last, and the batches."""

    kind: Kind
    segs: int
    seconds: float
    batches: list[Batch]


def fit_network(points: Sequence[Point]) -> NetworkTime:
    """Least squares of the relative errors; no term below 0."""
    rows, cells, seconds = (np.array(column, float) for column in zip(*points, strict=True))
    terms = np.stack([np.ones_like(rows), rows * cells, rows * cells**2], axis=1)
    return NetworkTime(*_least_squares(terms, seconds, seconds))


def fit_host(observed: Sequence[Observed]) -> HostTime:
    """The same for what the batches leave of each time."""
    left = np.array([one.seconds - sum(b.seconds for b in one.batches) for one in observed])
    terms = [[1, one.segs * one.kind.cells, one.segs * one.kind.steps] for one in observed]
    whole = np.array([one.seconds for one in observed])
    return HostTime(*_least_squares(np.array(terms, float), np.maximum(left, 0), whole))


def _least_squares(
    terms: NDArray[np.float64], values: NDArray[np.float64], weights: NDArray[np.float64]
) -> list[float]:
    scale = terms.max(axis=0)
    found, _ = nnls(terms / scale / weights[:, None], values / weights)
    return [float(each) for each in found / scale]


def fit(observed: Sequence[Observed], limits: Mapping[str, int]) -> FittedCosts:
    """The model of what was observed: the medians of all batches of one size count as one."""
    points: dict[str, dict[tuple[int, int], list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in observed:
        for batch in one.batches:
            role = next(role for role in ROLES if batch.network.endswith(role))
            cells = _TEXT_CELLS if role == "text_encoder" else one.kind.cells
            points[role][batch.rows, cells].append(batch.seconds)
    networks = {
        role: fit_network([(*size, median(times)) for size, times in found.items()])
        for role, found in points.items()
    }
    return FittedCosts(networks, limits, fit_host(observed))


def observe(bench: Bench, kind: Kind, requests: int, rounds: int) -> Observed:
    """So many requests at once: the round whose time is the median."""
    found = []
    for _ in range(rounds):
        crowd, watched = bench.closed(kind, requests)
        segs = requests * kind.segs
        found.append(Observed(replace(kind, segs=1), segs, crowd.wall_s, watched.batches))
    return sorted(found, key=lambda one: one.seconds)[rounds // 2]


def limits_of(bench: Bench, kind: Kind) -> dict[str, int]:
    """Rows that each network takes at once, by role."""
    descriptor, _ = load_all([bench.repository])[bench.pipeline]
    limits: dict[str, int] = {role: each.max_batch for role, each in descriptor.networks.items()}
    return {**limits, "unet": bench.unet_limit(kind)}


def fitted_table(model: FittedCosts) -> str:
    """The constants."""
    rows = [
        [
            role,
            f"{time.fixed_s * 1e3:.2f}",
            f"{time.linear_s * 1e6:.3f}",
            f"{time.square_s * 1e9:.3f}",
        ]
        for role, time in model.networks.items()
    ]
    head = ["network", "fixed, ms", "linear, µs a row and cell", "square, ns a row and cell²"]
    host = model.host
    return (
        f"{markdown(head, rows)}\n\nstart {host.start_s * 1e3:.1f} ms; picture "
        f"{host.picture_s * 1e6:.2f} µs a SEG and cell; step {host.step_s * 1e3:.2f} ms a SEG"
    )


def error_of(model: FittedCosts, one: Observed) -> float:
    """Of the prediction, in parts of what was measured."""
    return model.seconds(one.kind, one.segs) / one.seconds - 1


def predictions_table(model: FittedCosts, tried: Sequence[tuple[str, Observed]]) -> str:
    """Predicted against measured."""
    rows = []
    for name, one in tried:
        predicted_s = model.seconds(one.kind, one.segs)
        rows.append(
            [
                name,
                f"{one.kind.size}²",
                one.kind.steps,
                one.kind.rows,
                f"{predicted_s / one.segs:.3f}",
                f"{one.seconds / one.segs:.3f}",
                f"{error_of(model, one):+.0%}",
            ]
        )
    head = ["at once", "size", "steps", "rows a SEG", "predicted, s per SEG"]
    return markdown([*head, "measured, s per SEG", "error"], rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints both tables; returns 1 if a prediction is off by more than the bar."""
    parser = parser_of("cost_model", __doc__)
    parser.add_argument("--sizes", type=int, nargs=2, help="of SEGs, px (default: 128 256)")
    parser.add_argument("--steps", type=int, nargs=2, default=(5, 20))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, nargs="+", default=[8, 32], help="to predict")
    parser.add_argument("--segs", type=int, nargs="+", default=[16], help="in a request")
    arguments = parser.parse_args(argv)
    sizes = arguments.sizes or ((256, 512) if arguments.gpu else (128, 256))
    rounds = arguments.rounds
    kinds = [Kind(size, steps) for size in sizes for steps in arguments.steps]
    middle = Kind(sum(sizes) // 2, sum(arguments.steps) // 2)
    last = kinds[-1]
    with chosen(arguments) as bench:
        for kind in (*kinds, middle):
            bench.warm_up(kind)
        seen = [observe(bench, kind, count, rounds) for kind in kinds for count in (1, 4)]
        model = fit(seen, limits_of(bench, last))
        tried = [
            (f"{count} requests", observe(bench, kind, count, rounds))
            for kind in (last, middle)
            for count in arguments.requests
        ]
        plain = replace(last, guided=False)
        tried.append(("8 requests, cfg 1", observe(bench, plain, 8, rounds)))
        tried += [
            (f"1 request, {count} SEGs", observe(bench, replace(last, segs=count), 1, rounds))
            for count in arguments.segs
        ]
        name = bench.pipeline
    sys.stdout.write(
        f"{describe()}; {name}; fitted to 1 and 4 requests at once of "
        f"{', '.join(kind.name for kind in kinds)}\n\n{fitted_table(model)}\n\n"
        f"{predictions_table(model, tried)}\n\n"
        f"With full batches {model.saturated_s(last):.3f} s per SEG of {last.name}: "
        f"{model.devices(last, 10)} such devices for 10 SEGs/s.\n"
    )
    return 0 if all(abs(error_of(model, one)) <= MOST_ERROR for _, one in tried) else 1


if __name__ == "__main__":
    sys.exit(main())
