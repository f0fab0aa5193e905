"""One ONNX network in onnxruntime on the CPU, with numpy arrays in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort


class OnnxSession:
    """A loaded network. Calls from several threads are safe."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self.input_names: tuple[str, ...] = tuple(node.name for node in session.get_inputs())
        self.output_names: tuple[str, ...] = tuple(node.name for node in session.get_outputs())

    def run(self, inputs: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Runs the network once; every output by its name.

        Raises:
            onnxruntime's own exceptions, whose text may hold paths and shapes.
        """
        return dict(zip(self.output_names, self._session.run(None, inputs), strict=True))


def open_session(
    model_path: Path | str,
    threads: int = 0,
    *,
    inter_threads: int = 0,
    parallel: bool = False,
) -> OnnxSession:
    """Loads ``model_path``; weights in files beside it are found by onnxruntime.

    Args:
        threads: of one operator; 0 means one per core.
        inter_threads: across operators, where ``parallel``; 0 means one per core.
        parallel: run independent operators at the same time.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = inter_threads
    if parallel:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    # Waiting threads that spin take the cores from the process that sampling runs in.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # The arena keeps the largest shape's memory for good, once per network.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    # One copy of the weights less: what is packed for a kernel is not kept unpacked as well.
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    session = ort.InferenceSession(
        str(model_path), sess_options=options, providers=["CPUExecutionProvider"]
    )
    return OnnxSession(session)
