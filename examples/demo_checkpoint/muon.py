"""The optimiser Muon: momentum whose step for each matrix is made orthogonal.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024. torch's own takes
matrices only and works in bfloat16, which is slow on CPUs; this one takes convolutions too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """For weights with two axes or more; all but the first count as one.

    Args:
        weights: the parameters.
        lr: the step's size: about the spectral norm of what each step changes.
        momentum: share of the old gradient that stays; Nesterov's form.
        weight_decay: share of the weights, times ``lr``, that each step takes away.
    """

    def __init__(
        self,
        weights: Iterable[nn.Parameter],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step; there is no closure."""
        for group in self.param_groups:
            alike = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    alike[weight.flatten(1).shape].append(weight)
            for (rows, columns), weights in alike.items():
                scale = group["lr"] * max(1.0, rows / columns) ** 0.5
                updates = torch.stack(
                    [self._direction(each, group["momentum"]) for each in weights]
                )
                for weight, update in zip(weights, orthogonal(updates), strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.add_(update.view_as(weight), alpha=-scale)

    def _direction(self, weight: torch.Tensor, momentum: float) -> torch.Tensor:
        state, gradient = self.state[weight], weight.grad
        assert gradient is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        average: torch.Tensor = state["momentum"].lerp_(gradient, 1 - momentum)
        return average.lerp(gradient, 1 - momentum).flatten(1)


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """The matrices ``[K, M, N]`` with all singular values brought near 1, by Newton–Schulz.

    The iteration runs on the smaller Gram matrix, with whose powers it commutes.
    """
    first, second, third = _COEFFICIENTS
    upright = matrices.shape[1] > matrices.shape[2]
    wide = matrices.mT if upright else matrices
    wide = wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)
    gram = wide @ wide.mT
    identity = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    product = identity.expand_as(gram)
    for _ in range(_ITERATIONS):
        factor = first * identity + second * gram + third * (gram @ gram)
        product = factor @ product
        gram = factor @ gram @ factor
    result: torch.Tensor = product @ wide
    return result.mT if upright else result
