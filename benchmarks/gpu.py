"""What the networks and the engine reach in torch on a GPU.

    python -m benchmarks.gpu --out DIR [--parts rate,unet,vae,engine,golden]

Needs no checkpoint: the networks are of SD1.5's and SDXL's size, with random weights made on the
GPU. Each part writes DIR/PART.json when it is done; a part that has one is not run again unless
``--again`` says so. DIR/gpu.md gets the tables of all. About ten minutes on a large GPU. Without
a GPU it runs too, for which ``--sizes tiny --precision fp32 --rate-side 256`` is meant.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe
from benchmarks.random_networks import Chain, configs, random_module
from benchmarks.standin import CHECKPOINTS, PROJECT
from benchmarks.tables import markdown
from benchmarks.workload import Kind, request
from build_engines import TargetOptions, build
from build_engines.options import PRECISIONS
from examples.random_checkpoint import SIZES
from networks import ClipTextEncoder, ControlNet, SdxlUnet, Unet, VaeDecoder, VaeEncoder
from networks.precision import DTYPES
from pipelines.descriptor import Precision
from runners.in_process import LocalDetailer, LocalNetworks
from runners.torch_session import TorchSession, TorchSettings

Row = dict[str, Any]

MODES = {
    "eager": TorchSettings(graphs=False),
    "graphs": TorchSettings(),
    "graphs, channels first": TorchSettings(channels_last=False),
}
COMPILED = {"compiled, graphs": TorchSettings(compile=True)}
SIDES_PX = {"sd15": 512, "sdxl": 1024, "tiny": 64}
_FACTOR = 8
_MOST_RUNS = 50
_CASES = PROJECT / "tests" / "data" / "golden"


@dataclass(frozen=True)
class Options:
    """What is measured, and for how long."""

    device: torch.device
    precision: Precision
    sizes: tuple[str, ...]
    batches: tuple[int, ...]
    seconds: float
    """Of each figure's repeats."""
    rate_side: int
    steps: int
    segs: int
    every: int
    """Which golden cases are run: every such one."""
    modes: Mapping[str, TorchSettings]


def timed(run: Callable[[], object], seconds: float) -> float:
    """The median time of a run in seconds, after three that are not counted: the first chooses
    kernels, the second captures a graph."""
    for _ in range(3):
        run()
    times: list[float] = []
    while not times or (sum(times) < seconds and len(times) < _MOST_RUNS):
        start_s = time.perf_counter()
        run()
        times.append(time.perf_counter() - start_s)
    return statistics.median(times)


def rate(options: Options) -> Iterator[Row]:
    """The device's own: products of two square matrices."""
    side = options.rate_side
    for precision in ("fp16", "bf16"):
        dtype = DTYPES[precision]
        a, b = (torch.randn(side, side, device=options.device).to(dtype) for _ in range(2))

        def run(a: torch.Tensor = a, b: torch.Tensor = b) -> None:
            for _ in range(10):
                a @ b
            if a.is_cuda:
                torch.cuda.synchronize()

        seconds = timed(run, options.seconds)
        tflops = 10 * 2 * side**3 / seconds / 1e12
        yield {"precision": precision, "side": side, "TFLOP/s": round(tflops, 1)}


def measured(chain: Chain, batches: Sequence[int], side: int, options: Options) -> Iterator[Row]:
    """A row per batch and mode; what does not fit into memory says so."""
    operations = chain.row_flops(side)
    for rows, (mode, settings) in product(batches, options.modes.items()):
        if options.device.type == "cuda":
            gc.collect()  # the graphs of the mode before
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            seconds = timed(chain.runner(rows, side, settings), options.seconds)
        except torch.OutOfMemoryError:
            yield {"rows": rows, "mode": mode, "ms": "out of memory"}
            continue
        peak = torch.cuda.max_memory_allocated() if options.device.type == "cuda" else 0
        yield {
            "rows": rows,
            "mode": mode,
            "ms": round(seconds * 1e3, 2),
            "ms a row": round(seconds * 1e3 / rows, 2),
            "TFLOP/s": round(rows * operations / seconds / 1e12, 3),
            "GB": round(peak / 1e9, 1),
        }


def unet(options: Options) -> Iterator[Row]:
    """A step of denoising, without and with a ControlNet."""
    for size in options.sizes:
        made = configs(size)
        kind = SdxlUnet if SIZES[size].family == "sdxl" else Unet
        side = SIDES_PX[size] // _FACTOR
        control = ControlNet("x", made["controlnet"], kind.time_ids)
        for networks in ([kind(made["unet"])], [control, kind(made["unet"], controlled=True)]):
            chain = Chain.random(networks, options.device, options.precision)
            named = {"networks": size, "ControlNet": "with" if len(networks) > 1 else "without"}
            for row in measured(chain, options.batches, side, options):
                yield {**named, "px": SIDES_PX[size], **row}


def vae(options: Options) -> Iterator[Row]:
    """Both halves, in the precision asked for and in float32."""
    sides = sorted({SIDES_PX[size] for size in options.sizes})
    config = configs(options.sizes[0])["vae"]
    for precision in dict.fromkeys((options.precision, "fp32")):
        for network, cells in ((VaeEncoder(config), _FACTOR), (VaeDecoder(config), 1)):
            chain = Chain.random([network], options.device, precision)
            for side in sides:
                named = {"network": network.role, "precision": precision, "px": side}
                for row in measured(chain, options.batches[:3:2], side // _FACTOR * cells, options):
                    yield {**named, **row}


class _RandomNetworks(LocalNetworks):
    """The networks of a pipeline in another size."""

    def __init__(self, repository: Path, sessions: Mapping[str, TorchSession]) -> None:
        super().__init__([repository])
        self._sessions.update(sessions)


def engine(options: Options) -> Iterator[Row]:
    """SEGs at once on the step engine, and one after another."""
    size = "tiny" if "tiny" in options.sizes else "sd15"
    made = configs(size)
    repository = PROJECT / "build" / "gpu"
    build(CHECKPOINTS / "sd15", "tiny", repository, TargetOptions("torch"))
    networks = (
        ClipTextEncoder(made["text_encoder"]),
        Unet(made["unet"]),
        VaeEncoder(made["vae"]),
        VaeDecoder(made["vae"]),
    )
    modules = {each: random_module(each, options.device, options.precision) for each in networks}
    for mode, settings in options.modes.items():
        sessions = {
            each.model_name("tiny"): TorchSession(each, module, options.device, settings)
            for each, module in modules.items()
        }
        local = LocalDetailer([repository])
        local.networks = _RandomNetworks(repository, sessions)
        together = Kind(SIDES_PX[size], options.steps, options.segs)
        seconds = {}
        for kind, count in ((together, 1), (replace(together, segs=1), options.segs)):
            for _ in range(3):  # the first two choose kernels and capture graphs
                start_s = time.perf_counter()
                for index in range(count):
                    local.detail(request(kind, index).inputs("tiny"))
                seconds[kind.segs] = time.perf_counter() - start_s
        yield {
            "SEGs": together.name,
            "mode": mode,
            "at once, s": round(seconds[options.segs], 3),
            "one by one, s": round(seconds[1], 3),
            "times faster": round(seconds[1] / seconds[options.segs], 2),
        }


def golden(options: Options) -> Iterator[Row]:
    """How far the pictures are from the reference's, in grey levels."""
    from tests.golden.cases import find, read
    from tests.golden.pipelines import build_pipelines
    from tests.golden.runners import EngineRunner
    from tests.golden.verdict import TOLERANCES, judge

    cases = [read(path) for path in find(_CASES, ())[:: options.every]]
    repository = PROJECT / "build" / f"gpu-{options.precision}"
    target = TargetOptions("torch", precision=options.precision)
    build_pipelines(cases, CHECKPOINTS, repository, target)
    runner = EngineRunner(repository)
    verdicts = {
        case.name: judge(case, runner.run(case), TOLERANCES[options.precision]) for case in cases
    }
    means = {name: verdict.mean_difference for name, verdict in verdicts.items()}
    worst = max(means, key=means.__getitem__)
    yield {
        "precision": options.precision,
        "cases": len(cases),
        "passed": sum(verdict.passed for verdict in verdicts.values()),
        "greatest mean": round(means[worst], 4),
        "of": worst,
        "median mean": round(statistics.median(means.values()), 4),
        "failed": ", ".join(name for name, verdict in verdicts.items() if not verdict.passed),
    }


PARTS = {"rate": rate, "unet": unet, "vae": vae, "engine": engine, "golden": golden}


def report(out: Path) -> str:
    """The tables of all parts that are done, with shares of the device's own rate."""
    found = {
        part: json.loads((out / f"{part}.json").read_text())
        for part in PARTS
        if (out / f"{part}.json").is_file()
    }
    rates = {row["precision"]: row["TFLOP/s"] for row in found.get("rate", {}).get("rows", ())}
    lines = ["# On a GPU", ""]
    for part, done in found.items():
        for row in done["rows"]:
            own = rates.get(row.get("precision", done["precision"]))
            if own and part in ("unet", "vae") and "TFLOP/s" in row:
                row["share of the rate"] = f"{row['TFLOP/s'] / own:.0%}"
        head = list(dict.fromkeys(name for row in done["rows"] for name in row))
        table = markdown(head, [[row.get(name, "") for name in head] for row in done["rows"]])
        about = (PARTS[part].__doc__ or "").partition("\n")[0]
        told = f"{about} {done['machine']}; {done['precision']}; {done['seconds']:.0f} s."
        lines += [f"## {part}", "", told, "", table, ""]
    return "\n".join(lines)


def machine(device: torch.device) -> str:
    """The GPU before the rest."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    return f"{name}; {describe()}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the parts that are not done yet and writes the tables."""
    arguments = _parser().parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    options = Options(
        device=torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"),
        precision=arguments.precision,
        sizes=tuple(arguments.sizes.split(",")),
        batches=tuple(int(rows) for rows in arguments.batches.split(",")),
        seconds=arguments.seconds,
        rate_side=arguments.rate_side,
        steps=arguments.steps,
        segs=arguments.segs,
        every=arguments.every,
        modes={**MODES, **COMPILED} if arguments.compile else MODES,
    )
    for part in arguments.parts.split(","):
        path = arguments.out / f"{part}.json"
        if path.exists() and not arguments.again:
            continue
        start_s = time.perf_counter()
        rows = list(PARTS[part](options))
        done = {
            "machine": machine(options.device),
            "precision": options.precision,
            "seconds": time.perf_counter() - start_s,
            "rows": rows,
        }
        path.write_text(json.dumps(done, indent=2) + "\n")
        (arguments.out / "gpu.md").write_text(report(arguments.out))
        sys.stdout.write(f"{part}: {done['seconds']:.0f} s\n")
        sys.stdout.flush()
    sys.stdout.write(report(arguments.out))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of the results")
    add("--parts", default=",".join(PARTS), help="default: %(default)s")
    add("--again", action="store_true", help="runs parts that are done already")
    add("--precision", choices=PRECISIONS, default="fp16", help="default: %(default)s")
    add("--sizes", default="sd15,sdxl", help="of the networks (default: %(default)s; tiny)")
    add("--batches", default="1,2,4,8,16", help="rows (default: %(default)s)")
    add("--seconds", type=float, default=1.0, help="of each figure's repeats (default: 1)")
    add("--rate-side", type=int, default=8192, help="of the matrices (default: %(default)s)")
    add("--steps", type=int, default=20, help="of the engine's SEGs (default: %(default)s)")
    add("--segs", type=int, default=8, help="at once on the engine (default: %(default)s)")
    add("--every", type=int, default=1, help="which golden cases: every so many (default: all)")
    add("--compile", action="store_true", help="measures torch.compile too; minutes more")
    return parser


if __name__ == "__main__":
    sys.exit(main())
