"""What a soak saw, as a table and for programs."""

from __future__ import annotations

import datetime
from collections import Counter
from typing import Any

from rich.table import Table

from leviathan import __version__
from leviathan.bench.figures import machine_facts
from leviathan.bench.nodes import PAGE
from leviathan.bench.soak import Soak

__all__ = ["growth_table", "node_table", "soak_json", "summary"]

SCHEMA = 1
MIB = 1 << 20
COUNTED = (
    "faults_read",
    "faults_write",
    "faults_upgrade",
    "pages_received",
    "invalidations",
    "promotions",
    "evictions",
)


def _totals(soak: Soak, node: int) -> Counter[str]:
    """The engine's counters of a node, over all regions."""
    total: Counter[str] = Counter()
    for epoch in soak.epochs:
        if epoch.counters:
            total.update(epoch.counters[node])
    return total


def summary(soak: Soak) -> str:
    """One line: how much was done, and what was wrong."""
    done = sum(sum(epoch.operations.values()) for epoch in soak.epochs)
    verified = sum(epoch.bytes_verified for epoch in soak.epochs)
    pauses = sum(count for count, _ in soak.pauses)
    seconds = sum(epoch.seconds for epoch in soak.epochs)
    return (
        f"seed {soak.options.seed}: {seconds:.0f} s, {len(soak.epochs)} regions, {done:,} operations, "
        f"{verified / MIB:,.0f} MiB verified in {sum(epoch.rounds for epoch in soak.epochs)} rounds, {pauses} pauses, "
        f"{len(soak.failures)} failures"
    )


def node_table(soak: Soak) -> Table:
    """One row a node: memory against its limit, and what moved."""
    limit = soak.options.node_limit / MIB
    table = Table(f"limit {limit:.1f} MiB a node", box=None, padding=(0, 2))
    for title in (
        "held at most",
        "by the kernel",
        "faults",
        "pages came",
        "promoted",
        "evicted",
        "waits for room",
        "pauses",
    ):
        table.add_column(title, justify="right")
    for node in range(soak.options.nodes):
        total = _totals(soak, node)
        held = max((epoch.resident_peak[node] for epoch in soak.epochs if epoch.resident_peak), default=0) * PAGE
        seen = max((epoch.region_peak[node] for epoch in soak.epochs if epoch.region_peak), default=0)
        count, seconds = soak.pauses[node] if soak.pauses else (0, 0.0)
        table.add_row(
            f"node{node}",
            f"{held / MIB:.2f} MiB",
            f"{seen / MIB:.2f} MiB",
            f"{total['faults_read'] + total['faults_write'] + total['faults_upgrade']:,}",
            f"{total['pages_received']:,}",
            f"{total['promotions']:,}",
            f"{total['evictions']:,}",
            f"{total['room_waits']:,}",
            f"{count} ({seconds:.0f} s)",
        )
    return table


def growth_table(soak: Soak) -> Table:
    """One row a node: the process in no region, before the first one and after the last."""
    table = Table("in no region", box=None, padding=(0, 2))
    for title in ("own memory, before", "after", "threads", "descriptors", "peak, all memory"):
        table.add_column(title, justify="right")
    for node, samples in enumerate(soak.idle):
        if samples:
            first, last = samples[0], samples[-1]
            table.add_row(
                f"node{node}",
                f"{first.own / MIB:.2f} MiB",
                f"{last.own / MIB:.2f} MiB",
                f"{first.threads.total()} -> {last.threads.total()}",
                f"{first.descriptors} -> {last.descriptors}",
                f"{soak.peak[node] / MIB:.1f} MiB",
            )
    return table


def soak_json(soak: Soak) -> dict[str, Any]:
    """All of it."""
    options = soak.options
    return {
        "schema": SCHEMA,
        "leviathan": __version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine_facts(),
        "seed": options.seed,
        "nodes": options.nodes,
        "threads": options.threads,
        "memory": options.memory,
        "node_memory": options.node_limit,
        "pauses": [{"count": count, "seconds": round(seconds, 3)} for count, seconds in soak.pauses],
        "failures": soak.failures,
        "epochs": [
            {
                "engine": epoch.engine,
                "pool": epoch.pool,
                "seconds": round(epoch.seconds, 3),
                "rounds": epoch.rounds,
                "bytes_verified": epoch.bytes_verified,
                "operations": dict(epoch.operations),
                "resident_peak_bytes": [pages * PAGE for pages in epoch.resident_peak],
                "region_peak_bytes": epoch.region_peak,
                "counters": epoch.counters,
            }
            for epoch in soak.epochs
        ],
        "between_regions": [
            [
                {"own_bytes": each.own, "threads": each.threads.total(), "descriptors": each.descriptors}
                for each in samples
            ]
            for samples in soak.idle
        ],
        "process_peak_bytes": soak.peak,
    }
