"""Files that a benchmark leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leviathan.errors import UsageError

__all__ = ["write_json", "write_text"]


def write_text(option: str, path: Path, text: str) -> None:
    """Writes the file that an option names. Raises ``UsageError``."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{option}: cannot write {path}: {error.strerror}") from error


def write_json(path: Path, table: Mapping[str, Any]) -> None:
    """Writes the figures into the file that ``--json`` names. Raises ``UsageError``."""
    write_text("--json", path, json.dumps(table, indent=2) + "\n")
