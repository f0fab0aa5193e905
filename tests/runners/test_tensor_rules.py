"""Which inputs a network takes, by its config."""

from __future__ import annotations

import numpy as np
import pytest

from runners.tensor_rules import InputRules, TensorError

_CONFIG = {
    "max_batch_size": 2,
    "input": [
        {"name": "sample", "data_type": "TYPE_FP32", "dims": ["4", "-1"]},
        {"name": "step", "data_type": "TYPE_INT64", "dims": []},
    ],
}


def test_tensor_rules() -> None:
    rules = InputRules.from_config(_CONFIG)
    step = np.zeros(2, np.int64)
    rules.check({"sample": np.zeros((2, 4, 7), np.float32), "step": step})
    for sample in (
        np.zeros((2, 4, 0), np.float32),
        np.zeros((2, 3, 7), np.float32),
        np.zeros((2, 4, 7), np.float64),
        np.zeros((1, 4, 7), np.float32),
        np.zeros((4, 7), np.float32),
    ):
        with pytest.raises(TensorError):
            rules.check({"sample": sample, "step": step})
    with pytest.raises(TensorError, match="required"):
        rules.check({"step": step})
