"""A cache of encoded prompts by their text: most requests use the same few prompts."""

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
    """Encodes each prompt of a pipeline once for all requests.

    ``hits`` (kept or being encoded) and ``misses`` count since the start; ``kept_bytes`` is the
    size of the kept encodings.

    Args:
        max_bytes: of kept encodings; the least recently used are removed first.
    """

    engine: StepEngine
    max_bytes: int
    hits: int = 0
    misses: int = 0
    kept_bytes: int = 0
    _kept: OrderedDict[_Key, Encoded] = field(default_factory=OrderedDict)
    _under_way: dict[_Key, asyncio.Task[Encoded]] = field(default_factory=dict)

    def contains(self, pipeline: Pipeline, prompt: str) -> bool:
        """Whether a prompt's encoding is kept or in progress."""
        key = pipeline.descriptor.name, prompt
        return key in self._kept or key in self._under_way

    def encode(
        self,
        pipeline: Pipeline,
        prompt: str,
        batch_listener: BatchListener | None = None,
        requester: Requester | None = None,
    ) -> asyncio.Future[Encoded]:
        """The future of a prompt's encoding. Cancelling it does not cancel the encoding, which
        other requests may wait for.

        The encoding runs with the listener and the requester of its first request. The requester
        must have no deadline, since it would apply to all requests that share the encoding.
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
        waiting.add_done_callback(_retrieve_exception)
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
            NotFiniteError: the encoding is not finite, for example by a large token weight.
        """
        program = encode_prompt(pipeline.text_encoders, prompt)
        encoded = await self.engine.run(program, requester, batch_listener)
        # The networks' outputs are finite; the weighted result is checked once before it is shared.
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


def _retrieve_exception(waiting: asyncio.Future[Encoded]) -> None:
    """Prevents asyncio's log message if an encoding fails after its caller was cancelled."""
    if not waiting.cancelled():
        waiting.exception()


def _bytes(encoded: Encoded) -> int:
    tensors = (encoded.context, encoded.pooled)
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
