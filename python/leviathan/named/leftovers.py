"""What a killed supervisor leaves behind: programs that nobody watches, folders of its run."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["clean_up", "start_time"]

RUN_PREFIX = "lev-"


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since the machine's start; ``None`` if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name, in parentheses, may hold anything; field 22 counts from the start of the line.
    return int(stat.rpartition(")")[2].split()[19])


def clean_up(leftovers: Mapping[str, Any]) -> None:
    """Ends the programs that still are those which were noted, and removes the folders; silent about what is gone."""
    for pid, started in leftovers.get("processes", ()):
        if started is not None and start_time(pid) == started:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
    for name in leftovers.get("folders", ()):
        folder = Path(name)
        # Only what looks like a run's own folder: the entry is a file that anybody could have edited.
        with suppress(OSError):
            if folder.name.startswith(RUN_PREFIX) and folder.is_dir() and folder.stat().st_uid == os.getuid():
                shutil.rmtree(folder)
