"""What a request will take: front ends order and bound requests by it."""

from __future__ import annotations

from dataclasses import dataclass

from preprocessing.prepare import Checked
from sampling.priority import PRIORITY_WEIGHTS

LARGE_BYTES = 16 << 20
"""A picture with more bytes of pixels is large."""
_NETWORK_STEPS = 4.0
"""What encoding and decoding a SEG take, in steps of the UNet."""


@dataclass(frozen=True)
class RequestCost:
    """What a request will take.

    Args:
        work: megapixel-steps, and a share for encoding and decoding SEGs and the picture.
        picture_bytes: of the decoded picture, uint8 RGB.
        weight: of its priority.
    """

    work: float
    picture_bytes: int = 0
    weight: float = 1.0

    @classmethod
    def of(cls, checked: Checked) -> RequestCost:
        """The cost of a request that was checked."""
        survey, pixels = checked.survey, checked.picture_bytes / 3
        work = survey.work + (_NETWORK_STEPS * survey.sampled_pixels + pixels) / 1e6
        return cls(work, checked.picture_bytes, PRIORITY_WEIGHTS[checked.request.priority])

    @property
    def is_large(self) -> bool:
        """Whether the picture is large."""
        return self.picture_bytes > LARGE_BYTES
