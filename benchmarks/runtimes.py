"""Ways to run a pipeline's networks on a CPU: seconds a row, memory, time to open.

    python -m benchmarks.runtimes --repository DIR --pipeline NAME

Each way is a process of its own, as in the server. They run the same batch in turns; a ratio is
the median over the rounds of a way's time by the first way's in the same round. OpenVINO takes
part where its package is installed. Prints a Markdown table for each network.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import multiprocessing
import os
import re
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from benchmarks.machine import describe
from pipelines import load_all
from runners.onnx_session import NamedArrays, SessionSettings, open_session, session_options

Run = Callable[[NamedArrays], Any]
Opener = Callable[[Path], Run]

CORES = len(os.sched_getaffinity(0))
PAUSE_S = 0.05
"""Before each run: threads that spin do so for a while after their run."""
TOGETHER = SessionSettings(by_row=False)
OWN_THREADS = replace(TOGETHER, threads=1)


def _onnxruntime(settings: SessionSettings, path: Path) -> Run:
    return open_session(path, settings=settings).run


def _spinning(settings: SessionSettings, path: Path) -> Run:
    options = session_options(settings)
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return partial(session.run, None)


def _bound(settings: SessionSettings, path: Path) -> Run:
    session = ort.InferenceSession(
        str(path), session_options(settings), providers=["CPUExecutionProvider"]
    )

    def run(inputs: NamedArrays) -> Any:
        binding = session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        for node in session.get_outputs():
            binding.bind_output(node.name, "cpu")
        session.run_with_iobinding(binding)
        return [value.numpy() for value in binding.get_outputs()]

    return run


def _openvino(hint: str, streams: int, path: Path) -> Run:
    openvino: Any = importlib.import_module("openvino")
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": str(CORES),
        "PERFORMANCE_HINT": hint,
        "NUM_STREAMS": str(streams),
    }
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)

    @cache
    def request_of(thread: int) -> Any:
        return compiled.create_infer_request()

    def run(inputs: NamedArrays) -> Any:
        request = request_of(threading.get_ident())
        return request.infer(dict(enumerate(inputs.values())), share_inputs=True)

    return run


def _in_parts(opener: Opener, rows: int, threads: int, path: Path) -> Run:
    """Batches cut into parts of ``rows``, of which ``threads`` run at once."""
    run_part = opener(path)
    pool = ThreadPoolExecutor(threads)

    def run(inputs: NamedArrays) -> Any:
        count = next(iter(inputs.values())).shape[0]
        starts = range(0, count, rows)
        parts = [{k: v[at : at + rows] for k, v in inputs.items()} for at in starts]
        return list(pool.map(run_part, parts))

    return run


WAYS: dict[str, Opener] = {
    "all cores on every operator": partial(_onnxruntime, TOGETHER),
    "… graph optimisation extended": partial(_onnxruntime, replace(TOGETHER, level=1)),
    "… arena": partial(_onnxruntime, replace(TOGETHER, arena=True)),
    "… arena, memory pattern": partial(
        _onnxruntime, replace(TOGETHER, arena=True, memory_pattern=True)
    ),
    "… IO binding": partial(_bound, TOGETHER),
    "… spinning": partial(_spinning, TOGETHER),
    "… 2 rows at a time": partial(_in_parts, partial(_onnxruntime, TOGETHER), 2, 1),
    "a row per thread, sessions of one": partial(
        _in_parts, partial(_onnxruntime, OWN_THREADS), 1, CORES
    ),
    "a row per core (the server's)": partial(_onnxruntime, SessionSettings()),
}
OPENVINO_WAYS: dict[str, Opener] = {
    "OpenVINO, latency": partial(_openvino, "LATENCY", 1),
    "OpenVINO, a row per stream": partial(
        _in_parts, partial(_openvino, "THROUGHPUT", CORES), 1, CORES
    ),
}


@dataclass
class Way:
    """A runtime in its own process, and what was measured of it."""

    name: str
    process: multiprocessing.process.BaseProcess
    connection: Connection
    opened_s: float
    seconds: dict[int, list[float]] = field(default_factory=dict)
    """By rows of the batch."""
    peak_bytes: int = 0


def _serve(connection: Connection, opener: Opener, path: Path) -> None:
    """A way's process: opens, then runs what it is sent and answers the seconds."""
    start_s = time.perf_counter()
    run = opener(path)
    connection.send(time.perf_counter() - start_s)
    while (inputs := connection.recv()) is not None:
        start_s = time.perf_counter()
        run(inputs)
        connection.send(time.perf_counter() - start_s)
    status = Path("/proc/self/status").read_text()
    peak = re.search(r"VmHWM:\s*(\d+) kB", status)
    connection.send(int(peak[1]) * 1024 if peak else 0)


def _start(name: str, opener: Opener, path: Path) -> Way:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, opener, path), daemon=True)
    process.start()
    theirs.close()
    return Way(name, process, ours, ours.recv())


def _ask(way: Way, message: NamedArrays | None) -> Any:
    way.connection.send(message)
    return way.connection.recv()


def batch(path: Path, rows: int, sizes: dict[str, int]) -> NamedArrays:
    """Plausible inputs for a network: [rows, …], its free axes of ``sizes``."""
    random = np.random.default_rng(0)
    inputs: NamedArrays = {}
    for node in onnx.load(str(path), load_external_data=False).graph.input:
        dims = node.type.tensor_type.shape.dim[1:]
        shape = [rows, *(sizes[dim.dim_param] if dim.dim_param else dim.dim_value for dim in dims)]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(node.type.tensor_type.elem_type)
        inputs[node.name] = random.standard_normal(shape).astype(dtype)
        if np.issubdtype(dtype, np.integer):
            inputs[node.name] = random.integers(0, 500, shape).astype(dtype)
    return inputs


def measure(
    path: Path, openers: dict[str, Opener], batches: Sequence[NamedArrays], rounds: int
) -> list[Way]:
    """All ways at once in memory, each batch in turns after a round that is not counted."""
    ways = [_start(name, opener, path) for name, opener in openers.items()]
    for inputs in batches:
        rows = next(iter(inputs.values())).shape[0]
        for turn in range(rounds + 1):
            for way in ways:
                time.sleep(PAUSE_S)
                seconds = _ask(way, inputs)
                if turn > 0:
                    way.seconds.setdefault(rows, []).append(seconds)
    for way in ways:
        way.peak_bytes = _ask(way, None)
        way.process.join()
    return ways


def lines(ways: Sequence[Way]) -> list[str]:
    """Rows of a table: the first way is what the others' ratios are of."""
    first = ways[0]
    result = []
    for way in ways:
        cells = []
        for rows, seconds in way.seconds.items():
            ratio = statistics.median(
                mine / its for mine, its in zip(seconds, first.seconds[rows], strict=True)
            )
            cells.append(f"{statistics.median(seconds) / rows * 1e3:.3g} ({ratio:.2f})")
        cells += [f"{way.opened_s:.1f}", f"{way.peak_bytes / 1e9:.2f}"]
        result.append(f"| {way.name} | {' | '.join(cells)} |")
    return result


def table(
    path: Path,
    openers: dict[str, Opener],
    at_once: int,
    batches: Sequence[NamedArrays],
    rounds: int,
) -> str:
    """One network's results in Markdown; the first way takes part in every group."""
    first, *others = openers
    body: list[str] = []
    for at in range(0, len(others), at_once - 1):
        group = [first, *others[at : at + at_once - 1]]
        rows = lines(measure(path, {name: openers[name] for name in group}, batches, rounds))
        body += rows[1:] if body else rows
    counts = [next(iter(inputs.values())).shape[0] for inputs in batches]
    head = [f"{count} rows, ms a row (ratio)" for count in counts]
    titles = [path.parent.parent.name, *head, "opened, s", "peak, GB"]
    rule = ["---"] * len(titles)
    return "\n".join([f"| {' | '.join(titles)} |", f"| {' | '.join(rule)} |", *body])


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.runtimes", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--pipeline", required=True)
    parser.add_argument(
        "--networks", nargs="+", default=["unet", "vae_decoder", "text_encoder"], metavar="ROLE"
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--size", type=int, default=256, metavar="PX", help="of the picture")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--at-once", type=int, default=4, metavar="N", help="ways in memory, at least 2"
    )
    parser.add_argument(
        "--ways", nargs="+", default=[""], metavar="TEXT", help="ways that hold one of these"
    )
    arguments = parser.parse_args(argv)
    px, latent = arguments.size, arguments.size // 8
    sizes = {"height": latent, "width": latent, "height_px": px, "width_px": px, "sequence": 77}
    descriptor, folder = load_all([arguments.repository])[arguments.pipeline]
    known = WAYS | OPENVINO_WAYS if importlib.util.find_spec("openvino") else WAYS
    first, *others = known
    chosen = [name for name in others if any(text in name for text in arguments.ways)]
    openers = {name: known[name] for name in (first, *chosen)}
    sys.stdout.write(f"{describe()}; {px}²\n")
    for role in arguments.networks:
        network = descriptor.networks[role]
        path = folder / network.model / "1" / "model.onnx"
        batches = [batch(path, n, sizes) for n in arguments.rows if n <= network.max_batch]
        text = table(path, openers, max(2, arguments.at_once), batches, arguments.rounds)
        sys.stdout.write(f"\n{text}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
