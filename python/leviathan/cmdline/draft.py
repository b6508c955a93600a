"""A machine description in the making: which options are left to read, and what they gave so far."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from leviathan.cmdline.keyval import KeyVal, Pair, truth
from leviathan.cmdline.notes import Notes
from leviathan.cmdline.options import CommandLine, Option
from leviathan.errors import UsageError

__all__ = ["Draft", "Item", "amount", "number", "options_of", "root_bus", "switch"]


@dataclass(slots=True)
class Item:
    """An option whose value is a comma list, with its place in the command line."""

    index: int
    option: Option
    fields: KeyVal

    @property
    def kind(self) -> str:
        """The word without a key: a device's driver, an object's type."""
        return self.fields.first or ""

    @property
    def id(self) -> str | None:
        """Its ``id``."""
        return self.fields.get("id")

    def fields_without(self, *keys: str) -> KeyVal:
        """What is left of its fields, without these."""
        fields = self.fields.copy()
        fields.take(*keys)
        return fields

    def __str__(self) -> str:
        return str(self.option)


@dataclass(slots=True)
class Draft:
    """Readers take options from here (``use``) and put fields into ``data``; what nobody takes goes to QEMU."""

    line: CommandLine
    data: dict[str, Any] = field(default_factory=dict)
    notes: Notes = field(default_factory=Notes)
    used: set[int] = field(default_factory=set)
    windows: list[Pair] = field(default_factory=list)
    """What ``-machine`` says of CXL windows."""
    cxl_on: bool | None = None
    """``-machine cxl=``."""
    extra: list[str] = field(default_factory=list)
    """Words for QEMU that stand for a part of an option."""

    @property
    def arch(self) -> str:
        """Architecture of the guest."""
        return self.line.architecture or "x86_64"

    def options(self, *names: str) -> Iterator[tuple[int, Option]]:
        """Options of these names that are left, in order."""
        for index, option in enumerate(self.line.options):
            if option.name in names and index not in self.used:
                yield index, option

    def items(self, name: str, *, driver_key: str = "driver") -> Iterator[Item]:
        """As ``options``, with the value read as a comma list."""
        for index, option in self.options(name):
            fields = KeyVal.parse(option.value or "")
            if fields.first is None and (driver := fields.take(driver_key)) is not None:
                fields.first = driver
            yield Item(index, option, fields)

    def use(self, index: int) -> None:
        """Marks an option as understood."""
        self.used.add(index)

    def last(self, name: str) -> str | None:
        """Takes every occurrence of an option; the value of the last one, as QEMU does."""
        value = None
        for index, option in self.options(name):
            value = option.value
            self.use(index)
        return value

    def flag(self, name: str) -> bool:
        """Takes a switch."""
        found = [index for index, _ in self.options(name)]
        self.used.update(found)
        return bool(found)

    def rest(self) -> list[str]:
        """Words of what nobody took, in place."""
        return [*self.extra, *(word for option in self.rest_options() for word in option.words)]

    def rest_options(self) -> list[Option]:
        """What nobody took."""
        return [option for index, option in enumerate(self.line.options) if index not in self.used]


def root_bus(machine_type: str) -> str:
    """The PCI bus of a machine that devices sit on unless something says otherwise."""
    return "pci.0" if machine_type == "pc" else "pcie.0"


def options_of(fields: KeyVal) -> dict[str, bool | int | str]:
    """What is left of a comma list as a table of free properties; for repeated keys the last one counts."""
    table: dict[str, bool | int | str] = {}
    for pair in fields.pairs:
        key, value = pair.key, "on" if pair.value is None else pair.value
        if pair.value is None and key.startswith("no") and len(key) > 2:
            key, value = key[2:], "off"
        table[key] = True if value == "on" else False if value == "off" else _plain_number(value)
    return table


def _plain_number(value: str) -> int | str:
    # Only what is written back the same way.
    return int(value) if value.isascii() and value.isdecimal() and str(int(value)) == value else value


def number(what: str, text: str) -> int:
    """A number as QEMU reads it: decimal, 0x… or 0…. Raises ``UsageError``."""
    try:
        return int(text, 0)
    except ValueError:
        pass
    try:
        return int(text, 8 if text.startswith("0") else 10)
    except ValueError:
        raise UsageError(f"{what}: {text} is not a number") from None


def switch(what: str, text: str) -> bool:
    """A switch's value. Raises ``UsageError``."""
    value = truth(text)
    if value is None:
        raise UsageError(f"{what}: {text} is neither on nor off")
    return value


def amount(what: str, text: str, unit: int = 1) -> int:
    """Bytes; a number without a suffix counts in ``unit`` bytes. Raises ``UsageError``."""
    factors = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
    digits, factor = text, unit
    if text[-1:].lower() in factors and not text.lower().startswith("0x"):
        digits, factor = text[:-1], factors[text[-1].lower()]
    try:
        value = float(digits) if "." in digits else float(int(digits, 0))
    except ValueError:
        wrong = "GB" if text.upper().endswith("GB") else "MB" if text.upper().endswith("MB") else ""
        hint = (
            f"QEMU's units are single letters: {text[:-1]}"
            if wrong
            else "write a number and a unit, such as 512M or 4G"
        )
        raise UsageError(f"{what}: {text!r} is not a size", hint=hint) from None
    if value < 0:
        raise UsageError(f"{what}: {text!r} is negative")
    return round(value * factor)
