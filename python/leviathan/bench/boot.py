"""Boot times of the same guest: stock QEMU and KVM, one node through the facade, two nodes with and without the pool.

Rounds go through all kinds in turn, so that a busy spell of the host touches every kind alike; medians are compared.
A boot is timed from the start of QEMU's process to the report of the guest's init.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from leviathan import __version__
from leviathan.bench.files import write_json
from leviathan.cli.tables import print_table
from leviathan.errors import Interrupted, LeviathanError
from leviathan.model import Machine, make_machine
from leviathan.vm.life import Life
from leviathan.vm.prepare import Work
from leviathan.vm.progress import Progress
from leviathan.vm.signals import stop_signals

__all__ = ["KINDS", "Kind", "bench", "summary"]

SCHEMA = 1
BASELINE = "stock"
TIMED_STEPS = ("starting QEMU", "booting the guest")


@dataclass(slots=True)
class Kind:
    """One way to run the guest, and its samples."""

    name: str
    title: str
    changes: Mapping[str, Any]
    aim: float | None = None
    """Largest ratio to the baseline that we want."""
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    report: dict[str, Any] | None = None
    """The facade's report of the last good round."""


def kinds() -> list[Kind]:
    """All kinds, the baseline first."""
    return [
        Kind(BASELINE, "stock QEMU and KVM", {"nodes": 0}),
        Kind("one-node", "one node through the facade", {"nodes": 1}, aim=1.5),
        Kind("two-nodes-pool", "two nodes, hot pages in the pool", {"nodes": 2}, aim=2.0),
        Kind("two-nodes", "two nodes, no pool", {"nodes": 2, "pool": {"enabled": False}}),
    ]


KINDS = tuple(kind.name for kind in kinds())


def bench(machine: Machine, rounds: int, json_file: Path | None) -> int:
    """Runs all rounds, prints the table; returns 0 if every boot succeeded."""
    progress = Progress.on_stderr()
    measured = kinds()
    with stop_signals():
        for number in range(1, rounds + 1):
            for kind in measured:
                _one(machine, kind, f"round {number} of {rounds}: {kind.title}", progress)
    print_table(_table(measured), sys.stdout)
    if json_file is not None:
        _write(json_file, machine, measured)
    return 1 if any(kind.failures for kind in measured) else 0


def _one(machine: Machine, kind: Kind, title: str, progress: Progress) -> None:
    variant = make_machine(machine.model_dump(by_alias=True) | dict(kind.changes), source="bench")
    try:
        with progress.step(title), Life(variant, Work("true")) as life:
            life.start()
            life.wait_end(variant.timeouts.boot)
            life.stop()
    except Interrupted:
        raise
    except LeviathanError as error:
        kind.failures.append(error.message)
        progress.note(f"failed: {error.message}")
        return
    kind.seconds.append(sum(step.seconds for step in life.progress.steps if step.name in TIMED_STEPS))
    kind.report = life.record.report


def summary(kind: Kind, baseline: Kind) -> dict[str, Any]:
    """Median, spread and ratio of one kind."""
    if not kind.seconds:
        return {"rounds": 0, "failures": kind.failures}
    median = statistics.median(kind.seconds)
    base = statistics.median(baseline.seconds) if baseline.seconds else None
    return {
        "rounds": len(kind.seconds),
        "median": round(median, 3),
        "min": round(min(kind.seconds), 3),
        "max": round(max(kind.seconds), 3),
        "ratio": round(median / base, 3) if base else None,
        "aim": kind.aim,
        "failures": kind.failures,
    }


def _table(measured: list[Kind]) -> Table:
    table = Table("boot of the guest", box=None, padding=(0, 2))
    for title in ("median s", "min", "max", "ratio", "aim", "failed"):
        table.add_column(title, justify="right")
    for kind in measured:
        row = summary(kind, measured[0])
        cells = ["" if row.get(key) is None else f"{row[key]:.2f}" for key in ("median", "min", "max", "ratio", "aim")]
        table.add_row(kind.title, *cells, str(len(kind.failures)))
    return table


def _write(path: Path, machine: Machine, measured: list[Kind]) -> None:
    table = {
        "schema": SCHEMA,
        "leviathan": __version__,
        "machine": machine.model_dump(mode="json", by_alias=True),
        "kinds": {
            kind.name: summary(kind, measured[0]) | {"seconds": kind.seconds, "report": kind.report}
            for kind in measured
        },
    }
    write_json(path, table)
