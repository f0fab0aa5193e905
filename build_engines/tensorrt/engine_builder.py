"""Engines by TensorRT's Python package, 11.x, or TensorRT for RTX's, 1.x, which has the same API.

All their networks are strongly typed: the graph's types are the engine's.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from build_engines.errors import BuildError, RefitError
from build_engines.tensorrt import timing_cache
from build_engines.tensorrt.callbacks import make_logger, make_monitor
from build_engines.tensorrt.job import Job, Profiles
from build_engines.tensorrt.plan import Plan
from build_engines.tensorrt.structure import read_structure
from build_engines.verify import Run

log = logging.getLogger(__name__)


class EngineBuilder:
    """Builds engines.

    Args:
        trt: the module ``tensorrt``, or ``tensorrt_rtx``.
    """

    def __init__(self, trt: Any) -> None:
        self._trt = trt
        self.version = ".".join(trt.__version__.split(".")[:3])
        """TensorRT's, e.g. "11.2.1"; a plan runs with no other."""

    def build(self, job: Job) -> None:
        """Writes the plan, or leaves no file.

        Raises:
            BuildError: says what TensorRT complained of.
        """
        trt = self._trt
        logger = make_logger(trt)
        builder = self._start(trt.Builder, logger)
        network = builder.create_network()
        parser = trt.OnnxParser(network, logger)
        if not parser.parse_from_file(str(job.graph)):
            raise BuildError(f"{job.graph.name}: TensorRT cannot parse it: {_errors(parser)}")
        _check_inputs(network, job.profiles)
        config = self._config(builder, job, logger)
        cancelled = threading.Event()
        monitor = make_monitor(trt, cancelled)
        config.progress_monitor = monitor

        plan = _run(lambda: builder.build_serialized_network(network, config), cancelled)
        if plan is None:
            raise BuildError(f"TensorRT cannot build the engine{_within(job)}: {logger.said()}")
        _write(job.plan, plan)
        if job.timing_cache is not None:
            self._keep_timings(config, job.timing_cache)

    def refit(self, old: Path, graph: Path, plan: Path) -> None:
        """Writes the old plan with the weights of another graph of the same structure.

        Raises:
            RefitError: that cannot be done; no file is left.
        """
        trt = self._trt
        logger = make_logger(trt)
        runtime = self._start(trt.Runtime, logger)
        engine = runtime.deserialize_cuda_engine(old.read_bytes())
        if engine is None:
            raise RefitError(f"{old}: TensorRT cannot load it: {logger.said()}")
        if not engine.refittable:
            raise RefitError(f"{old}: its weights cannot be exchanged")
        refitter = trt.Refitter(engine, logger)
        parser = trt.OnnxParserRefitter(refitter, logger)
        if not parser.refit_from_file(str(graph)):
            raise RefitError(f"{graph.name}: {_errors(parser)}")
        _check_complete(refitter, graph)
        if not refitter.refit_cuda_engine():
            raise RefitError(f"TensorRT cannot refit the engine: {logger.said()}")
        _write(plan, self._serialize(engine))

    def load(self, plan: Path, outputs: Sequence[str]) -> Run | None:
        """Loads a plan to run it, with the names of its outputs in order; None without CUDA in this
        Python's torch, which has the memory that it runs on.

        Raises:
            VerificationError: TensorRT cannot load it.
        """
        return Plan(self._trt, plan, outputs).run if torch.cuda.is_available() else None

    def _start(self, kind: Any, logger: Any) -> Any:
        try:
            return kind(logger)
        except TypeError as error:  # what the bindings make of a null pointer
            raise BuildError(f"TensorRT {self.version} cannot start: {logger.said()}") from error

    def _config(self, builder: Any, job: Job, logger: Any) -> Any:
        trt = self._trt
        config = builder.create_builder_config()
        if job.workspace_bytes is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace_bytes)
        self._set_capabilities(config, job.compute_capabilities)
        config.builder_optimization_level = job.optimization_level
        if job.refit:
            config.set_flag(trt.BuilderFlag.REFIT)
        if job.weight_streaming:
            config.set_flag(trt.BuilderFlag.WEIGHT_STREAMING)
        if not job.tf32:
            config.clear_flag(trt.BuilderFlag.TF32)
        for shapes in job.profiles:
            profile = builder.create_optimization_profile()
            try:
                for name, (least, usual, most) in shapes.items():
                    profile.set_shape(name, least, usual, most)
                is_taken = config.add_optimization_profile(profile) >= 0
            except RuntimeError:  # a shape that cannot be
                is_taken = False
            if not is_taken:
                raise BuildError(
                    f"TensorRT refuses the optimisation profile {dict(shapes)}: {logger.said()}"
                )
        if job.timing_cache is not None:
            self._use_timings(config, job.timing_cache)
        return config

    def _set_capabilities(self, config: Any, wanted: Sequence[str]) -> None:
        """
        Raises:
            BuildError: this library builds for none such.
        """
        if not wanted:
            return
        kind = getattr(self._trt, "ComputeCapability", None)
        known = {} if kind is None else kind.__members__
        names = [f"SM{each.replace('.', '')}" for each in wanted]
        if not known.keys() >= set(names):
            allowed = ", ".join(name for name in known if name.startswith("SM"))
            raise BuildError(
                f"TensorRT {self.version} cannot build for compute capability "
                f"{', '.join(wanted)}; allowed: {allowed or 'that of the GPU that is here'}"
            )
        config.num_compute_capabilities = len(names)
        for index, name in enumerate(names):
            config.set_compute_capability(known[name], index)

    def _use_timings(self, config: Any, path: Path) -> None:
        known = timing_cache.read(path)
        cache = config.create_timing_cache(known)
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            log.warning("%s: of another GPU or TensorRT; it will be replaced", path)
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)

    def _keep_timings(self, config: Any, path: Path) -> None:
        """Adds what this build has measured to the file, which another may have changed."""
        measured = config.get_timing_cache()

        def merge(known: bytes) -> bytes:
            others = config.create_timing_cache(known) if known else None
            if others is not None and not measured.combine(others, ignore_mismatch=False):
                log.debug("%s: nothing of it can be kept", path)
            return bytes(measured.serialize())

        timing_cache.update(path, merge)

    def _serialize(self, engine: Any) -> Any:
        """The refitted engine as a plan that can be refitted again."""
        config = engine.create_serialization_config()
        config.set_flag(self._trt.SerializationFlag.INCLUDE_REFIT)
        return engine.serialize_with_config(config)


def _check_inputs(network: Any, profiles: Profiles) -> None:
    """A profile for another name than the graph's would be found out only by a long build."""
    parsed = {network.get_input(i).name for i in range(network.num_inputs)}
    for shapes in profiles:
        if parsed != set(shapes):
            raise BuildError(
                f"the graph's inputs are {sorted(parsed)}, the profile's {sorted(shapes)}"
            )


def _within(job: Job) -> str:
    """The limit that a build may have failed for."""
    if job.workspace_bytes is None:
        return ""
    return f" within a workspace of {job.workspace_bytes / 1e9:.1f} GB"


def _check_complete(refitter: Any, graph: Path) -> None:
    """That every weight of the graph is in the engine now, and none of the old one's remains.

    What has no name are the parser's own constants, which the structure decides.
    """
    structure = read_structure(graph)
    refittable = set(refitter.get_all_weights()) - {""}
    for names, what in (
        (structure.weights - refittable, "cannot be exchanged"),
        (refittable - structure.weights - structure.constants, "are not in the graph"),
        (set(refitter.get_missing_weights()), "are missing"),
    ):
        if names:
            listed = ", ".join(repr(name) for name in sorted(names)[:5])
            raise RefitError(f"{len(names)} weights {what}: {listed}")


def _errors(parser: Any) -> str:
    """All that a parser or refitter complains of."""
    errors: Sequence[Any] = [parser.get_error(i) for i in range(parser.num_errors)]
    return "; ".join(
        f"{each.node_operator()} {each.node_name()}: {each.desc()}".strip() for each in errors
    )


def _run(build: Any, cancelled: threading.Event) -> Any:
    """Runs it on another thread, so that Ctrl-C reaches this one: TensorRT swallows what is
    raised in its callbacks. An interrupted build ends at its next step: nothing else ends it."""
    with ThreadPoolExecutor(1, thread_name_prefix="tensorrt") as pool:
        try:
            return pool.submit(build).result()
        except KeyboardInterrupt:
            cancelled.set()
            log.warning(
                "interrupted; the build ends at TensorRT's next step, within a minute or so"
            )
            raise


def _write(path: Path, data: Any) -> None:
    try:
        with path.open("wb") as file:
            file.write(data)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
