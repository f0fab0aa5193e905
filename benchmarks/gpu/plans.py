"""The UNet as a TensorRT engine, built by the project's own builder, against torch.

Calls begin and end in host memory, for the engine and for torch alike.
"""

from __future__ import annotations

import importlib
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.cases import Case, Latest, NotRun, Options, Row, free_memory, tflops, timed
from benchmarks.gpu.networks import FACTOR, MODES, SIDES_PX
from benchmarks.random_networks import case_of, configs, random_module, row_flops
from build_engines import BuildError, TargetOptions
from build_engines.attention import PLAIN
from build_engines.export import export_onnx
from build_engines.targets.tensorrt import TensorRtTarget, open_tensorrt
from build_engines.tensorrt import EngineBuilder
from build_engines.verify import InputArrays, Run, run_in_torch
from networks import Space, Unet
from pipelines.gpu import GpuError, find_gpus
from runners.torch_session import TorchSession

_MODES = ("eager", "graphs")
_LEAST_BUILD_S = 150.0
"""To write the graph of SD1.5's UNet and to build its engine."""
_LIBRARIES_FOR_RTX = ("tensorrt_rtx", "tensorrt_rtx_bindings")
_COMPARED_ROWS = 2


@dataclass(frozen=True)
class Tools:
    """TensorRT, as this machine has it."""

    name: str
    build: Callable[[Unet, Path, Path], None]
    """Builds an engine of a network, from its graph into a plan."""
    load: Callable[[Unet, Path], Run]
    """Loads the plan of a network."""


def tensorrt(options: Options, stack: ExitStack) -> list[Case]:
    """A row for the build, and one per number of rows.

    Raises:
        NotRun: there is no GPU, no TensorRT, or nothing to run its engines with.
    """
    bench = PlanBench(options, find_tools(options))
    stack.callback(bench.free)
    least_s = 0.0 if options.is_rehearsal else _LEAST_BUILD_S
    cases = [Case({"case": "build"}, bench.build, least_s)]
    for rows in options.batches:
        cases.append(Case({"case": "run", "rows": rows}, partial(bench.run, rows)))
    return cases


def find_tools(options: Options) -> Tools:
    """TensorRT 11 or, where that is not installed, TensorRT for RTX.

    Raises:
        NotRun: as :func:`tensorrt`.
    """
    target = _target(options)
    builder = target.builder

    def build(network: Unet, graph: Path, plan: Path) -> None:
        builder.build(target.job(network, graph, plan))

    def load(network: Unet, plan: Path) -> Run:
        run = builder.load(plan, [each.name for each in network.outputs])
        if run is None:
            raise NotRun("torch has no CUDA here")
        return run

    return Tools(f"TensorRT {builder.version}", build, load)


def _target(options: Options) -> TensorRtTarget:
    chosen = TargetOptions("tensorrt", precision=options.precision)
    try:
        return open_tensorrt(chosen)
    except BuildError as error:
        for name in _LIBRARIES_FOR_RTX:
            try:
                builder = EngineBuilder(importlib.import_module(name))
                return TensorRtTarget(builder, find_gpus()[0], options.precision, chosen)
            except ImportError:
                continue
            except GpuError as missing:
                raise NotRun(str(missing)) from missing
        raise NotRun(str(error)) from error


class PlanBench:
    """One engine, and the same network in torch."""

    def __init__(self, options: Options, tools: Tools) -> None:
        self._options = options
        self._tools = tools
        size = "tiny" if options.is_rehearsal else "sd15"
        self._side = SIDES_PX[size] // FACTOR
        self._network = _unet(configs(size)["unet"], max(options.batches), self._side)
        self._folder = options.folder / "plan"
        self._plan = self._folder / "model.plan"
        self._engine: Latest[Run] = Latest()
        self._session: Latest[TorchSession] = Latest()

    def build(self, seconds: float) -> Row:
        """Exports the network, builds its engine, and compares both on one batch."""
        options = self._options
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        start_s = time.perf_counter()
        module = random_module(self._network, torch.device("cpu"), options.precision, PLAIN)
        graph = export_onnx(self._network, module, self._folder, PLAIN.domains)
        exported_s = time.perf_counter()
        self._tools.build(self._network, graph, self._plan)
        built_s = time.perf_counter()
        inputs = self._inputs(min(_COMPARED_ROWS, max(options.batches)))
        (made,) = self._loaded()(inputs)
        tensors = (torch.from_numpy(each).to(options.device) for each in inputs.values())
        (wanted,) = run_in_torch(module.to(options.device), tensors)
        difference = np.abs(made - wanted).max() / np.abs(wanted).max()
        return {
            "with": self._tools.name,
            "export, s": round(exported_s - start_s, 1),
            "build, s": round(built_s - exported_s, 1),
            "MB": round(self._plan.stat().st_size / 1e6, 1),
            "difference from torch": f"{float(difference):.1e}",
        }

    def run(self, rows: int, seconds: float) -> Row:
        """The engine's time of one call, and torch's.

        Raises:
            NotRun: there is no engine.
        """
        if not self._plan.is_file():
            raise NotRun("there is no engine; --again builds one")
        free_memory()
        repeats_s = min(self._options.seconds, seconds / 6)
        engine, inputs = self._loaded(), self._inputs(rows)
        own_s = timed(lambda: engine(inputs), repeats_s)
        operations = rows * row_flops(self._network, self._side)
        row = {
            "with": self._tools.name,
            "ms": round(own_s * 1e3, 2),
            "TFLOP/s": tflops(operations, own_s),
        }
        for mode in _MODES:
            torch_s = timed(partial(self._in_torch, mode, inputs), repeats_s)
            row[f"torch {mode}, ms"] = round(torch_s * 1e3, 2)
            row[f"× torch {mode}"] = round(torch_s / own_s, 2)
        return row

    def free(self) -> None:
        """Frees engine and network."""
        self._session.free()
        self._engine.free()

    def _loaded(self) -> Run:
        return self._engine.get("plan", lambda: self._tools.load(self._network, self._plan))

    def _inputs(self, rows: int) -> InputArrays:
        case = case_of(self._network, rows, self._side)
        example = self._network.example(case, torch.Generator().manual_seed(0))
        return {name: each.numpy() for name, each in example.items()}

    def _in_torch(self, mode: str, inputs: InputArrays) -> None:
        session = self._session.get(mode, partial(self._opened, mode))
        outputs = session.run({name: torch.from_numpy(each) for name, each in inputs.items()})
        for each in outputs.values():
            each.cpu()

    def _opened(self, mode: str) -> TorchSession:
        device = self._options.device
        module = random_module(self._network, device, self._options.precision)
        return TorchSession(self._network, module, device, MODES[mode])


def _unet(config: Mapping[str, Any], rows: int, side: int) -> Unet:
    """The UNet whose engine has one profile, of what is measured: others would only take time to
    build."""

    class Measured(Unet):
        spaces = {0: (Space(rows, side),)}  # noqa: RUF012 - a constant, as in its base

    return Measured(config)
