"""``lev trace show``: a trace in tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TextIO

from rich.table import Table

from leviathan import _native
from leviathan.cli.tables import print_table
from leviathan.errors import ConfigError
from leviathan.trace.read import read_bytes

__all__ = ["show"]

_FAULTS = ("read", "write", "upgrade", "touch", "join")
_KINDS = ("stale", "grant", "send", "drop", "pool", "hold", "wait")
_PATTERN_COLUMNS = (
    "pages", "pooled", "faults", "share", "reads", "writes", "upgrades", "nodes", "p50 us", "p99 us", "of waiting"
)  # fmt: skip
_PAGE_COLUMNS = ("home", "faults", "reads", "writes", "upgrades", "moves", "nodes", "writers", "waited ms", "pool")


def show(file: Path, stream: TextIO, *, hottest: int, as_json: bool) -> None:
    """Prints what is in a trace. Raises ``ConfigError`` that names the file and the offset at which it is wrong."""
    try:
        summary: dict[str, Any] = json.loads(_native.summarize_trace(read_bytes(file), hottest))
    except ValueError as error:
        raise ConfigError(f"{file}: {error}", hint="`lev trace record` writes traces") from error
    if as_json:
        json.dump({"schema": 1} | summary, stream, indent=2)
        stream.write("\n")
        return
    pool = (
        f"pages move into the pool after {summary['promote_after']} changes" if summary["promote_after"] else "no pool"
    )
    print(
        f"{summary['events']:,} events on {summary['nodes']} nodes in {summary['seconds']:.1f} s: "
        f"{summary['faults']:,} faults on {summary['pages']:,} pages, {summary['pages_sent']:,} pages sent; {pool}",
        file=stream,
    )
    for number, why in (
        (summary["dropped"], "were not recorded: too many at once"),
        (summary["cut"], "came after the file had its greatest length"),
    ):
        if number:
            print(f"{number:,} events {why}", file=stream)
    if not summary["finished"]:
        print("the file was not written to its end: the VM was killed, or still runs", file=stream)
    for table in (_nodes(summary), _patterns(summary), _pages(summary)):
        if table.row_count:
            print(file=stream)
            print_table(table, stream)


def _table(first: str, *columns: str) -> Table:
    table = Table(first, box=None, padding=(0, 2))
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _nodes(summary: dict[str, Any]) -> Table:
    table = _table("node", "threads", "faults", *_KINDS, "p50 us", "p99 us")
    for node in summary["by_node"]:
        events = node["events"]
        faults = sum(events.get(kind, 0) for kind in _FAULTS)
        counts = (f"{number:,}" for number in (node["threads"], faults, *(events.get(kind, 0) for kind in _KINDS)))
        table.add_row(str(node["node"]), *counts, f"{node['p50_us']:,.0f}", f"{node['p99_us']:,.0f}")
    return table


def _patterns(summary: dict[str, Any]) -> Table:
    table = _table("pattern", *_PATTERN_COLUMNS)
    for one in summary["patterns"]:
        table.add_row(
            one["pattern"],
            *(f"{one[name]:,}" for name in ("pages", "pooled", "faults")),
            f"{one['share']:.0%}",
            *(f"{one[name]:,}" for name in ("reads", "writes", "upgrades")),
            f"{one['nodes']:.1f}",
            f"{one['p50_us']:,.0f}",
            f"{one['p99_us']:,.0f}",
            f"{one['waited']:.0%}",
        )
    return table


def _pages(summary: dict[str, Any]) -> Table:
    table = _table("page", "pattern", *_PAGE_COLUMNS)
    for page in summary["hottest"]:
        names = ("home", "faults", "reads", "writes", "upgrades", "moves", "nodes", "writers")
        table.add_row(
            f"{page['page']:#x}",
            page["pattern"],
            *(f"{page[name]:,}" for name in names),
            f"{page['waited_ns'] / 1e6:,.1f}",
            "yes" if page["pooled"] else "",
        )
    return table
