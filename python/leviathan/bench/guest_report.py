"""The figures of `lev bench guest` as tables and as a file."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from leviathan import __version__
from leviathan.bench.figures import Spread, machine_facts
from leviathan.bench.guest import Configuration, GuestBench
from leviathan.bench.guest_work import FIGURES

__all__ = ["figure_table", "guest_json", "slowdown", "switch_table"]

SCHEMA = 1
REMOTE_FAULTS = ("faults_read", "faults_write", "faults_upgrade")


def slowdown(kind: Configuration, base: Configuration, figure: str) -> Spread | None:
    """How many times as slow as ``base``, round by round; ``None`` without a round that has both."""
    ratios = [FIGURES[figure].slowdown(own, other) for own, other in kind.pairs(base, figure)]
    return Spread.of(ratios) if ratios else None


def figure_table(figure: str, workload: str, kinds: Sequence[Configuration]) -> Table:
    """One row a configuration; the first one is the baseline, the second one has all switches on."""
    what = FIGURES[figure]
    table = Table(f"{figure}: {what.title}, {what.unit}", box=None, padding=(0, 2))
    for column in ("median", "min .. max", "to stock", "to all on", "failed"):
        table.add_column(column, justify="right")
    stock, all_on = kinds[0], kinds[1]
    for kind in kinds:
        values = _values(kind, figure)
        spread = Spread.of(values) if values else None
        to_stock = slowdown(kind, stock, figure)
        to_all_on = slowdown(kind, all_on, figure) if kind.switch is not None else None
        failed = sum(workload in reasons for reasons in kind.failures.values())
        table.add_row(
            kind.title,
            f"{spread.median:,.2f}" if spread else "failed",
            f"{spread.low:,.2f} .. {spread.high:,.2f}" if spread else "",
            f"{to_stock.median:.2f}" if to_stock else "",
            f"{to_all_on.median:.2f}" if to_all_on else "",
            str(failed) if failed else "",
        )
    return table


def switch_table(kinds: Sequence[Configuration]) -> Table:
    """What all nodes counted in a whole guest: faults and traffic, and what each switch did while it was on."""
    table = Table("memory of a whole guest", "", box=None, padding=(0, 2))
    for column in ("with all on", "remote faults", "to all on", "MB sent", "to all on"):
        table.add_column(column, justify="right")
    base = _medians(kinds[1])
    for kind in kinds[1:]:
        own = _medians(kind)
        counter = kind.switch.switch.counter if kind.switch else ""
        table.add_row(
            kind.title,
            counter,
            f"{base[counter]:,.0f}" if counter in base else "",
            *_with_ratio(_faults(own), _faults(base), 0),
            *_with_ratio(_sent(own), _sent(base), 1),
        )
    return table


def guest_json(bench: GuestBench, load: Mapping[str, float]) -> dict[str, Any]:
    """Everything that was measured."""
    stock, all_on = bench.kinds[0], bench.kinds[1]
    return {
        "schema": SCHEMA,
        "leviathan": __version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine_facts(),
        "load": dict(load),
        "guest": all_on.machine.model_dump(mode="json", by_alias=True),
        "rounds": bench.options.rounds,
        "seconds": bench.options.seconds,
        "limit": bench.options.limit,
        "configurations": {
            kind.name: {
                "title": kind.title,
                "where": kind.where,
                "off": kind.switch.changes if kind.switch else None,
                "counter": kind.switch.switch.counter if kind.switch else None,
                "figures": {
                    figure: _figure_json(kind, stock, all_on, figure)
                    for work in bench.workloads
                    for figure in work.figures
                },
                "failures": [
                    {"round": number, "workload": name, "reason": reason} for number, name, reason in kind.failed_work()
                ],
                "counters": _medians(kind),
            }
            for kind in bench.kinds
        },
    }


def _figure_json(kind: Configuration, stock: Configuration, all_on: Configuration, figure: str) -> dict[str, Any]:
    values = _values(kind, figure)
    spreads = {
        "value": Spread.of(values) if values else None,
        "to_stock": slowdown(kind, stock, figure),
        "to_all_on": slowdown(kind, all_on, figure),
    }
    return {
        "unit": FIGURES[figure].unit,
        **{name: spread.as_json() if spread else None for name, spread in spreads.items()},
        "rounds": {str(number): found[figure] for number, found in kind.figures.items() if figure in found},
    }


def _values(kind: Configuration, figure: str) -> list[float]:
    return [found[figure] for found in kind.figures.values() if figure in found]


def _medians(kind: Configuration) -> dict[str, float]:
    """Each counter's median over the rounds in which it was counted."""
    names = sorted({name for counted in kind.counted.values() for name in counted})
    return {name: statistics.median(c[name] for c in kind.counted.values() if name in c) for name in names}


def _faults(counters: Mapping[str, float]) -> float | None:
    return sum(counters.get(name, 0) for name in REMOTE_FAULTS) if counters else None


def _sent(counters: Mapping[str, float]) -> float | None:
    return counters.get("bytes_sent", 0) / 1e6 if counters else None


def _with_ratio(own: float | None, base: float | None, digits: int) -> tuple[str, str]:
    return (
        "" if own is None else f"{own:,.{digits}f}",
        "" if own is None or not base else f"{own / base:.2f}",
    )
