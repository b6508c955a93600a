"""What became of the survivors of many kills, as a table and for programs."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from leviathan import __version__
from leviathan.bench.figures import machine_facts, percentile
from leviathan.bench.kills import LIMIT, PHASES, Round

__all__ = ["kills_json", "kills_table"]

SCHEMA = 1


def kills_table(rounds: Sequence[Round]) -> Table:
    """One row for each time at which nodes were killed: how long survivors took to say who is lost."""
    table = Table("killed while others", box=None, padding=(0, 2))
    for title in ("rounds", "killed", "reports", "p50", "p90", "p99", "max", "left in order", "failures"):
        table.add_column(title, justify="right")
    for phase in PHASES:
        mine = [each for each in rounds if each.phase == phase]
        seconds = [time for each in mine for time in each.seconds]
        times = [f"{percentile(seconds, part) * 1000:.1f} ms" if seconds else "" for part in (50, 90, 99, 100)]
        table.add_row(
            phase,
            str(len(mine)),
            str(sum(len(each.killed) for each in mine)),
            str(len(seconds)),
            *times,
            str(sum(each.left for each in mine)),
            str(sum(bool(each.failures) for each in mine)),
        )
    return table


def kills_json(rounds: Sequence[Round], seed: int) -> dict[str, Any]:
    """All of it."""
    return {
        "schema": SCHEMA,
        "leviathan": __version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine_facts(),
        "seed": seed,
        "limit_seconds": LIMIT,
        "rounds": [
            {
                "number": each.number,
                "phase": each.phase,
                "nodes": each.nodes,
                "killed": each.killed,
                "seconds": [round(time, 6) for time in each.seconds],
                "left": each.left,
                "failures": each.failures,
            }
            for each in rounds
        ],
    }
