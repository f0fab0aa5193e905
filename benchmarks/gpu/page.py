"""The page with the tables of all parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.gpu.cases import Row
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.results import NOT_RUN, PartRows
from benchmarks.tables import markdown

_NAMED = 3
"""Rows that a reason names."""
_SERVED = ("sd15", "tiny")
"""Networks of the pipelines that are run whole."""


def page(found: Mapping[str, PartRows]) -> str:
    """The tables, with shares of what the device, its UNet alone and the engine reach.

    Args:
        found: the rows of each part that there are any of.
    """
    blocks = ["# On a GPU"]
    for about in dict.fromkeys(rows.about for rows in found.values()):
        blocks.append(f"{about.gpu}; driver {about.driver}; {about.machine}; {about.precision}.")
        blocks.append(f"`{about.command}`")
    shares = _Shares(found)
    for part, rows in found.items():
        blocks += [f"## {part}", f"{PARTS[part].about} {rows.seconds:.0f} s."]
        if measured := rows.measured:
            blocks.append(_table(measured, [shares.of(part, row) for row in measured]))
        blocks += _reasons(rows.rows)
    return "\n\n".join(blocks) + "\n"


class _Shares:
    """What rows are set against, as far as it is measured."""

    def __init__(self, found: Mapping[str, PartRows]) -> None:
        self._precisions = {part: rows.about.precision for part, rows in found.items()}
        rows = {part: each.measured for part, each in found.items()}
        self._rates = {row["precision"]: row["TFLOP/s"] for row in rows.get("rate", ())}
        self._speeds = {
            (part, row.get("mode"), row["callers"]): row["SEGs/s"]
            for part in ("server", "engine")
            for row in rows.get(part, ())
        }
        self._unet = max(
            (
                row["TFLOP/s"]
                for row in rows.get("unet", ())
                if row["networks"] in _SERVED
                and row["ControlNet"] == "without"
                and "TFLOP/s" in row
            ),
            default=None,
        )

    def of(self, part: str, row: Row) -> Row:
        """The columns with the shares of a row."""
        shares: Row = {}
        rate = self._rates.get(row.get("precision", self._precisions[part]))
        if part != "rate" and rate and "TFLOP/s" in row:
            shares["share of the rate"] = f"{row['TFLOP/s'] / rate:.0%}"
        if part not in ("server", "engine"):
            return shares
        if self._unet:
            shares["of the UNet alone"] = f"{row['TFLOP/s'] / self._unet:.0%}"
        if one := self._speeds.get((part, row.get("mode"), 1)):
            shares["× one caller"] = round(row["SEGs/s"] / one, 2)
        if part == "server" and (speed := self._speeds.get(("engine", "graphs", row["callers"]))):
            shares["of the engine"] = f"{row['SEGs/s'] / speed:.0%}"
        return shares


def _table(rows: Sequence[Row], shares: Sequence[Row]) -> str:
    """Rows with their shares in the last columns."""
    head = list(dict.fromkeys(name for row in (*rows, *shares) for name in row))
    complete = ({**row, **more} for row, more in zip(rows, shares, strict=True))
    return markdown(head, [[row.get(name, "") for name in head] for row in complete])


def _reasons(rows: Sequence[Row]) -> list[str]:
    """What was not run, in a paragraph for each reason."""
    missing: dict[str, list[str]] = {}
    for row in rows:
        if NOT_RUN in row:
            named = ", ".join(f"{key} {value}" for key, value in row.items() if key != NOT_RUN)
            missing.setdefault(row[NOT_RUN], []).append(named)
    paragraphs = []
    for reason, names in missing.items():
        shown = "; ".join(names[:_NAMED])
        more = f"; and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        paragraphs.append(f"Not run{f' ({shown}{more})' if shown else ''}: {reason}.")
    return paragraphs
