"""A stand-in for torch's tensors, as torch is no requirement of the client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt


class Tensor:
    """As much of a tensor on a device as is used: numpy gets its values only by way of the CPU."""

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def ndim(self) -> int:
        return self.values.ndim

    def __iter__(self) -> Iterator[Tensor]:
        return map(Tensor, self.values)

    def detach(self) -> Tensor:
        return self

    def cpu(self) -> Tensor:
        return self

    def numpy(self) -> npt.NDArray[Any]:
        return self.values

    def tolist(self) -> Any:
        return self.values.tolist()

    def __array__(self, dtype: Any = None, copy: Any = None) -> npt.NDArray[Any]:
        raise TypeError("can't convert a device tensor to numpy")
