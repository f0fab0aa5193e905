"""A pipeline whose UNet fails on order; otherwise it is the real one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.supervised import PIPELINE
from serving.options import REPOSITORY_ROOT

UNET = f"{PIPELINE}_unet"
_ORDER = "order"

_MODEL = """
import importlib.util
import os
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

_spec = importlib.util.spec_from_file_location("onnx_backend", BACKEND)
_backend = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_backend)
ORDER = Path(__file__).parent / "order"


class TritonPythonModel(_backend.TritonPythonModel):
    def execute(self, requests):
        order = ORDER.read_text() if ORDER.exists() else ""
        if order.startswith("once-"):
            ORDER.unlink()
        if order == "once-exit":
            os._exit(1)
        if order == "exit":
            os._exit(1)
        if order == "raise":
            raise RuntimeError(f"a secret in {__file__}")
        if order == "hang":
            time.sleep(600)
        if order == "slow":
            time.sleep(0.3)
        responses = super().execute(requests)
        if order == "no-output":
            return [pb_utils.InferenceResponse([]) for _ in requests]
        if order in ("once-nan-row", "nan", "shape"):
            return [self._spoil(response, order) for response in responses]
        return responses

    def _spoil(self, response, order):
        value = response.output_tensors()[0].as_numpy().copy()
        if order == "shape":
            value = np.ascontiguousarray(value[:, :2])
        elif order == "nan":
            value[:] = np.nan
        else:
            value[0] = np.nan
        return pb_utils.InferenceResponse([pb_utils.Tensor("out_sample", value)])

    def open(self, folder, config, args):
        return super().open(folder, {**config, "default_model_filename": "model.onnx"}, args)

    def initialize(self, args):
        if ORDER.exists() and ORDER.read_text() == "broken":
            raise RuntimeError("cannot start")
        super().initialize(args)

    def open(self, folder, config, args):
        return super().open(folder, {**config, "default_model_filename": ""}, args)
"""


class FaultyPipeline:
    """A copy of the pipeline with such a UNet, in a folder of its own. It is not as it was built:
    a server takes it with ``--no-verify`` only."""

    def __init__(self, pipeline: Path, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for path in pipeline.iterdir():
            if path.name == UNET:
                shutil.copytree(path, folder / UNET)
            elif path.is_dir():
                (folder / path.name).symlink_to(path.resolve())
        self._version = folder / UNET / "1"
        backend = REPOSITORY_ROOT / "backends" / "onnxruntime" / "model.py"
        source = _MODEL.replace("BACKEND", repr(str(backend)), 1)
        (self._version / "model.py").write_text(source)
        config = folder / UNET / "config.pbtxt"
        config.write_text(config.read_text().replace('"onnxruntime"', '"python"'))
        descriptor = f"{PIPELINE}.pipeline.json"
        (folder / descriptor).write_bytes((pipeline / descriptor).read_bytes())

    @contextmanager
    def ordered(self, order: str) -> Iterator[None]:
        """The UNet does this while the block runs, or once."""
        self.order(order)
        try:
            yield
        finally:
            self.order("")

    def order(self, order: str) -> None:
        """What every call ends in from now on; the empty string: in its result."""
        temporary = self._version / f".{_ORDER}"
        temporary.write_text(order)
        temporary.replace(self._version / _ORDER)
