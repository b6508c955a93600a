"""What `lev list` and `lev screenshot` print."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TextIO

from rich.table import Table

from leviathan.cli.tables import print_table
from leviathan.errors import UsageError
from leviathan.model.sizes import format_size
from leviathan.named.client import Client
from leviathan.named.store import Entry, Store

__all__ = ["print_list", "write_screenshot"]


def print_list(out: TextIO, *, everything: bool = False, as_json: bool = False) -> None:
    """The VMs as a table, or as a JSON list of entries."""
    entries = [entry for entry in Store().entries() if everything or entry.alive or entry.state == "lost"]
    if as_json:
        out.write(json.dumps([entry.as_json() for entry in entries], indent=2) + "\n")
        return
    if not entries:
        out.write("no VM runs in the background; `lev run -d` starts one\n")
        return
    table = Table("name", "state", "kind", box=None, padding=(0, 2))
    for title in ("CPUs", "memory", "nodes"):
        table.add_column(title, justify="right")
    table.add_column("age")
    table.add_column("what happened")
    for entry in entries:
        table.add_row(
            entry.name,
            entry.state,
            entry.kind,
            str(entry.cpus),
            format_size(entry.memory),
            str(entry.nodes or ""),
            _age(entry),
            _remark(entry),
        )
    print_table(table, out)


def _age(entry: Entry) -> str:
    seconds = int((entry.ended or time.time()) - entry.created)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _remark(entry: Entry) -> str:
    if entry.error:
        return entry.error.splitlines()[0]
    return f"screen at {entry.display}" if entry.alive and entry.display else ""


def write_screenshot(name: str, path: Path, out: TextIO, *, as_json: bool = False) -> None:
    """Writes the picture, whole or not at all."""
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path}: a screenshot is a PNG file", hint=f"{path.with_suffix('.png')}")
    if not path.resolve().parent.is_dir():
        raise UsageError(f"there is no folder {path.resolve().parent}")
    shot = Client(name).screenshot()
    new = path.with_name(f".{path.name}.new")
    try:
        new.write_bytes(shot.png)
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    if as_json:
        facts = {"file": str(path), "width": shot.width, "height": shot.height, "colours": shot.colours}
        out.write(json.dumps(facts) + "\n")
