"""``lev trace replay``: the simulator driven by a trace, as it was recorded or on up to 1,024 nodes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from leviathan import __version__, _native
from leviathan.bench.files import write_json, write_text
from leviathan.bench.sim import PATTERNS, draw, tabulate
from leviathan.cli.tables import print_table
from leviathan.errors import LeviathanError, UsageError
from leviathan.trace.read import Trace
from leviathan.vm.progress import Progress

__all__ = ["Options", "replay"]

SCHEMA = 1
ALL = "all together"


@dataclass(frozen=True, slots=True)
class Options:
    """What is the same for all runs. ``None``: as recorded."""

    accesses: int
    sharing: str
    hold_us: float | None
    pool: bool | None
    speed: float
    costs: Mapping[str, int]

    def as_rust(self, nodes: int | None) -> dict[str, Any]:
        """One run, as ``crates/sim`` reads it (``Replay``)."""
        return {
            "nodes": nodes,
            "accesses": self.accesses,
            "sharing": self.sharing,
            "promote_after": None if self.pool is None else 2 if self.pool else 0,
            "hold_ns": None if self.hold_us is None else round(self.hold_us * 1000),
            "speed": self.speed,
            "costs": dict(self.costs),
        }


def replay(
    file: Path,
    options: Options,
    nodes: Sequence[int],
    *,
    json_file: Path | None,
    svg_file: Path | None,
    quiet: bool,
) -> int:
    """Replays the trace as it is, then on each number of ``nodes``; prints tables, writes the files; 0."""
    progress = Progress() if quiet else Progress.on_stderr()
    with progress.step(f"reading {file}"):
        _, data = Trace.parse_file(file)
        summary = json.loads(_native.summarize_trace(data, 0))
    with progress.step(f"replaying {summary['faults']:,} accesses of {summary['nodes']} nodes in their order"):
        recorded = _run(file, data, options, None)
    mix: dict[str, Any] | None = None
    runs: dict[str, list[dict[str, Any]]] = {}
    if nodes:
        # In the order of the simulator's own patterns; all of them last.
        lines: dict[str, list[dict[str, Any]]] = {name: [] for name in (*PATTERNS, ALL)}
        mix = json.loads(_native.measure_trace(data))
        for count in nodes:
            with progress.step(f"{count} nodes"):
                _sort(lines, _run(file, data, options, count))
        runs = {name: line for name, line in lines.items() if line}
    print_table(_compared(summary, recorded), sys.stdout)
    if runs:
        print()
        print_table(tabulate(runs), sys.stdout)
    if svg_file is not None:
        write_text("--svg", svg_file, draw(runs))
    if json_file is not None:
        table = {
            "schema": SCHEMA,
            "leviathan": __version__,
            "options": options.as_rust(None) | {"nodes": list(nodes)},
            "trace": summary,
            "replay": recorded,
            "mix": mix,
            "runs": runs,
        }
        write_json(json_file, table)
    return 0


def _run(file: Path, data: bytes, options: Options, nodes: int | None) -> dict[str, Any]:
    where = f"{file} on {nodes} nodes" if nodes else str(file)
    try:
        outcome: dict[str, Any] = json.loads(_native.replay_trace(data, json.dumps(options.as_rust(nodes))))
    except ValueError as error:
        raise UsageError(f"{where} cannot be replayed: {error}") from error
    if outcome["stale_reads"]:
        raise LeviathanError(f"{where}: {outcome['stale_reads']} reads returned old data")
    return outcome


def _sort(lines: dict[str, list[dict[str, Any]]], outcome: Mapping[str, Any]) -> None:
    """Adds one run to the lines of its ways of sharing, and to that of all."""
    whole = dict(outcome)
    for one in whole.pop("classes"):
        lines[one["pattern"]].append(one | {"nodes": whole["nodes"]})
    lines[ALL].append(whole)


def _compared(summary: Mapping[str, Any], recorded: Mapping[str, Any]) -> Table:
    """What was recorded beside what was simulated."""
    table = Table("pattern", box=None, padding=(0, 2))
    titles = (
        "accesses",
        "recorded p50 us",
        "p99 us",
        "simulated faults",
        "p50 us",
        "p99 us",
        "frames/fault",
        "bytes/fault",
    )
    for title in titles:
        table.add_column(title, justify="right")
    simulated = {one["pattern"]: one for one in recorded["classes"]}
    for one in summary["patterns"]:
        row = [one["pattern"], f"{one['faults']:,}", f"{one['p50_us']:,.0f}", f"{one['p99_us']:,.0f}"]
        table.add_row(*row, *_figures(simulated.get(one["pattern"])))
    table.add_row(ALL, f"{recorded['accesses']:,}", "", "", *_figures(recorded))
    return table


def _figures(outcome: Mapping[str, Any] | None) -> list[str]:
    if outcome is None:
        return ["0"]
    return [
        f"{outcome['faults']:,}",
        f"{outcome['p50_us']:,.0f}",
        f"{outcome['p99_us']:,.0f}",
        f"{outcome['frames_per_fault']:.1f}",
        f"{outcome['bytes_per_fault']:,.0f}",
    ]
