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
    """One row per node of the head's report (``crates/mesh/src/report.rs``); what a node does not count stays empty."""
    table = Table("node", "vCPUs", box=None, padding=(0, 2))
    for title in ("exits", "by reason", "interrupts", "faults", "promoted", "bytes"):
        table.add_column(title, justify="left" if title in ("by reason", "faults") else "right")
    for node in _list(report.get("nodes")):
        vcpus = _list(node.get("vcpus"))
        exits: dict[str, int] = {}
        for vcpu in vcpus:
            for reason, count in _table(vcpu.get("exits")).items():
                exits[reason] = exits.get(reason, 0) + _number(count)
        interrupts, memory = _table(node.get("interrupts")), _table(node.get("memory"))
        faults = {name.removeprefix("faults_"): count for name, count in memory.items() if name.startswith("faults_")}
        table.add_row(
            str(node.get("name", "")),
            " ".join(str(vcpu.get("id", "?")) for vcpu in vcpus),
            f"{sum(exits.values()):,}",
            _largest(exits, TOP_EXITS),
            f"{_number(interrupts.get('sent')):,} out  {_number(interrupts.get('received')):,} in"
            if interrupts
            else "",
            _largest(faults, len(faults)),
            f"{_number(memory.get('promotions')):,}" if memory else "",
            f"{_number(memory.get('bytes_sent')):,} out" if memory else "",
        )
    return table


def _largest(counts: Mapping[str, Any], number: int) -> str:
    top = sorted(((name, _number(count)) for name, count in counts.items()), key=lambda item: -item[1])[:number]
    return "  ".join(f"{name} {count:,}" for name, count in top if count)


def _list(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> int:
    return int(value) if isinstance(value, int | float) else 0
