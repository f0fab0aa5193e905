"""perf_analyzer's CSV files, and what a reader wants of them."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from benchmarks.perf.errors import PerfError

CSV_NAME = "latency.csv"
PERCENTILES = (50, 90, 95, 99)
_MODEL_FILE = re.compile(rf"(.+)_v\d+\.{re.escape(CSV_NAME)}")
_COMPUTE = ("Server Compute Input", "Server Compute Infer", "Server Compute Output")


@dataclass(frozen=True)
class ModelCalls:
    """What one model behind the request did, by the server's own statistics.

    Attributes:
        per_request: calls of it for each request.
        queue_s: mean wait of a call.
        compute_s: mean time of a call.
    """

    per_request: float
    queue_s: float
    compute_s: float


@dataclass(frozen=True)
class Result:
    """A profile's measurement.

    Attributes:
        requests_per_s: answered.
        mean_s: latency as the caller sees it; None where ``--percentile`` asked for one instead.
        percentiles_s: the same, by percentile.
        models: the server's side, by model.
    """

    requests_per_s: float
    mean_s: float | None
    percentiles_s: dict[int, float]
    models: dict[str, ModelCalls]


def read_result(folder: Path) -> Result:
    """The result out of a profile's CSV files: ``latency.csv`` and one per model behind it.

    Raises:
        PerfError: a file is not what perf_analyzer writes with ``--verbose-csv``.
        OSError: there is none.
    """
    row = read_csv(folder / CSV_NAME)
    mean_us = row.get("Avg latency")
    rate = _value(row, "Inferences/Second")
    models = {}
    for path in sorted(folder.glob(f"*.{CSV_NAME}")):
        found = _MODEL_FILE.fullmatch(path.name)
        if found is not None:
            models[found[1]] = _calls(read_csv(path), rate)
    return Result(
        requests_per_s=rate,
        mean_s=None if mean_us is None else mean_us / 1e6,
        percentiles_s={p: _value(row, f"p{p} latency") / 1e6 for p in PERCENTILES},
        models=models,
    )


def read_csv(path: Path) -> dict[str, float]:
    """The only row of one of perf_analyzer's files, column → value; times in microseconds.

    Raises:
        PerfError: it has not one row, or a value that is no number.
        OSError: it cannot be read.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if len(rows) != 1:
        raise PerfError(f"{path}: {len(rows)} rows, 1 expected")
    try:
        return {name: float(value) for name, value in rows[0].items() if name}
    except (TypeError, ValueError) as error:
        raise PerfError(f"{path}: not a table of numbers: {error}") from error


def _calls(row: dict[str, float], requests_per_s: float) -> ModelCalls:
    return ModelCalls(
        per_request=_value(row, "Inferences/Second") / requests_per_s if requests_per_s else 0.0,
        queue_s=_value(row, "Server Queue") / 1e6,
        compute_s=sum(_value(row, column) for column in _COMPUTE) / 1e6,
    )


def _value(row: dict[str, float], column: str) -> float:
    if column not in row:
        raise PerfError(f"the CSV has no column {column!r}; it has {', '.join(row)}")
    return row[column]
