"""Where the Rust programs of this installation are."""

from __future__ import annotations

import os
from pathlib import Path

from leviathan.errors import StartError

__all__ = ["NAMES", "bin_dir", "program"]

NAMES = ("lev-node", "liblev_facade.so", "lev-agent", "lev-guest")


def bin_dir() -> Path:
    """The folder of the programs: the package's own, or ``$LEVIATHAN_BIN`` for trying another build."""
    override = os.environ.get("LEVIATHAN_BIN")
    return Path(override) if override else Path(__file__).resolve().parent.parent / "_bin"


def program(name: str) -> Path:
    """Path of one program. Raises ``StartError`` if this installation lacks it."""
    path = bin_dir() / name
    if not path.is_file():
        raise StartError(f"{path} is missing", hint="in a source tree run `make build`, else reinstall the wheel")
    if not os.access(path, os.X_OK):
        raise StartError(f"{path} is not executable", hint=f"chmod +x {path}")
    return path
