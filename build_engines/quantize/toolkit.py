"""Runs NVIDIA ModelOpt, which needs its own Python environment."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import tempfile
from pathlib import Path

from build_engines.errors import BuildError
from build_engines.export import DATA_FILE, MODEL_FILE
from pipelines.descriptor import Quantization

log = logging.getLogger(__name__)

EXCLUDED = r".*(time_embedding|time_emb_proj|add_embedding|conv_in|conv_out|conv_shortcut).*"
"""Nodes that keep their precision: the first and last layers, the skip connections' changes of
width, and the embeddings of timestep and size. They are few, and their errors affect all others."""

_WORKER = Path(__file__).with_name("worker.py")
_VERSION = """\
import sys
from importlib.metadata import PackageNotFoundError, version
try:
    sys.stdout.write(version("nvidia-modelopt"))
except PackageNotFoundError:
    sys.exit(9)
"""
_TAIL_LINES = 15


def modelopt_version(python: Path) -> str:
    """The version of ModelOpt of an interpreter.

    Raises:
        BuildError: it has none, or is no interpreter; the message names the remedy.
    """
    try:
        found = subprocess.run(
            [str(python), "-I", "-c", _VERSION],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"quantizer_python: {python} cannot be run: {error}") from error
    if found.returncode == 0:
        return found.stdout.strip()
    raise BuildError(
        f"quantizer_python: {python} has no NVIDIA ModelOpt. Name an environment that has it by "
        "--quantizer-python; docs/quantization.md says how to make one"
    )


def quantize_graph(
    python: Path, model: Path, mode: Quantization, rows: Path, log_file: Path
) -> None:
    """Replaces ``model`` by the quantised graph, with its weights in a file beside it.

    Args:
        model: ``model.onnx``, float32 or float16; both files are replaced.
        rows: a folder of ``.npz`` files, inputs ``[1, …]`` by name, of any sizes.
        log_file: for ModelOpt's output.

    Raises:
        BuildError: ModelOpt failed; ``model`` is unchanged.
    """
    with tempfile.TemporaryDirectory(dir=model.parent) as scratch:
        source, result = Path(scratch, "source"), Path(scratch, "result")
        source.mkdir()
        result.mkdir()
        copy_graph(model, source)  # ModelOpt changes its input files
        job = {
            "model": str(source / MODEL_FILE),
            "output": str(result / MODEL_FILE),
            "mode": mode,
            "rows": str(rows.resolve()),
            "exclude": [EXCLUDED],
        }
        path = Path(scratch, "job.json")
        path.write_text(json.dumps(job))
        _run([str(python), "-I", str(_WORKER), str(path.resolve())], log_file)
        for name in (MODEL_FILE, DATA_FILE):
            # onnx creates files with mode 600.
            shutil.copymode(model.with_name(name), result / name)
            (result / name).replace(model.with_name(name))


def copy_graph(model: Path, folder: Path) -> Path:
    """Copies ``model.onnx`` and its weights; returns the copy's path."""
    for name in (MODEL_FILE, DATA_FILE):
        shutil.copyfile(model.with_name(name), folder / name)
    return folder / MODEL_FILE


def _run(command: list[str], log_file: Path) -> None:
    with log_file.open("w", encoding="utf-8") as output:
        code = subprocess.run(
            command, stdout=output, stderr=subprocess.STDOUT, check=False
        ).returncode
    if code != 0:
        tail = log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
        raise BuildError("\n".join([f"quantize: ModelOpt failed ({code}), see {log_file}:", *tail]))
