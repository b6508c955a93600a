"""What a rule has to say: where, what would happen, what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule that a description breaks."""

    severity: Literal["error", "warning"]
    """Errors keep QEMU from being started."""
    rule: str
    """Short name of the rule, for programs and the documentation."""
    field: str
    """The field, written as in messages about types: ``cxl.memory.0.persistent``."""
    problem: str
    """What is wrong and what it would lead to."""
    remedy: str
    """What would be right."""

    def told(self, spelled: str | None = None) -> str:
        """In one line; ``spelled``: another word for the field."""
        field = f"{self.field} ({spelled})" if spelled else self.field
        return f"{field}: {self.problem}; {self.remedy}"

    def __str__(self) -> str:
        return self.told()


def error(rule: str, field: str, problem: str, remedy: str) -> Finding:
    """A finding that keeps QEMU from being started."""
    return Finding("error", rule, field, problem, remedy)


def warning(rule: str, field: str, problem: str, remedy: str) -> Finding:
    """A finding to know about before a boot."""
    return Finding("warning", rule, field, problem, remedy)
