"""A pipeline whose UNet goes wrong for two prompts, row by row."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import NodeProto, helper, numpy_helper

from pipelines.descriptor import DESCRIPTOR_SUFFIX, PipelineDescriptor
from runners.in_process import LocalNetworks
from sampling.pipeline import load_pipelines
from sampling.program import NetworkCall, Tensors, run_alone
from sampling.text import encode_prompt

NAME = "sd15"
NOT_A_NUMBER = "poison"
"""The prompt that the UNet answers NaN to."""
NARROW = "squeeze"
"""The prompt that makes the UNet's answer one cell wide."""
_TOLD_AT = 1
"""The first token after the one that opens every prompt."""


def add_poisoned(healthy: Path, folder: Path) -> None:
    """The pipeline ``sd15`` of a folder in another one, with that UNet."""
    for path in healthy.glob(f"{NAME}_*"):
        if path.name != f"{NAME}_unet":
            (folder / path.name).symlink_to(path)
    shutil.copytree(healthy / f"{NAME}_unet", folder / f"{NAME}_unet")
    path = folder / f"{NAME}_unet" / "1" / "model.onnx"
    poison, narrow = (_told(healthy, prompt) for prompt in (NOT_A_NUMBER, NARROW))
    model = onnx.load(str(path), load_external_data=False)
    _spoil(model.graph, poison, narrow)
    path.write_bytes(model.SerializeToString())
    descriptor = PipelineDescriptor.model_validate_json(
        (healthy / f"{NAME}{DESCRIPTOR_SUFFIX}").read_bytes()
    )
    unet = descriptor.networks["unet"]
    files = {
        **unet.files,
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    networks = {**descriptor.networks, "unet": unet.model_copy(update={"files": files})}
    changed = descriptor.model_copy(update={"networks": networks})
    (folder / f"{NAME}{DESCRIPTOR_SUFFIX}").write_text(changed.model_dump_json())


def _told(repository: Path, prompt: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """What the UNet is told of a prompt, at one token: ``[D]``."""
    networks = LocalNetworks([repository])

    def answer(call: NetworkCall) -> Tensors:
        return networks.session(call.network).run(call.inputs)

    pipeline = load_pipelines([repository])[NAME]
    encoded = run_alone(encode_prompt(pipeline.text_encoders, prompt), answer)
    told: torch.Tensor = encoded.context[0, _TOLD_AT]
    return told.numpy()


def _spoil(
    graph: onnx.GraphProto,
    poison: np.ndarray[tuple[int], np.dtype[np.float32]],
    narrow: np.ndarray[tuple[int], np.dtype[np.float32]],
) -> None:
    """Rows that are told ``poison`` become NaN; one that is told ``narrow`` narrows them all."""
    output = graph.output[0].name
    for node in graph.node:
        node.output[:] = [f"plain_{name}" if name == output else name for name in node.output]
        node.input[:] = [f"plain_{name}" if name == output else name for name in node.input]
    constants: dict[str, np.ndarray[Any, Any]] = {
        "told_at": np.array(_TOLD_AT, np.int64),
        "poison": poison,
        "narrow": narrow,
        "near": np.array(1e-3, np.float32),
        "nan": np.array(np.nan, np.float32),
        "column": np.array([-1, 1, 1, 1], np.int64),
        "zero": np.array([0], np.int64),
        "width_axis": np.array([3], np.int64),
        "wide": np.array([1 << 20], np.int64),
        "less": np.array([(1 << 20) - 1], np.int64),
    }
    graph.initializer.extend(
        numpy_helper.from_array(value, f"toy_{name}") for name, value in constants.items()
    )
    graph.node.extend(
        [
            _node("Gather", ["encoder_hidden_states", "toy_told_at"], "toy_told", axis=1),
            *_is_told("poison"),
            *_is_told("narrow"),
            _node("Reshape", ["toy_is_poison", "toy_column"], "toy_rows"),
            _node("Where", ["toy_rows", "toy_nan", f"plain_{output}"], "toy_poisoned"),
            _node("Cast", ["toy_is_narrow"], "toy_ones", to=onnx.TensorProto.INT64),
            _node("ReduceMax", ["toy_ones"], "toy_any", axes=[0, 1], keepdims=0),
            _node("Mul", ["toy_any", "toy_less"], "toy_minus"),
            _node("Sub", ["toy_wide", "toy_minus"], "toy_end"),
            _node("Slice", ["toy_poisoned", "toy_zero", "toy_end", "toy_width_axis"], output),
        ]
    )


def _is_told(prompt: str) -> list[NodeProto]:
    return [
        _node("Sub", ["toy_told", f"toy_{prompt}"], f"toy_off_{prompt}"),
        _node("Abs", [f"toy_off_{prompt}"], f"toy_far_{prompt}"),
        _node("ReduceMax", [f"toy_far_{prompt}"], f"toy_most_{prompt}", axes=[1], keepdims=1),
        _node("Less", [f"toy_most_{prompt}", "toy_near"], f"toy_is_{prompt}"),
    ]


def _node(kind: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(kind, inputs, [output], name=f"toy/{output}", **attributes)
