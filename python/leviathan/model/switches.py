"""Parts of the coherence engine that can be switched off, one by one: said at their fields, found from there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel

__all__ = ["NamedSwitch", "Switch", "switches"]


@dataclass(frozen=True, slots=True)
class Switch:
    """Stands in the annotation of a field that switches something on, or says how much of it."""

    off: bool | int
    """The value that switches it off."""
    counter: str
    """What nodes count as done or saved by it (``crates/dsm/src/counters.rs``)."""


@dataclass(frozen=True, slots=True)
class NamedSwitch:
    """A switch and its place in a machine's description."""

    name: str
    """For users: the field's name, or the table's for its field ``enabled``."""
    table: str
    field: str
    switch: Switch

    @property
    def changes(self) -> dict[str, dict[str, bool | int]]:
        """What to change in a description to have it off."""
        return {self.table: {self.field: self.switch.off}}


def switches(model: type[BaseModel]) -> list[NamedSwitch]:
    """All switches in the tables of a description, in the order of their fields."""
    found: list[NamedSwitch] = []
    for table, field in model.model_fields.items():
        inner = field.annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            continue
        for name, part in inner.model_fields.items():
            shown = table if name == "enabled" else name
            found += [NamedSwitch(shown, table, name, mark) for mark in _marks(part.annotation, part.metadata)]
    return found


def _marks(annotation: Any, metadata: list[Any]) -> Iterator[Switch]:
    """Marks at a field's type, also at one alternative of several (``Annotated[int, Switch(…)] | None``)."""
    yield from (mark for mark in metadata if isinstance(mark, Switch))
    for part in get_args(annotation):
        if isinstance(part, Switch):
            yield part
        else:
            yield from _marks(part, [])
