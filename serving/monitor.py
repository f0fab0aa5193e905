"""Monitors the processes of one running server."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from serving.errors import ModelsDownError, ServingError
from serving.process import cpu_s, is_stopped, model_processes
from serving.stalls import StallDetector, late_networks
from serving.times import BATCH_S, COMPUTING_S, ENDLESS_BATCH_S, STALL_S
from triton_models.state import instances, is_alive, model_of, read_engine, read_front_ends

_LOOK_S = 0.1


class ProcessMonitor:
    """Checks tritonserver's process and its models' processes.

    Args:
        pid: of tritonserver.
        root: of a parent of tritonserver and of its models' processes.
        state: the folder of heartbeats.
        ensembles: the models of each ensemble of networks.
    """

    def __init__(
        self, pid: int, root: int, state: Path, ensembles: Mapping[str, Collection[str]]
    ) -> None:
        self._pid = pid
        self._root = root
        self._state = state
        self._stalls = StallDetector(state, STALL_S)
        self._ensembles = ensembles
        self._since_s = 0.0
        self._cpu_s: dict[int, float] = {}
        self._instances: frozenset[str] = frozenset()
        self._pids: list[int] = []
        self.note()

    def note(self) -> None:
        """Sets the expected instances after all models were loaded: the living ones, and those that
        have died since."""
        processes = model_processes(self._root)
        self._instances = frozenset(processes) | instances(self._state)
        self._since_s = time.monotonic()
        self._pids = [self._pid, *processes.values()]

    def wait(self, limit_s: float, stop_asked: threading.Event) -> None:
        """Waits up to ``limit_s`` until one of the processes ends."""
        until_s = time.monotonic() + limit_s
        while time.monotonic() < until_s and all(map(is_alive, self._pids)):
            if stop_asked.wait(_LOOK_S):
                return

    def check(self) -> None:
        """Checks that every process runs and does not stall.

        Raises:
            ModelsDownError: models to be loaded again: their process has ended, is stopped or
                stalls.
            ServingError: tritonserver's own process is stopped, a network stalls inside it, or the
                folder of heartbeats is missing.
        """
        if not self._state.is_dir():  # stalls, lost calls and cancellations would go unnoticed
            raise ServingError("the folder of heartbeats is missing")
        if is_stopped(self._pid):
            raise ServingError("tritonserver's process is stopped")
        processes = model_processes(self._root)
        ended = self._instances - processes.keys()
        if ended:
            raise ModelsDownError("processes have ended", dict.fromkeys(ended))
        stopped = {instance: pid for instance, pid in processes.items() if is_stopped(pid)}
        if stopped:
            raise ModelsDownError("processes are stopped by a signal", stopped)
        if stalled := self._stalls.look():
            raise ModelsDownError(f"main loops have not moved for {STALL_S:g} s", stalled)
        self._check_networks(processes)

    def must_restart(self) -> bool:
        """Whether too many calls were lost with their processes: Triton never ends lost calls."""
        return any(each.lost > each.lost_limit for each in read_front_ends(self._state))

    def _check_networks(self, processes: Mapping[str, int]) -> None:
        engine = read_engine(self._state)
        if engine is None:
            return
        late = late_networks(engine, time.monotonic(), BATCH_S, self._since_s)
        models = {model for each in late for model in self._ensembles.get(each, (each,))}
        found = {
            instance: pid for instance, pid in processes.items() if model_of(instance) in models
        }
        if not late:
            return
        far_too_late = late_networks(engine, time.monotonic(), ENDLESS_BATCH_S, self._since_s)
        if self._computes(found.values()) and not far_too_late:
            return
        why = "batches of networks do not end"
        if models <= {model_of(instance) for instance in found}:
            raise ModelsDownError(why, found)
        raise ServingError(f"{why}: {', '.join(sorted(late))}")

    def _computes(self, pids: Iterable[int]) -> bool:
        """Whether one of these processes has used CPU time since the last check: on a busy machine
        a batch may be late without a stall. At its first check a process counts as computing."""
        before, self._cpu_s = self._cpu_s, {pid: cpu_s(pid) for pid in pids}
        return any(
            pid not in before or now_s - before[pid] > COMPUTING_S
            for pid, now_s in self._cpu_s.items()
        )
