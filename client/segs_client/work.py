"""An estimate of a request's work from its fields, to distribute requests over servers."""

from __future__ import annotations

from segs_client.contract import DetailRequest, SegItem

_OVERHEAD_STEPS = 3.0
"""Cost of encoding and decoding a SEG, in sampling steps."""
_REQUEST_WORK = 0.1
"""Cost of a request without its SEGs, in megapixel steps."""


def estimated_work(request: DetailRequest) -> float:
    """Steps × sampled megapixels over all SEGS and passes; always more than 0.

    An estimate: skipped SEGs and the networks' costs are not known to the client.

    Example:
        >>> one = {"items": [{"bbox": (0, 0, 100, 100)}]}
        >>> request = DetailRequest(pipeline="base", segs=one, steps=17, crop_factor=1)
        >>> estimated_work(request)  # 512² pixels, (17 + 3) steps
        5.34288
    """
    passes = request.batch_size * request.cycle
    segs = sum(_seg_work(seg, request) for seg in request.segs.items)
    return _REQUEST_WORK + passes * segs


def _seg_work(seg: SegItem, request: DetailRequest) -> float:
    if seg.skip:
        return 0.0
    steps = request.steps if seg.steps is None else seg.steps
    return (steps + _OVERHEAD_STEPS) * _sampled_px(seg, request) / 1e6


def _sampled_px(seg: SegItem, request: DetailRequest) -> float:
    """Pixels of the crop region after scaling by guide_size and max_size."""
    x1, y1, x2, y2 = seg.bbox
    box = max(x2 - x1, 1), max(y2 - y1, 1)
    if seg.crop_region is None:
        region = box[0] * request.crop_factor, box[1] * request.crop_factor
    else:
        left, top, right, bottom = seg.crop_region
        region = float(max(right - left, 1)), float(max(bottom - top, 1))
    guided = min(box) if request.guide_size_for else min(region)
    scale = max(request.guide_size / guided, 1.0)
    scale = min(scale, request.max_size / max(region))
    return region[0] * region[1] * scale * scale
