"""The coherence protocol with up to 1,024 nodes: a simulation that drives the transition function of production.

Rust does the work (``crates/sim``); here is what is run, where its costs come from, and how the outcome is shown.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from leviathan import __version__, _native
from leviathan.bench.files import write_json, write_text
from leviathan.bench.plot import Line, log_plot
from leviathan.cli.tables import print_table
from leviathan.errors import ConfigError, LeviathanError, UsageError
from leviathan.vm.progress import Progress

__all__ = ["NODES", "PATTERNS", "Model", "bench", "costs_from", "draw", "tabulate"]

SCHEMA = 1
PATTERNS = {
    "private": "pages of each thread's own, at home elsewhere",
    "read-mostly": "all read 64 pages, one access in 100 writes",
    "migratory": "read a page, then write it; pages go round",
    "producer-consumer": "pairs: one writes a page, one reads it",
    "hot-counter": "all read and write one word",
}
NODES = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
SEND_NS = 2000
"""Part of a one-way trip that keeps the sender's processor busy."""


@dataclass(frozen=True, slots=True)
class Model:
    """What is the same for all runs."""

    accesses: int
    think_us: float
    hold_us: float
    pool: bool
    costs: Mapping[str, int]

    def scenario(self, pattern: str, nodes: int) -> dict[str, Any]:
        """One run, as ``crates/sim`` reads it."""
        return {
            "nodes": nodes,
            "pattern": pattern,
            "accesses": self.accesses,
            "think_ns": round(self.think_us * 1000),
            "hold_ns": round(self.hold_us * 1000),
            "promote_after": 2 if self.pool else 0,
            "costs": dict(self.costs),
        }


def costs_from(path: Path) -> dict[str, int]:
    """Costs measured by ``lev bench dsm --json``. Raises ``ConfigError`` that names the file and the figure."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        us = {figure["name"]: float(figure["value"]["median"]) for figure in table["figures"]}
    except OSError as error:
        raise ConfigError(f"--measured: {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"--measured: {path} is not a file of `lev bench dsm --json`") from error
    wanted = ("local_read", "local_upgrade", "local_copy_out", "local_drop", "tcp_frame")
    if missing := [name for name in wanted if name not in us]:
        raise ConfigError(f"--measured: {path} has no figure {missing[0]}")
    # A local fault is two halves of about the same length: up to the thread that resolves it, and back.
    half = us["local_read"] * 500
    return {
        "latency_ns": max(round(us["tcp_frame"] * 500) - SEND_NS, 0),
        "send_ns": SEND_NS,
        "fault_ns": round(half),
        "install_ns": round(half),
        "copy_ns": round(us["local_copy_out"] * 500),
        "protect_ns": round(us["local_copy_out"] * 500),
        "drop_ns": round(us["local_drop"] * 1000),
    }


def bench(
    model: Model,
    patterns: Sequence[str],
    nodes: Sequence[int],
    *,
    json_file: Path | None,
    svg_file: Path | None,
    quiet: bool,
) -> int:
    """Runs all, prints the table, writes the files; 0."""
    progress = Progress() if quiet else Progress.on_stderr()
    runs: dict[str, list[dict[str, Any]]] = {}
    for pattern in patterns:
        with progress.step(f"{pattern}, {min(nodes)} to {max(nodes)} nodes"):
            runs[pattern] = list(_runs(model, pattern, nodes))
    print_table(tabulate(runs), sys.stdout)
    if svg_file is not None:
        write_text("--svg", svg_file, draw(runs))
    if json_file is not None:
        table = {
            "schema": SCHEMA,
            "leviathan": __version__,
            "model": model.scenario("", 0) | {"nodes": list(nodes), "pattern": list(patterns)},
            "runs": runs,
        }
        write_json(json_file, table)
    return 0


def _runs(model: Model, pattern: str, nodes: Sequence[int]) -> Iterator[dict[str, Any]]:
    for count in nodes:
        try:
            outcome: dict[str, Any] = json.loads(_native.simulate(json.dumps(model.scenario(pattern, count))))
        except ValueError as error:
            raise UsageError(f"{pattern} with {count} nodes cannot be simulated: {error}") from error
        if outcome["stale_reads"]:
            raise LeviathanError(f"{pattern} with {count} nodes: {outcome['stale_reads']} reads returned old data")
        yield outcome


def tabulate(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """Outcomes of the simulator by the names of their lines."""
    table = Table("pattern", box=None, padding=(0, 2))
    titles = ("nodes", "faults", "p50 us", "p99 us", "faults/s", "frames/fault", "bytes/fault", "busiest node")
    for title in titles:
        table.add_column(title, justify="right")
    for pattern, outcomes in runs.items():
        for number, one in enumerate(outcomes):
            table.add_row(
                pattern if number == 0 else "",
                f"{one['nodes']:,}",
                f"{one['faults']:,}",
                f"{one['p50_us']:,.1f}",
                f"{one['p99_us']:,.1f}",
                f"{one['faults_per_second']:,.0f}",
                f"{one['frames_per_fault']:.1f}",
                f"{one['bytes_per_fault']:,.0f}",
                f"{one['busiest']:.0%}" if "busiest" in one else "",
            )
    return table


def draw(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The same as the text of an SVG file."""
    panels = (
        ("time of a fault (mean, us)", "mean_us"),
        ("bytes a fault", "bytes_per_fault"),
        ("faults a second, all nodes", "faults_per_second"),
    )
    return log_plot(
        [
            (title, [Line(name, [(one["nodes"], one[field]) for one in outcomes]) for name, outcomes in runs.items()])
            for title, field in panels
        ],
        x_title="nodes",
    )
