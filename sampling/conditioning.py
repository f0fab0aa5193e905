"""Conditionings: encoded prompts with their weights, as network rows and as weighted averages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from sampling.unet import TextRows

_LATENT_PX = 8
_AESTHETIC, _AESTHETIC_NEGATIVE = 6.0, 2.5


@dataclass(frozen=True)
class Encoded:
    """A prompt's encoding: context ``[1, 77·chunks, D]``, and pooled ``[1, P]`` if the family has
    it."""

    context: torch.Tensor
    pooled: torch.Tensor | None = None


@dataclass(frozen=True)
class Conditioning:
    """An encoding and its weight ``[1, 1, h, w]`` on the latent; None is 1 everywhere."""

    encoded: Encoded
    weight: torch.Tensor | None = None

    def to(self, device: torch.device) -> Conditioning:
        """A copy on a device."""
        context, pooled = self.encoded.context, self.encoded.pooled
        encoded = Encoded(context.to(device), None if pooled is None else pooled.to(device))
        return Conditioning(encoded, None if self.weight is None else self.weight.to(device))


@dataclass(frozen=True)
class Guidance:
    """The conditionings of both sides; the negatives may be empty."""

    positives: tuple[Conditioning, ...]
    negatives: tuple[Conditioning, ...]

    def to(self, device: torch.device) -> Guidance:
        """A copy on a device."""
        positives, negatives = (
            tuple(one.to(device) for one in side) for side in (self.positives, self.negatives)
        )
        return Guidance(positives, negatives)

    @property
    def tokens(self) -> int:
        """Length of each row's context."""
        return common_length(self._contexts)

    @property
    def _contexts(self) -> list[torch.Tensor]:
        return [one.encoded.context for one in (*self.positives, *self.negatives)]

    def rows(self, family: str, height: int, width: int) -> TextRows:
        """The networks' text inputs for a latent of ``height`` × ``width``: positives first."""
        both = (*self.positives, *self.negatives)
        context = to_common_length(self._contexts)
        pooled = [one.encoded.pooled for one in both if one.encoded.pooled is not None]
        if not pooled:
            return TextRows(context)
        sizes = [_size_ids(family, height, width, negative=False)] * len(self.positives)
        sizes += [_size_ids(family, height, width, negative=True)] * len(self.negatives)
        added: Mapping[str, torch.Tensor] = {
            "text_embeds": torch.cat(pooled),
            "time_ids": context.new_tensor(sizes),
        }
        return TextRows(context, added)

    def split(self, predictions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The averaged prediction of each side ``[1, c, h, w]``; without negatives, the positive
        prediction twice."""
        count = len(self.positives)
        positive = _average(predictions[:count], self.positives)
        if not self.negatives:
            return positive, positive
        return positive, _average(predictions[count:], self.negatives)


def common_length(contexts: Sequence[torch.Tensor]) -> int:
    """The least length that conditionings ``[1, Lᵢ, D]`` can all be repeated to."""
    return math.lcm(*(context.shape[1] for context in contexts))


def to_common_length(contexts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Conditionings ``[1, Lᵢ, D]`` as rows ``[n, lcm(Lᵢ), D]``: each is repeated, which does not
    change the result of attention."""
    length = common_length(contexts)
    return torch.cat([context.repeat(1, length // context.shape[1], 1) for context in contexts])


def _average(predictions: torch.Tensor, side: Sequence[Conditioning]) -> torch.Tensor:
    if len(side) == 1:
        return predictions
    ones = torch.ones_like(predictions[:1, :1])
    weights = torch.cat([ones if one.weight is None else one.weight for one in side])
    total = weights.sum(dim=0, keepdim=True)
    return (predictions * weights).sum(dim=0, keepdim=True) / total.clamp(min=1e-37)


def _size_ids(family: str, height: int, width: int, *, negative: bool) -> list[float]:
    """SDXL's size conditioning (arXiv 2307.01952): original and target size in pixels, no crop;
    the refiner has an aesthetic score in place of the target size."""
    size = [float(height * _LATENT_PX), float(width * _LATENT_PX)]
    if family == "sdxl_refiner":
        return [*size, 0.0, 0.0, _AESTHETIC_NEGATIVE if negative else _AESTHETIC]
    return [*size, 0.0, 0.0, *size]
