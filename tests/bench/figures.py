"""What a measure hands back: figures with their targets, printed as JSON lines and as a table."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One number. `target` is what must be reached: at least, or with `at_most` at most, that much."""

    what: str
    value: float
    unit: str = ""
    target: float | None = None
    at_most: bool = False
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """None where there is no target."""
        if self.target is None:
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target

    @property
    def wanted(self) -> str:
        """The target in words, "" when there is none."""
        return "" if self.target is None else f"{'≤' if self.at_most else '≥'} {self.target:g}"


def as_json(name: str, figures: Iterable[Figure]) -> str:
    """One line a program can read."""
    lines = [
        {
            "what": f.what,
            "value": round(f.value, 3),
            "unit": f.unit,
            "target": f.wanted,
            "reached": f.reached,
            "note": f.note,
        }
        for f in figures
    ]
    return json.dumps({"measure": name, "figures": lines}, ensure_ascii=False)


def as_table(figures: Iterable[Figure]) -> str:
    """The same for people."""
    verdict = {True: "reached", False: "MISSED", None: ""}
    rows = [(f.what, f"{f.value:,.2f} {f.unit}", f.wanted, verdict[f.reached], f.note) for f in figures]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join("  " + line.rstrip() for line in lines)
