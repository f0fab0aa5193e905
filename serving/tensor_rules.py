"""What a model's config says about its inputs, checked before a network sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

_DTYPES = {
    "TYPE_BOOL": np.bool_,
    "TYPE_UINT8": np.uint8,
    "TYPE_INT32": np.int32,
    "TYPE_INT64": np.int64,
    "TYPE_FP16": np.float16,
    "TYPE_FP32": np.float32,
    "TYPE_FP64": np.float64,
}


class TensorError(ValueError):
    """An input does not fit the config; the message names it and what is allowed."""


@dataclass(frozen=True)
class _Rule:
    dtype: np.dtype[Any]
    dims: tuple[int, ...]
    """Sizes without the batch axis; −1 stands for any."""


@dataclass(frozen=True)
class InputRules:
    """The inputs of one model; ``max_batch`` 0 means that the shapes have no batch axis."""

    rules: Mapping[str, _Rule]
    max_batch: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> InputRules:
        """Reads Triton's model config, as JSON gives it.

        Raises:
            ValueError: an input has a data type that no network of ours takes.
        """
        rules = {}
        for entry in config["input"]:
            if entry["data_type"] not in _DTYPES:
                raise ValueError(f"input {entry['name']}: {entry['data_type']} is not supported")
            dims = tuple(int(size) for size in entry["dims"])
            rules[entry["name"]] = _Rule(np.dtype(_DTYPES[entry["data_type"]]), dims)
        return cls(rules, int(config.get("max_batch_size", 0)))

    @property
    def names(self) -> set[str]:
        """Names of all inputs."""
        return set(self.rules)

    def check(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Compares names, data types and shapes; all must have the same number of rows.

        Raises:
            TensorError: names the first input that does not fit.
        """
        if set(arrays) != self.names:
            raise TensorError(f"inputs {sorted(arrays)}: {sorted(self.names)} are required")
        rows = set()
        for name, array in arrays.items():
            rule = self.rules[name]
            shape = tuple(array.shape)
            if array.dtype != rule.dtype:
                raise TensorError(f"{name}: data type {array.dtype}, {rule.dtype} is required")
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
