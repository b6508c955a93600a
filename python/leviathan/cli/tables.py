"""Tables for people: what each node did, and how long each step took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from leviathan.vm.progress import Step

__all__ = ["node_table", "print_table", "step_table"]

TOP_EXITS = 4


def print_table(table: Table, out: TextIO) -> None:
    """Writes a table; a log file gets it at full width."""
    Console(file=out, width=None if out.isatty() else 140, highlight=False).print(table)


def step_table(steps: Sequence[Step]) -> Table:
    """How long each step took."""
    table = Table("step", box=None, padding=(0, 2))
    table.add_column("seconds", justify="right")
    for step in steps:
        table.add_row(step.name, f"{step.seconds:.1f}")
    return table


def node_table(report: Mapping[str, Any]) -> Table:
    """One row per node of the facade's report; what a node does not count stays empty."""
    table = Table("node", "vCPUs", box=None, padding=(0, 2))
    for title in ("exits", "by reason", "interrupts", "faults", "promoted", "bytes"):
        table.add_column(title, justify="left" if title == "by reason" else "right")
    for node in _list(report.get("nodes")):
        vcpus = _list(node.get("vcpus"))
        exits: dict[str, int] = {}
        for vcpu in vcpus:
            for reason, count in _table(vcpu.get("exits")).items():
                exits[reason] = exits.get(reason, 0) + _number(count)
        top = sorted(exits.items(), key=lambda item: -item[1])[:TOP_EXITS]
        table.add_row(
            str(node.get("name", "")),
            " ".join(str(vcpu.get("id", "?")) for vcpu in vcpus),
            f"{sum(exits.values()):,}",
            "  ".join(f"{reason} {count:,}" for reason, count in top if count),
            _sum(node.get("interrupts")),
            _by_kind(node.get("faults")),
            _sum(_table(node.get("pool")).get("promoted")),
            _by_kind(node.get("bytes")),
        )
    return table


def _list(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> int:
    return int(value) if isinstance(value, int | float) else 0


def _sum(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{sum(_number(part) for part in value.values()):,}"
    return f"{_number(value):,}" if value is not None else ""


def _by_kind(value: Any) -> str:
    if not isinstance(value, Mapping):
        return _sum(value)
    return "  ".join(f"{kind} {_number(count):,}" for kind, count in value.items() if _number(count))
