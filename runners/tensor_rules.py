"""Checks a network's inputs against its model config before it is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

_DTYPES = {
    "TYPE_BOOL": "bool",
    "TYPE_UINT8": "uint8",
    "TYPE_INT32": "int32",
    "TYPE_INT64": "int64",
    "TYPE_FP16": "float16",
    "TYPE_FP32": "float32",
    "TYPE_FP64": "float64",
}


class Shaped(Protocol):
    """A numpy or torch tensor on any device."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> object: ...


class TensorError(ValueError):
    """An input does not fit the config; the message names it and what is allowed."""


@dataclass(frozen=True)
class _Rule:
    dtype: str
    dims: tuple[int, ...]
    """Sizes without the batch axis; −1: any."""


@dataclass(frozen=True)
class InputRules:
    """The inputs of one model; ``max_batch`` 0 means that the shapes have no batch axis."""

    rules: Mapping[str, _Rule]
    max_batch: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> InputRules:
        """Reads Triton's model config, parsed from JSON.

        Raises:
            ValueError: an input has an unsupported data type.
        """
        rules = {}
        for entry in config["input"]:
            if entry["data_type"] not in _DTYPES:
                raise ValueError(f"input {entry['name']}: {entry['data_type']} is not supported")
            dims = tuple(int(size) for size in entry["dims"])
            rules[entry["name"]] = _Rule(_DTYPES[entry["data_type"]], dims)
        return cls(rules, int(config.get("max_batch_size", 0)))

    @property
    def names(self) -> set[str]:
        return set(self.rules)

    def check(self, tensors: Mapping[str, Shaped]) -> None:
        """Compares names, data types and shapes; all must have the same number of rows.

        Raises:
            TensorError: names the first wrong input.
        """
        if set(tensors) != self.names:
            raise TensorError(f"inputs {sorted(tensors)}: {sorted(self.names)} are required")
        rows = set()
        for name, tensor in tensors.items():
            rule = self.rules[name]
            shape = tuple(tensor.shape)
            dtype = str(tensor.dtype).removeprefix("torch.")
            if dtype != rule.dtype:
                raise TensorError(f"{name}: data type {dtype}, {rule.dtype} is required")
            sizes = shape[1:] if self.max_batch else shape
            fits = len(shape) == len(rule.dims) + bool(self.max_batch) and all(
                wanted in (-1, size) for size, wanted in zip(sizes, rule.dims, strict=True)
            )
            if not fits or 0 in shape:
                raise TensorError(f"{name}: shape {list(shape)}, {self._wanted(rule)} is required")
            if self.max_batch:
                rows.add(shape[0])
        if len(rows) > 1:
            raise TensorError(f"rows differ between inputs: {sorted(rows)}")
        if rows and rows.pop() > self.max_batch:
            raise TensorError(f"more rows than max_batch_size {self.max_batch}")

    def _wanted(self, rule: _Rule) -> str:
        sizes = ["n" if size == -1 else str(size) for size in rule.dims]
        if self.max_batch:
            sizes.insert(0, f"1..{self.max_batch}")
        return f"[{', '.join(sizes)}], none 0,"
