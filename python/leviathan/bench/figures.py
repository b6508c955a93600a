"""Figures of a benchmark: samples of several rounds, the floor under each, and how they are shown."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

__all__ = ["Figure", "Spread", "figure_table", "load", "machine_facts", "percentile"]


def percentile(samples: Sequence[float], percent: float) -> float:
    """The sample below which ``percent`` of all lie. Raises ``ValueError`` if there is none."""
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)]


@dataclass(frozen=True, slots=True)
class Spread:
    """One number over all rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """From the value of each round."""
        return cls(statistics.median(values), min(values), max(values))

    def as_json(self) -> dict[str, float]:
        """As a table."""
        return {"median": round(self.median, 3), "min": round(self.low, 3), "max": round(self.high, 3)}


@dataclass(slots=True)
class Figure:
    """Something measured in every round, next to what the machine could do at best."""

    name: str
    title: str
    unit: str = "us"
    floor_of: str = ""
    """What the floor is the sum of."""
    aim: float | None = None
    """The ratio that we want: at most this for times, at least this for rates."""
    values: list[float] = field(default_factory=list)
    """p50 of each round, or its rate."""
    tails: list[float] = field(default_factory=list)
    """p99 of each round; none for rates."""
    floors: list[float] = field(default_factory=list)
    notes: dict[str, list[float]] = field(default_factory=dict)
    """Further numbers of each round."""

    def add_times(self, ns: Sequence[int], floor: float | None = None) -> None:
        """Samples of one round in nanoseconds, and the floor of the same round in ``unit``."""
        self.values.append(percentile(ns, 50) / 1000)
        self.tails.append(percentile(ns, 99) / 1000)
        if floor is not None:
            self.floors.append(floor)

    def add_rate(self, value: float, floor: float | None = None) -> None:
        """The rate of one round and that of the floor."""
        self.values.append(value)
        if floor is not None:
            self.floors.append(floor)

    def note(self, name: str, value: float) -> None:
        """One more number of this round."""
        self.notes.setdefault(name, []).append(value)

    @property
    def is_rate(self) -> bool:
        """Whether more is better."""
        return self.unit != "us"

    @property
    def ratio(self) -> Spread | None:
        """To the floor, round by round: a busy spell of the machine touches both."""
        if not self.floors:
            return None
        return Spread.of([value / floor for value, floor in zip(self.values, self.floors, strict=True)])

    @property
    def met(self) -> bool | None:
        """Whether the aim is reached; ``None`` without an aim."""
        if self.aim is None or self.ratio is None:
            return None
        return self.ratio.median >= self.aim if self.is_rate else self.ratio.median <= self.aim

    def as_json(self) -> dict[str, Any]:
        """As a table."""
        spread = {
            "value": Spread.of(self.values),
            "p99": Spread.of(self.tails) if self.tails else None,
            "floor": Spread.of(self.floors) if self.floors else None,
            "ratio": self.ratio,
        }
        return {
            "name": self.name,
            "title": self.title,
            "unit": self.unit,
            **{name: one.as_json() if one else None for name, one in spread.items()},
            "floor_of": self.floor_of,
            "aim": self.aim,
            "met": self.met,
            "notes": {name: Spread.of(values).as_json() for name, values in self.notes.items()},
            "rounds": {"value": self.values, "p99": self.tails, "floor": self.floors},
        }


def figure_table(title: str, figures: Sequence[Figure]) -> Table:
    """One row a figure."""
    table = Table(title, box=None, padding=(0, 2))
    for column in ("p50", "min .. max", "p99", "floor", "ratio", "aim"):
        table.add_column(column, justify="right")
    for figure in figures:
        value = Spread.of(figure.values)
        floor = f"{Spread.of(figure.floors).median:,.1f}" if figure.floors else ""
        sign = "≥" if figure.is_rate else "≤"
        table.add_row(
            figure.title,
            f"{value.median:,.1f} {figure.unit}",
            f"{value.low:,.1f} .. {value.high:,.1f}",
            f"{Spread.of(figure.tails).median:,.1f}" if figure.tails else "",
            floor,
            f"{figure.ratio.median:.2f}" if figure.ratio else "",
            f"{sign} {figure.aim:g} {'yes' if figure.met else 'no'}" if figure.aim is not None else "",
        )
    return table


def load() -> float:
    """Processes that wanted a CPU in the last minute, on average."""
    return float(Path("/proc/loadavg").read_text(encoding="ascii").split()[0])


def machine_facts() -> dict[str, Any]:
    """What kind of machine this is, without its name."""
    words = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    models = [line.partition(":")[2].strip() for line in words if line.startswith("model name")]
    return {"cpu": models[0] if models else "?", "cpus": len(models), "kernel": platform.release()}
