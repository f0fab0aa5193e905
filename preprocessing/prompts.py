"""The prompts of each SEG: its own, those of seg_prompts, with wildcards resolved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pipelines import PipelineDescriptor
from pipelines.descriptor import EMBEDDING
from request_plan.limits import DEFAULT, Limits
from request_plan.prompt_weights import parse_weights
from segs_client.boxes import area
from segs_client.contract import DetailRequest, FloatBox, SegItem, invalid
from segs_client.wildcards import resolve

_ORDERS: dict[str, Callable[[FloatBox], float]] = {
    "left_to_right": lambda box: box[0],
    "right_to_left": lambda box: -box[0],
    "top_to_bottom": lambda box: box[1],
    "bottom_to_top": lambda box: -box[1],
    "large_to_small": lambda box: -area(box),
    "small_to_large": lambda box: area(box),
}


@dataclass(frozen=True)
class _Prompt:
    """A prompt before its wildcards are resolved; ``field`` is its name in errors."""

    text: str
    field: str
    seed: int


class PromptBook:
    """The prompts of one request's SEGs.

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
        """A SEG's main positive prompt."""
        return self._resolve(self._positive(index, item))

    def negative(self, index: int, item: SegItem) -> str:
        """A SEG's main negative prompt."""
        return self._resolve(self._negative(index, item))

    def more(self, side: str, index: int) -> str:
        """One of the request's further ``prompts`` or ``negatives``."""
        return self._resolve(self._more(side, index))

    def refiner(self, name: str, item: SegItem) -> str | None:
        """The refiner's own ``prompt`` or ``negative``; None: it uses the base's."""
        prompt = self._refiner(name, item)
        return None if prompt is None else self._resolve(prompt)

    def check(self, base: PipelineDescriptor, refiner: PipelineDescriptor | None) -> None:
        """Checks the lengths of all prompts before any wildcard is resolved, then that their
        embeddings exist."""
        prompts, refined = self._all()
        self._check_lengths([*prompts, *refined])
        _check_embeddings({self._resolve(prompt) for prompt in prompts}, base)
        if refiner is not None:
            _check_embeddings({self._resolve(prompt) for prompt in refined}, refiner)

    def _all(self) -> tuple[list[_Prompt], list[_Prompt]]:
        """The prompts of the base and those of the refiner."""
        request = self._request
        prompts, refined = [], []
        for side, name in (("prompts", "prompt"), ("negatives", "negative")):
            more = [self._more(side, index) for index in range(len(getattr(request, side)))]
            prompts += more
            if getattr(request.refiner, name, None) is None:
                refined += more
        for index, item in enumerate(request.segs.items):
            if not item.skip:
                prompts += [self._positive(index, item), self._negative(index, item)]
                refined += [
                    self._refiner("prompt", item) or prompts[-2],
                    self._refiner("negative", item) or prompts[-1],
                ]
        return prompts, refined

    def _check_lengths(self, prompts: Iterable[_Prompt]) -> None:
        total, most = 0, self._limits.max_request_prompt_chars
        for each in {(each.text, each.seed): each for each in prompts}.values():
            _check_chars(each.field, "too long", len(each.text), self._limits.max_prompt_chars)
            total += len(each.text)
            _check_chars(each.field, "the prompts are too long together", total, most)

    def _resolve(self, prompt: _Prompt) -> str:
        key = prompt.text, prompt.seed
        if key not in self._resolved:
            most = self._limits.max_prompt_chars
            resolved = resolve(*key, self._request.wildcards, most)
            _check_chars(prompt.field, "too long with its wildcards", len(resolved), most)
            self._resolved[key] = resolved
        return self._resolved[key]

    def _prompt(self, text: str, field: str, item: SegItem | None = None) -> _Prompt:
        own = None if item is None else item.seed
        return _Prompt(text, field, self._request.seed if own is None else own)

    def _positive(self, index: int, item: SegItem) -> _Prompt:
        text, field = self._request.prompt, "prompt"
        if item.prompt is not None:
            text = _joined(text, item.prompt) if item.prompt_mode == "add" else item.prompt
            field = f"segs.items.{index}.prompt"
        elif self._request.seg_prompts is not None and index in self._dealt:
            dealt = self._dealt[index]
            text = _joined(text, dealt) if self._request.seg_prompts.mode == "add" else dealt
            field = "seg_prompts.text"
        return self._prompt(text, field, item)

    def _negative(self, index: int, item: SegItem) -> _Prompt:
        if item.negative is None:
            return self._prompt(self._request.negative, "negative", item)
        return self._prompt(item.negative, f"segs.items.{index}.negative", item)

    def _more(self, side: str, index: int) -> _Prompt:
        return self._prompt(getattr(self._request, side)[index].text, f"{side}.{index}.text")

    def _refiner(self, name: str, item: SegItem) -> _Prompt | None:
        text = None if self._request.refiner is None else getattr(self._request.refiner, name)
        return None if text is None else self._prompt(text, f"refiner.{name}", item)


def _check_chars(field: str, message: str, count: int, most: int) -> None:
    if count > most:
        raise invalid(field, message, value=count, allowed=f"up to {most} characters")


def _check_embeddings(texts: Iterable[str], pipeline: PipelineDescriptor) -> None:
    known = {name for encoder in pipeline.text_encoders for name in encoder.embeddings}
    for text in texts:
        names = (name for run in parse_weights(text) for name in EMBEDDING.findall(run.text))
        for name in names:
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
