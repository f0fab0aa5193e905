"""Finds the files of a part's weights: one safetensors file, or shards with an index.

The names are those that diffusers and transformers save: ``STEM.safetensors``,
``STEM.VARIANT.safetensors``, and for shards ``STEM.safetensors.index.json`` or
``STEM.safetensors.index.VARIANT.json``, which names the shard of each tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from build_engines.errors import CheckpointError

_STEM = r"(?:diffusion_pytorch_model|model)"
_SHARD = re.compile(_STEM + r".*-\d+-of-\d+.*\.safetensors")
_WHOLE = re.compile(_STEM + r"(?:\.(?P<variant>[\w.-]+))?\.safetensors")
_INDEX = re.compile(
    _STEM + r"(?:\.(?P<before>[\w.-]+))?\.safetensors\.index(?:\.(?P<after>[\w.-]+))?\.json"
)
_VARIANTS = ("", "fp32", "fp16", "bf16", "non_ema")
"""In the order in which they are taken. The averages (EMA) are what is meant for use; of the
weights without averages there is nothing better only where they are alone."""
EXPECTED = "diffusion_pytorch_model.safetensors, model.safetensors, a variant of it, or its index"


def choose_weights(names: Iterable[str], where: str) -> str | None:
    """The weights among a folder's file names: a safetensors file or an index of shards; None if
    there are none.

    Full precision is preferred, then :data:`_VARIANTS` in their order, then the only other one.

    Raises:
        CheckpointError: there are several unknown variants, or shards without an index.
    """
    found: dict[str, str] = {}
    shards = []
    for name in sorted(names):
        if _SHARD.fullmatch(name):
            shards.append(name)
        elif match := _INDEX.fullmatch(name):
            found.setdefault(match["before"] or match["after"] or "", name)
        elif match := _WHOLE.fullmatch(name):
            found[match["variant"] or ""] = name  # a whole file is preferred to an index
    for variant in _VARIANTS:
        if variant in found:
            return found[variant]
    if len(found) > 1:
        raise CheckpointError(
            f"{where}: which weights are meant? Leave one of {', '.join(found.values())}"
        )
    if not found and shards:
        raise CheckpointError(
            f"{where}: {shards[0]} is one of several files; their index "
            "(….safetensors.index.json) is missing"
        )
    return next(iter(found.values()), None)


def is_index(name: str) -> bool:
    """Whether a name of :func:`choose_weights` is that of an index."""
    return name.endswith(".json")


def shard_names(index: Mapping[str, Any], where: str) -> dict[str, str]:
    """Tensor → file name of its shard, of an index's content.

    Raises:
        CheckpointError: it has no such map, or a shard is not a safetensors file beside it.
    """
    names = index.get("weight_map")
    if not isinstance(names, dict) or not names:
        raise CheckpointError(f"{where}: weight_map is expected, tensor → file")
    for tensor, name in names.items():
        # A name with a folder could lead out of the checkpoint.
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+\.safetensors", name):
            raise CheckpointError(
                f"{where}: weight_map has {name!r} for {tensor}; allowed: the name of a "
                ".safetensors file in the same folder"
            )
    return names
