"""Encoded prompts, kept by what they say: the same few come with every request."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

from sampling.conditioning import Encoded
from sampling.engine import StepEngine
from sampling.pipeline import Pipeline
from sampling.policy import Requester
from sampling.progress import BatchListener
from sampling.rows import Finite
from sampling.text import encode_prompt

_Key = tuple[str, str]


@dataclass
class TextCache:
    """Encodes each prompt of a pipeline once, for all requests that have it.

    Args:
        max_bytes: of kept encodings; those that were not asked for longest go first.

    Counters since the start: ``hits`` (kept or under way), ``misses``. ``kept_bytes`` are held.
    """

    engine: StepEngine
    max_bytes: int
    hits: int = 0
    misses: int = 0
    kept_bytes: int = 0
    _kept: OrderedDict[_Key, Encoded] = field(default_factory=OrderedDict)
    _under_way: dict[_Key, asyncio.Task[Encoded]] = field(default_factory=dict)

    def knows(self, pipeline: Pipeline, prompt: str) -> bool:
        """Whether it is kept or under way."""
        key = pipeline.descriptor.name, prompt
        return key in self._kept or key in self._under_way

    def encode(
        self,
        pipeline: Pipeline,
        prompt: str,
        batch_listener: BatchListener | None = None,
        requester: Requester | None = None,
    ) -> asyncio.Future[Encoded]:
        """The prompt's encoding, perhaps under way already; cancelling it cancels nothing for
        other requests that wait for the same.

        All requests share it. The first one's listener is called for its batches, which are turns
        of that one's ``requester``; it has no deadline, or the others would share that too.
        """
        key = pipeline.descriptor.name, prompt
        kept = self._kept.get(key)
        if kept is not None:
            self.hits += 1
            self._kept.move_to_end(key)
            ready: asyncio.Future[Encoded] = asyncio.get_running_loop().create_future()
            ready.set_result(kept)
            return ready
        task = self._under_way.get(key)
        if task is None:
            self.misses += 1
            task = asyncio.create_task(self._encode(pipeline, prompt, batch_listener, requester))
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._keep(key, done))
        else:
            self.hits += 1
        waiting = asyncio.shield(task)
        waiting.add_done_callback(_seen)
        return waiting

    async def _encode(
        self,
        pipeline: Pipeline,
        prompt: str,
        batch_listener: BatchListener | None,
        requester: Requester | None,
    ) -> Encoded:
        """
        Raises:
            NotFiniteError: the encoding is not finite: a token's weight may be too large.
        """
        program = encode_prompt(pipeline.text_encoders, prompt)
        encoded = await self.engine.run(program, requester, batch_listener)
        # The networks' own answers are finite; this one is read once, before it is shared.
        tensors = {"context": encoded.context, "pooled": encoded.pooled}
        known = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        Finite("an encoded prompt", known).check(0, 1)
        return encoded

    def _keep(self, key: _Key, task: asyncio.Task[Encoded]) -> None:
        del self._under_way[key]
        if task.cancelled() or task.exception() is not None:
            return
        self._kept[key] = task.result()
        self.kept_bytes += _bytes(task.result())
        while self.kept_bytes > self.max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.kept_bytes -= _bytes(oldest)


def _seen(waiting: asyncio.Future[Encoded]) -> None:
    """Whoever waited may be gone when an encoding fails: that is no news for the log."""
    if not waiting.cancelled():
        waiting.exception()


def _bytes(encoded: Encoded) -> int:
    tensors = (encoded.context, encoded.pooled)
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
