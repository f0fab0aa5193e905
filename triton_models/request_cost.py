"""A request's cost, by which front ends order and bound requests."""

from __future__ import annotations

from dataclasses import dataclass

from preprocessing.prepare import Checked
from request_plan.priority import PRIORITY_WEIGHTS

PICTURE_BYTES_PER_S = 50e6
"""Bytes of pixels decoded or encoded per second."""
LARGE_BYTES = 16 << 20
"""Pictures with more bytes of pixels are large."""
_NETWORK_STEPS = 4.0
"""Cost of encoding and decoding a SEG, in steps of the UNet."""


@dataclass(frozen=True)
class RequestCost:
    """A request's cost.

    Args:
        work: of the networks in megapixel-steps, with encoding and decoding of SEGs.
        picture_bytes: of all its pictures, decoded to uint8.
        weight: of its priority.
    """

    work: float
    picture_bytes: int = 0
    weight: float = 1.0

    @classmethod
    def of(cls, checked: Checked) -> RequestCost:
        """The cost of a checked request."""
        survey = checked.survey
        work = survey.work + _NETWORK_STEPS * survey.sampled_pixels / 1e6
        return cls(work, checked.picture_bytes, PRIORITY_WEIGHTS[checked.request.priority])

    @property
    def picture_s(self) -> float:
        """Approximate seconds of decoding and encoding the pictures."""
        return self.picture_bytes / PICTURE_BYTES_PER_S

    @property
    def is_large(self) -> bool:
        """Whether its pictures together are large."""
        return self.picture_bytes > LARGE_BYTES
