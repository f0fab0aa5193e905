"""Loads a part of a checkpoint into a module as float32, one tensor at a time.

The module is created on torch's meta device, so that its weights are in memory once, plus the
tensor that is being converted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from build_engines.checkpoint import Checkpoint
from build_engines.errors import CheckpointError
from networks import Adapter, NetworkExport

Rename = Callable[[str], str | None]


def load_network(network: NetworkExport, checkpoint: Checkpoint) -> Adapter:
    """The checkpoint's own network in float32.

    Raises:
        CheckpointError: the weights are missing, do not fit, or have values that are NaN or
            infinite.
    """
    module = network.skeleton()
    _load_weights(module.model, checkpoint, network.part, network.current_name)
    network.complete(module)
    return module


def _load_weights(module: nn.Module, checkpoint: Checkpoint, part: str, rename: Rename) -> None:
    """Replaces every parameter of a meta-device module by the checkpoint's tensors, as float32.

    Args:
        module: its floating-point parameters and buffers are replaced in place.
        checkpoint: tensors of any floating-point dtype.
        part: the checkpoint's part with the tensors.
        rename: the checkpoint's tensor name → the module's; None skips the tensor.

    Raises:
        CheckpointError: the file is broken, a tensor is missing, left over, of another shape, or
            has values that are NaN or infinite.
    """
    where = f"{checkpoint.root}: {part}"
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    state: dict[str, torch.Tensor] = {}
    unexpected: list[str] = []
    for tensor in checkpoint.tensors(part):
        name = rename(tensor.name)
        if name is None:
            continue
        if name not in expected:
            unexpected.append(tensor.name)
            continue
        if tensor.shape != expected[name]:
            raise CheckpointError(
                f"{where}: {tensor.name} has shape {list(tensor.shape)}, "
                f"config.json asks for {list(expected[name])}"
            )
        state[name] = tensor.read().to(torch.float32, copy=True)
    missing = sorted(expected.keys() - state.keys())
    if missing or unexpected:
        raise CheckpointError(
            f"{where}: the tensors do not fit config.json: "
            + "; ".join(filter(None, (_listed("missing", missing), _listed("extra", unexpected))))
        )
    module.load_state_dict(state, assign=True)
    module.eval().requires_grad_(False)


def _listed(what: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    shown = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
    return f"{len(names)} {what} ({shown})"
