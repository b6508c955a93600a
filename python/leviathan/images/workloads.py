"""Programs of the system's release that `lev bench guest` runs in its guests."""

from __future__ import annotations

from pathlib import Path

from leviathan.images import suite
from leviathan.images.base import ImageError
from leviathan.images.kernel import Progress

__all__ = ["PROGRAMS", "programs"]

PROGRAMS = (
    *("usr/bin/stress-ng", "usr/bin/zstd"),
    *("usr/bin/redis-server", "usr/bin/redis-benchmark", "usr/bin/redis-cli"),
)
"""Paths in the tree of the packages."""


def programs(progress: Progress) -> list[Path]:
    """The programs on this machine, fetched if they are not yet there. Raises ``ImageError``."""
    tree = suite.newest("workloads", None, suite.host_architecture(), progress).tree
    found = [tree / name for name in PROGRAMS]
    if missing := [path for path in found if not path.exists()]:
        raise ImageError(
            f"{tree} lacks {', '.join(path.name for path in missing)}",
            "remove that folder and run: lev images get workloads",
        )
    return found
