"""Which prompts each SEG gets: its own, those dealt out, wildcards resolved."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from segs_client.contract import Box, DetailRequest, SegItem
from segs_client.wildcards import resolve

_ORDERS: dict[str, Callable[[Box], float]] = {
    "left_to_right": lambda box: box[0],
    "right_to_left": lambda box: -box[0],
    "top_to_bottom": lambda box: box[1],
    "bottom_to_top": lambda box: -box[1],
    "large_to_small": lambda box: -_area(box),
    "small_to_large": lambda box: _area(box),
}


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


class PromptBook:
    """Answers for one request which text a SEG is detailed with."""

    def __init__(self, request: DetailRequest) -> None:
        self._request = request
        self._dealt = _deal(request)

    def resolved(self, text: str, seed: int | None = None) -> str:
        """The text with its wildcards resolved, from the request's seed unless told another."""
        chosen = self._request.seed if seed is None else seed
        return resolve(text, chosen, self._request.wildcards)

    def positive(self, index: int, item: SegItem) -> str:
        """What is to be drawn in a SEG."""
        text = self._request.prompt
        if item.prompt is not None:
            text = _joined(text, item.prompt) if item.prompt_mode == "add" else item.prompt
        elif self._request.seg_prompts is not None and index in self._dealt:
            dealt = self._dealt[index]
            text = _joined(text, dealt) if self._request.seg_prompts.mode == "add" else dealt
        return self.resolved(text, item.seed)

    def negative(self, item: SegItem) -> str:
        """What is to be avoided in a SEG."""
        own = item.negative
        return self.resolved(self._request.negative if own is None else own, item.seed)


def _deal(request: DetailRequest) -> dict[int, str]:
    if request.seg_prompts is None:
        return {}
    items: Sequence[SegItem] = request.segs.items
    order = list(range(len(items)))
    key = _ORDERS.get(request.seg_prompts.order)
    if key is not None:
        order.sort(key=lambda index: key(items[index].bbox))
    return dict(zip(order, request.seg_prompts.texts, strict=False))


def _joined(*texts: str) -> str:
    return ", ".join(text for text in texts if text.strip())
