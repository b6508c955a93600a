"""What was read otherwise than it stood there: one line each, for standard error."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Note", "Notes"]


@dataclass(frozen=True, slots=True)
class Note:
    """One remark. ``str`` is the whole line."""

    kind: Literal["changed", "warning", "kept"]
    what: str
    """The words of the command line."""
    why: str
    into: str = ""
    """What stands there now."""

    def __str__(self) -> str:
        line = f"{self.kind}: {self.what}: {self.why}" if self.what else f"{self.kind}: {self.why}"
        return f"{line}; now {self.into}" if self.into else line


@dataclass(slots=True)
class Notes:
    """Collected in order; what is said twice is said once."""

    notes: list[Note] = field(default_factory=list)

    def changed(self, what: str, why: str, into: str = "") -> None:
        """Something old was translated."""
        self._add(Note("changed", what, why, into))

    def warn(self, what: str, why: str, into: str = "") -> None:
        """Something will not do what its writer may think."""
        self._add(Note("warning", what, why, into))

    def kept(self, what: str, why: str) -> None:
        """Something is passed on to QEMU as it is."""
        self._add(Note("kept", what, why))

    def lines(self) -> list[str]:
        """As they are shown."""
        return [str(note) for note in self.notes]

    def _add(self, note: Note) -> None:
        if note not in self.notes:
            self.notes.append(note)
