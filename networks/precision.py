"""A network with weights and values in half precision and with FP32 inputs and outputs.

The graph's own types set the precision, as strongly typed engines require. Timesteps stay in
float32, and so do blocks of a network (:meth:`NetworkExport.sensitive`) whose values on a probe
are near float16's greatest.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from networks import Adapter, NetworkExport
from pipelines.descriptor import Precision

log = logging.getLogger(__name__)

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
HEADROOM = 8.0
"""A block is in float16 only if the probe's values are this factor below float16's greatest."""

ProbeInputs = Sequence[torch.Tensor]


def forbid_tf32() -> None:
    """Makes this process compute float32 products on a GPU in float32: torch's convolutions are
    rounded to TF32 by default."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


class _Cast(nn.Module):
    """Casts inputs and outputs; inside, every block has the type of its weights."""

    def __init__(self, module: nn.Module, exact: Sequence[bool], dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module
        self.exact = tuple(exact)
        self.dtype = dtype

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        cast = (
            x if exact or not x.is_floating_point() else x.to(self.dtype)
            for x, exact in zip(inputs, self.exact, strict=True)
        )
        outputs = self.module(*cast)
        if isinstance(outputs, torch.Tensor):
            return outputs.float()
        return tuple(output.float() for output in outputs)


def lower(
    network: NetworkExport, module: Adapter, precision: Precision, probes: Sequence[ProbeInputs]
) -> nn.Module:
    """The loaded module in a precision, with the same FP32 inputs and outputs.

    Args:
        module: float32 with finite weights; changed in place.
        probes: realistic inputs in the order of its arguments; blocks that overflow on them stay in
            float32.
    """
    return lowered(network, module, precision, overflowing(network, module, precision, probes))


def overflowing(
    network: NetworkExport, module: Adapter, precision: Precision, probes: Sequence[ProbeInputs]
) -> tuple[str, ...]:
    """Names of the loaded module's blocks that must stay in float32: those with values near
    float16's greatest on the probes."""
    blocks = network.sensitive(module)
    if precision != "fp16" or not blocks:
        return ()
    most = torch.finfo(torch.float16).max / HEADROOM
    with _watched(blocks) as greatest, torch.inference_mode():
        for inputs in probes:
            module(*inputs)
    kept = {block for block in blocks if not greatest[block] < most}  # "not": NaN too
    if kept:
        log.info("%s: %d blocks stay in float32, as they overflow", network.role, len(kept))
    return tuple(name for name, block in module.named_modules() if block in kept)


def lowered(
    network: NetworkExport, module: Adapter, precision: Precision, kept: Collection[str]
) -> nn.Module:
    """The module in a precision, with the blocks named ``kept`` in float32 and with the same FP32
    inputs and outputs.

    Args:
        module: float32, with weights or on the meta device; changed in place.
    """
    if precision == "fp32":
        return module
    dtype = DTYPES[precision]
    exact = [tensor.name in network.exact_inputs for tensor in network.inputs]
    module.to(dtype)
    in_float32 = [module.get_submodule(name) for name in kept]
    for block in network.sensitive(module):
        own = torch.float32 if block in in_float32 else dtype
        block.register_forward_pre_hook(_cast_inputs(own))
    for block in in_float32:
        block.to(torch.float32)
    return _Cast(module, exact, dtype)


@contextmanager
def _watched(blocks: Sequence[nn.Module]) -> Iterator[dict[nn.Module, float]]:
    """A context that records the greatest magnitude of each block's inputs and its parts'
    outputs."""
    greatest = dict.fromkeys(blocks, 0.0)
    hooks = []

    def watch(block: nn.Module) -> Any:
        def look(part: nn.Module, inputs: Any, output: Any) -> None:
            for value in (*inputs, output):
                if isinstance(value, torch.Tensor) and value.is_floating_point():
                    most = float(value.abs().amax().nan_to_num(torch.inf))
                    greatest[block] = max(greatest[block], most)

        return look

    for block in blocks:
        for part in block.modules():
            hooks.append(part.register_forward_hook(watch(block)))
    try:
        yield greatest
    finally:
        for hook in hooks:
            hook.remove()


def _cast_inputs(dtype: torch.dtype) -> Any:
    def cast(block: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(
            x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x
            for x in inputs
        )

    return cast
