"""What QEMU's monitor offers, asked of the QEMU that runs: versions tell little, packagers change things."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from leviathan.errors import UsageError

__all__ = ["Schema", "require"]


class Schema:
    """The answer to ``query-qmp-schema``."""

    def __init__(self, answer: Sequence[Mapping[str, Any]]) -> None:
        self._by_name = {str(item["name"]): item for item in answer}

    def has(self, command: str) -> bool:
        """Whether there is such a command."""
        return self._by_name.get(command, {}).get("meta-type") == "command"

    def members(self, command: str) -> dict[str, bool]:
        """Names of a command's arguments, and whether they may be left out."""
        kind = self._by_name.get(command, {}).get("arg-type", "")
        members = self._by_name.get(str(kind), {}).get("members", [])
        return {str(member["name"]): "default" in member for member in members}


def require(schema: Schema, command: str, version: str) -> None:
    """Raises ``UsageError`` if this QEMU lacks a command."""
    if not schema.has(command):
        raise UsageError(
            f"this QEMU ({version}) has no {command}",
            hint="QEMU 10 has it: `lev images get qemu --suite trixie`, then start the VM with --qemu PATH",
        )
