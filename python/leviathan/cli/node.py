"""``lev node``: becomes ``lev-node serve``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NoReturn

from leviathan.errors import LaunchError
from leviathan.launch.programs import program

__all__ = ["exec_node"]

SUBCOMMANDS = ("serve", "probe", "help")


def exec_node(arguments: Sequence[str]) -> NoReturn:
    """Replaces this process by the worker, so that signals and the exit code are its own."""
    path = program("lev-node")
    first = list(arguments[:1])
    words = [] if first and first[0] in SUBCOMMANDS else ["serve"]
    try:
        os.execv(path, [str(path), *words, *arguments])  # noqa: S606 (becoming it is the point)
    except OSError as error:
        raise LaunchError(f"cannot start {path}: {error.strerror}") from error
