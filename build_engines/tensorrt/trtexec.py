"""TensorRT through its program trtexec, where the Python package is not installed."""

from __future__ import annotations

import logging
import re
import subprocess
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

from build_engines.errors import BuildError, RefitError
from build_engines.tensorrt.base import Job, Shape
from pipelines.libnvinfer import version_text

log = logging.getLogger("trtexec")

_BANNER = re.compile(r"\[TensorRT v(\d+)\]")
_HELP_S = 120
_BYTES_PER_MIB = 1 << 20
_LAST_LINES = 20


class TrtexecBuilder:
    """See :class:`build_engines.tensorrt.base.Builder`."""

    def __init__(self, program: Path) -> None:
        self._program = program

    @cached_property
    def version(self) -> str:
        """As the program's first line gives it.

        Raises:
            BuildError: it gives none.
        """
        command = [str(self._program), "--help"]
        try:
            said = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=_HELP_S
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BuildError(f"target: {self._program} cannot be run: {error}") from error
        found = _BANNER.search(said.stdout + said.stderr)
        if found is None:
            raise BuildError(
                f"target: {self._program} does not tell its version: {said.stderr.strip()[-300:]}"
            )
        return version_text(int(found.group(1)))

    def build(self, job: Job) -> None:
        """See :meth:`Builder.build`."""
        if job.timing_cache is not None:
            job.timing_cache.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._run(self.command(job))
            if not job.plan.is_file():
                raise BuildError("trtexec ended well but wrote no engine")
        except BaseException:
            job.plan.unlink(missing_ok=True)
            raise

    def refit(self, old: Path, graph: Path, plan: Path) -> None:
        """trtexec cannot say whether a weight of the old engine remains."""
        raise RefitError("trtexec does not refit; that takes the Python package tensorrt")

    def command(self, job: Job) -> list[str]:
        """The command line that builds the engine. trtexec locks and merges the cache itself."""
        return [
            str(self._program),
            f"--onnx={job.graph}",
            f"--saveEngine={job.plan}",
            "--stronglyTyped",
            "--skipInference",
            *(argument for each in enumerate(job.profiles) for argument in _profile(*each)),
            f"--memPoolSize=workspace:{job.workspace_bytes // _BYTES_PER_MIB}",
            f"--builderOptimizationLevel={job.optimization_level}",
            *([f"--timingCacheFile={job.timing_cache}"] if job.timing_cache else []),
            *(["--refit"] if job.refit else []),
            *(["--allowWeightStreaming"] if job.weight_streaming else []),
            *([] if job.tf32 else ["--noTF32"]),
        ]

    def _run(self, command: list[str]) -> None:
        """Runs it, its lines into the log; ends it when this is interrupted."""
        log.debug("%s", command)
        lines: list[str] = []
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process:
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    lines = [*lines[1 - _LAST_LINES :], line.rstrip()]
                    log.debug("%s", line.rstrip())
            except BaseException:
                process.kill()
                raise
        if process.returncode != 0:
            raise BuildError(
                f"trtexec failed with exit code {process.returncode}:\n" + "\n".join(lines)
            )


def _profile(index: int, shapes: Mapping[str, tuple[Shape, Shape, Shape]]) -> Iterator[str]:
    yield f"--profile={index}"
    for i, option in enumerate(("minShapes", "optShapes", "maxShapes")):
        specs = (f"{name}:{'x'.join(map(str, sizes[i]))}" for name, sizes in shapes.items())
        yield f"--{option}={','.join(specs)}"
