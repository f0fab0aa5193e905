"""A bounded sample of the UNet's real inputs, over all steps of all requests."""

from __future__ import annotations

import hashlib
import heapq
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from build_engines.progress import progress
from build_engines.quantize.runs import Arrays, Runs
from build_engines.quantize.workload import CalibrationRequest

log = logging.getLogger(__name__)

_DONE = "complete.txt"


class RowSample:
    """The ``most`` offered rows with the smallest keys, one ``.npz`` each.

    A row's key is a hash of the seed and its values. So the sample is uniform, has distinct rows,
    and does not depend on their order or batches.
    """

    def __init__(self, folder: Path, most: int, seed: int = 0) -> None:
        self._folder = folder
        self._most = most
        self._seed = str(seed).encode()
        self._kept: list[tuple[int, Path]] = []
        """A heap of negated keys, so that the greatest key is first."""

    def __len__(self) -> int:
        return len(self._kept)

    def offer(self, inputs: Arrays) -> None:
        """Offers all rows of one call ``[rows, …]``; kept rows have the shape ``[1, …]``."""
        rows = next(iter(inputs.values())).shape[0]
        for index in range(rows):
            self._offer({name: array[index : index + 1] for name, array in inputs.items()})

    def _offer(self, row: Arrays) -> None:
        digest = hashlib.sha256(self._seed)
        for name in sorted(row):
            digest.update(np.ascontiguousarray(row[name]).data)
        key = int.from_bytes(digest.digest()[:8], "big")
        path = self._folder / f"{key:016x}.npz"
        full = len(self._kept) == self._most
        if path.exists() or (full and key > -self._kept[0][0]):
            return
        np.savez(path, **row)
        if full:
            heapq.heapreplace(self._kept, (-key, path))[1].unlink()
        else:
            heapq.heappush(self._kept, (-key, path))


def collect(
    runs: Runs, requests: Sequence[CalibrationRequest], folder: Path, rows: int, made_from: str
) -> int:
    """Runs the requests and writes a sample of the UNet's inputs into ``folder``.

    The sample of an earlier call with the same ``made_from`` is used again.

    Returns:
        The number of rows.
    """
    done = folder / _DONE
    if done.exists() and done.read_text() == made_from:
        count = len(list(folder.glob("*.npz")))
        log.info("calibration: the %d inputs in %s are kept", count, folder)
        return count
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sample = RowSample(folder, rows)
    with progress("Sampling for calibration", len(requests), "request") as advance:
        for request in requests:
            runs.redraw(request, watch=lambda inputs, outputs: sample.offer(inputs))
            advance(what=request.name)
    done.write_text(made_from)
    return len(sample)
