"""Loads a safetensors file into a module as float32, one tensor at a time.

The module is made on torch's meta device, so its weights exist once in memory: the tensors read
here. The file itself is memory-mapped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from build_engines.errors import CheckpointError

Rename = Callable[[str], str | None]


def load_weights(module: nn.Module, path: Path, rename: Rename) -> None:
    """Replaces every parameter of a meta-device module by the file's tensors, as float32.

    Args:
        module: its floating-point parameters and buffers are replaced in place.
        path: a safetensors file, any floating-point dtype.
        rename: the file's tensor name → the module's; None leaves the tensor out.

    Raises:
        CheckpointError: the file is broken, a tensor is missing, left over, or of another shape.
    """
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    state: dict[str, torch.Tensor] = {}
    unexpected: list[str] = []
    try:
        with safe_open(path, framework="pt") as file:
            for stored in file.keys():  # noqa: SIM118
                name = rename(stored)
                if name is None:
                    continue
                if name not in expected:
                    unexpected.append(stored)
                    continue
                tensor = file.get_tensor(stored)
                if tuple(tensor.shape) != expected[name]:
                    raise CheckpointError(
                        f"{path}: {stored} has shape {list(tensor.shape)}, "
                        f"config.json asks for {list(expected[name])}"
                    )
                state[name] = tensor.to(torch.float32, copy=True)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from error
    missing = sorted(expected.keys() - state.keys())
    if missing or unexpected:
        raise CheckpointError(
            f"{path}: the tensors do not fit config.json: "
            + "; ".join(filter(None, (_listed("missing", missing), _listed("extra", unexpected))))
        )
    module.load_state_dict(state, assign=True)
    module.eval().requires_grad_(False)


def _listed(what: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    shown = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
    return f"{len(names)} {what} ({shown})"
