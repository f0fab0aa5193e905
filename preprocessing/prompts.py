"""Which prompts each SEG gets: its own, those dealt out, wildcards resolved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pipelines import PipelineDescriptor
from pipelines.descriptor import EMBEDDING
from request_plan.limits import DEFAULT, Limits
from request_plan.prompt_weights import parse_weights
from segs_client.boxes import area
from segs_client.contract import Box, DetailRequest, SegItem, invalid
from segs_client.wildcards import resolve

_ORDERS: dict[str, Callable[[Box], float]] = {
    "left_to_right": lambda box: box[0],
    "right_to_left": lambda box: -box[0],
    "top_to_bottom": lambda box: box[1],
    "bottom_to_top": lambda box: -box[1],
    "large_to_small": lambda box: -area(box),
    "small_to_large": lambda box: area(box),
}


@dataclass(frozen=True)
class _Said:
    """A prompt before its wildcards are resolved; ``field`` is what errors call it."""

    text: str
    field: str
    seed: int


class PromptBook:
    """Answers for one request which text a SEG is detailed with.

    Raises (every method):
        ContractError: a prompt is too long, alone or together with the others, or its wildcards
            are wrong.
    """

    def __init__(self, request: DetailRequest, limits: Limits = DEFAULT) -> None:
        self._request = request
        self._limits = limits
        self._dealt = _deal(request)
        self._resolved: dict[tuple[str, int], str] = {}

    def positive(self, index: int, item: SegItem) -> str:
        """What is to be drawn in a SEG."""
        return self._resolve(self._positive(index, item))

    def negative(self, index: int, item: SegItem) -> str:
        """What is to be avoided in a SEG."""
        return self._resolve(self._negative(index, item))

    def more(self, side: str, index: int) -> str:
        """One of the request's further ``prompts`` or ``negatives``."""
        return self._resolve(self._more(side, index))

    def refiner(self, name: str, item: SegItem) -> str | None:
        """What the refiner is told instead of ``prompt`` or ``negative``; None if the same."""
        said = self._refiner(name, item)
        return None if said is None else self._resolve(said)

    def check(self, base: PipelineDescriptor, refiner: PipelineDescriptor | None) -> None:
        """Looks at every prompt that will be asked for: its length, before any wildcard is
        resolved, and its embeddings, which have to be known."""
        told, refined = self._all()
        self._check_lengths([*told, *refined])
        texts = {self._resolve(said) for said in told}
        _check_embeddings(texts, base)
        if refiner is not None:
            _check_embeddings({self._resolve(said) for said in refined}, refiner)

    def _all(self) -> tuple[list[_Said], list[_Said]]:
        """What the base and what the refiner is told."""
        request = self._request
        told, refined = [], []
        for side, name in (("prompts", "prompt"), ("negatives", "negative")):
            more = [self._more(side, index) for index in range(len(getattr(request, side)))]
            told += more
            if getattr(request.refiner, name, None) is None:
                refined += more
        for index, item in enumerate(request.segs.items):
            if not item.skip:
                told += [self._positive(index, item), self._negative(index, item)]
                refined += [
                    self._refiner("prompt", item) or told[-2],
                    self._refiner("negative", item) or told[-1],
                ]
        return told, refined

    def _check_lengths(self, everything: Iterable[_Said]) -> None:
        total, most = 0, self._limits.max_request_prompt_chars
        for said in {(said.text, said.seed): said for said in everything}.values():
            _check_chars(said.field, "too long", len(said.text), self._limits.max_prompt_chars)
            total += len(said.text)
            _check_chars(said.field, "the prompts are too long together", total, most)

    def _resolve(self, said: _Said) -> str:
        key = said.text, said.seed
        if key not in self._resolved:
            most = self._limits.max_prompt_chars
            resolved = resolve(*key, self._request.wildcards, most)
            _check_chars(said.field, "too long with its wildcards", len(resolved), most)
            self._resolved[key] = resolved
        return self._resolved[key]

    def _said(self, text: str, field: str, item: SegItem | None = None) -> _Said:
        own = None if item is None else item.seed
        return _Said(text, field, self._request.seed if own is None else own)

    def _positive(self, index: int, item: SegItem) -> _Said:
        text, field = self._request.prompt, "prompt"
        if item.prompt is not None:
            text = _joined(text, item.prompt) if item.prompt_mode == "add" else item.prompt
            field = f"segs.items.{index}.prompt"
        elif self._request.seg_prompts is not None and index in self._dealt:
            dealt = self._dealt[index]
            text = _joined(text, dealt) if self._request.seg_prompts.mode == "add" else dealt
            field = "seg_prompts.text"
        return self._said(text, field, item)

    def _negative(self, index: int, item: SegItem) -> _Said:
        if item.negative is None:
            return self._said(self._request.negative, "negative", item)
        return self._said(item.negative, f"segs.items.{index}.negative", item)

    def _more(self, side: str, index: int) -> _Said:
        return self._said(getattr(self._request, side)[index].text, f"{side}.{index}.text")

    def _refiner(self, name: str, item: SegItem) -> _Said | None:
        text = None if self._request.refiner is None else getattr(self._request.refiner, name)
        return None if text is None else self._said(text, f"refiner.{name}", item)


def _check_chars(field: str, message: str, count: int, most: int) -> None:
    if count > most:
        raise invalid(field, message, value=count, allowed=f"up to {most} characters")


def _check_embeddings(texts: Iterable[str], pipeline: PipelineDescriptor) -> None:
    known = {name for encoder in pipeline.text_encoders for name in encoder.embeddings}
    for text in texts:
        said = (name for run in parse_weights(text) for name in EMBEDDING.findall(run.text))
        for name in said:
            if name not in known:
                allowed = ", ".join(sorted(known)) or f"none: {pipeline.name} was built without"
                raise invalid("prompt", "unknown embedding", value=name, allowed=allowed)


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
