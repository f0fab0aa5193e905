"""Looking after the processes of one running server."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from serving.errors import ModelsDownError, ServingError
from serving.heart import (
    EngineState,
    find_hanging,
    instances,
    model_of,
    read_doors,
    read_state,
)
from serving.process import Deaths, cpu_s, is_stopped, model_processes
from serving.silence import Silence

SILENT_S = 7.0
"""How long a model may give no sign of life, one a second, and a batch take however small."""
_LOOP_TIMES = 10
"""So many times longer a network may take that computes: it may be starved of a processor, or in a
loop without end."""
_LEAST_CPU_S = 0.03
"""Of computing between two looks; a sign of life takes less."""
_MOST_LOST = 64
_STOP_LOOK_S = 0.1


class Watch:
    """Knows which processes there have to be; to be closed.

    Args:
        pid: of tritonserver.
        root: of a process above it and its models' processes.
        state: the folder of signs of life.
        ensembles: the models that each ensemble of networks is made of.
    """

    def __init__(
        self, pid: int, root: int, state: Path, ensembles: Mapping[str, Collection[str]]
    ) -> None:
        self._pid = pid
        self._root = root
        self._state = state
        self._silence = Silence(state, SILENT_S)
        self._ensembles = ensembles
        self._since_s = 0.0
        self._cpu_s: dict[int, float] = {}
        self._instances: frozenset[str] = frozenset()
        self._deaths = Deaths(())
        self.note()

    def note(self) -> None:
        """Notes that all models were just loaded: their instances are those that are there, and
        those that have been and were gone before anybody looked."""
        processes = model_processes(self._root)
        self._instances = frozenset(processes) | instances(self._state)
        self._since_s = time.monotonic()
        self._deaths.close()
        self._deaths = Deaths([self._pid, *processes.values()])

    def close(self) -> None:
        """Looks after nobody any more."""
        self._deaths.close()

    def wait(self, limit_s: float, stop_asked: threading.Event) -> None:
        """Waits until one of the processes ends, at most so long."""
        until_s = time.monotonic() + limit_s
        while not stop_asked.is_set() and (left_s := until_s - time.monotonic()) > 0:
            if self._deaths.wait(min(left_s, _STOP_LOOK_S)):
                return

    def check(self) -> None:
        """Looks whether every process is still there and alive.

        Raises:
            ModelsDownError: models whose process has died or hangs; to be loaded again.
            ServingError: a network hangs inside of tritonserver itself, or that was stopped.
        """
        if is_stopped(self._pid):
            raise ServingError("tritonserver's process is stopped")
        processes = model_processes(self._root)
        dead = self._instances - processes.keys()
        if dead:
            why = "the processes of these models have died"
            raise ModelsDownError(why, {model_of(instance) for instance in dead})
        stopped = {instance: pid for instance, pid in processes.items() if is_stopped(pid)}
        _raise_hanging("the processes of these models are stopped", stopped)
        silent = self._silence.look()
        _raise_hanging(f"no sign of life for {SILENT_S:g} s from", silent)
        self._check_networks(processes)

    def is_worn(self) -> bool:
        """Whether so many calls were lost with their processes, which Triton never ends, that a
        fresh server is better."""
        return sum(door.lost for door in read_doors(self._state)) > _MOST_LOST

    def _check_networks(self, processes: Mapping[str, int]) -> None:
        state = read_state(self._state)
        if state is None:
            return
        late = find_hanging(state, time.monotonic(), SILENT_S, self._since_s)
        models = {model for each in late for model in self._ensembles.get(each, (each,))}
        pids = {pid for instance, pid in processes.items() if model_of(instance) in models}
        if not late or (self._at_work(pids) and not self._far_too_late(state)):
            return
        why = "batches of these networks do not end"
        if models <= {model_of(instance) for instance in processes}:
            raise ModelsDownError(why, models, pids)
        raise ServingError(f"{why}: {', '.join(sorted(late))}")

    def _at_work(self, pids: Iterable[int]) -> bool:
        """Whether one of these processes has computed since it was asked for last: so does one that
        gets little of a busy machine. Who is asked for the first time is given the time until the
        next look."""
        before, self._cpu_s = self._cpu_s, {pid: cpu_s(pid) for pid in pids}
        return any(
            pid not in before or now_s - before[pid] > _LEAST_CPU_S
            for pid, now_s in self._cpu_s.items()
        )

    def _far_too_late(self, state: EngineState) -> bool:
        least_s = _LOOP_TIMES * SILENT_S
        return bool(find_hanging(state, time.monotonic(), least_s, self._since_s))


def _raise_hanging(why: str, processes: Mapping[str, int]) -> None:
    """Raises if there is one of these processes, by instance."""
    if processes:
        models = {model_of(instance) for instance in processes}
        raise ModelsDownError(why, models, processes.values())
