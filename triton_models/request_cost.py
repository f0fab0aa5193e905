"""What a request will take: front ends order and bound requests by it."""

from __future__ import annotations

from dataclasses import dataclass

from preprocessing.prepare import Checked
from request_plan.priority import PRIORITY_WEIGHTS

PICTURE_BYTES_PER_S = 50e6
"""Of pixels, decoded or encoded."""
LARGE_BYTES = 16 << 20
"""Pictures with more bytes of pixels are large."""
_NETWORK_STEPS = 4.0
"""What encoding and decoding a SEG take, in steps of the UNet."""


@dataclass(frozen=True)
class RequestCost:
    """What a request will take.

    Args:
        work: of the networks: megapixel-steps, and a share for encoding and decoding SEGs.
        picture_bytes: of all its pictures, decoded to uint8.
        weight: of its priority.
    """

    work: float
    picture_bytes: int = 0
    weight: float = 1.0

    @classmethod
    def of(cls, checked: Checked) -> RequestCost:
        """The cost of a request that was checked."""
        survey = checked.survey
        work = survey.work + _NETWORK_STEPS * survey.sampled_pixels / 1e6
        return cls(work, checked.picture_bytes, PRIORITY_WEIGHTS[checked.request.priority])

    @property
    def picture_s(self) -> float:
        """Seconds that decoding and encoding the pictures take, roughly."""
        return self.picture_bytes / PICTURE_BYTES_PER_S

    @property
    def is_large(self) -> bool:
        """Whether its pictures are large together."""
        return self.picture_bytes > LARGE_BYTES
