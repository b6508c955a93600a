"""GiantVM's options: ``-local-cpu [cpus=]N,start=S,iplist="ADDRESS ADDRESS …"``.

Each node of a GiantVM has its own command. ``-smp`` and ``-m`` state the whole machine in all of them; N is the number
of CPUs of each node (equal on all), S the node's first CPU, and the list has one address a node, the head's first.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from leviathan.cmdline.keyval import KeyVal
from leviathan.errors import UsageError
from leviathan.model.machine import MAX_NODES

__all__ = ["Part", "agree", "read_part"]

EXAMPLE = '-local-cpu 2,start=0,iplist="10.0.0.1 10.0.0.2"'


@dataclass(frozen=True, slots=True)
class Part:
    """One node's part of a giant VM."""

    cpus: int
    """Of this node, as of every other."""
    start: int
    """Its first CPU."""
    addresses: tuple[str, ...]
    """Of all nodes, the head's first."""

    @property
    def node(self) -> int:
        """This node's number; 0 is the head."""
        return self.start // self.cpus

    @property
    def nodes(self) -> int:
        """How many there are."""
        return len(self.addresses)

    @property
    def total_cpus(self) -> int:
        """CPUs of the whole machine."""
        return self.cpus * self.nodes

    @property
    def one_host(self) -> bool:
        """All nodes are on one machine."""
        return len(set(self.addresses)) == 1

    @property
    def loopback(self) -> bool:
        """All addresses are this machine's own."""
        return all(ipaddress.ip_address(address).is_loopback for address in self.addresses)

    def __str__(self) -> str:
        last = self.start + self.cpus - 1
        return f"CPUs {self.start} to {last}" if self.cpus > 1 else f"CPU {self.start}"


def read_part(value: str, smp: int | None) -> Part:
    """Reads the value of ``-local-cpu`` beside the machine's ``-smp``. Raises ``UsageError``."""
    option = f"-local-cpu {value}"
    fields = KeyVal.parse(value)
    first = fields.first if fields.first is not None else fields.take("cpus")
    cpus = _number(option, "the number of CPUs", first)
    start = _number(option, "start=", fields.take("start"))
    addresses = _addresses(option, fields.take("iplist"))
    if fields.pairs:
        raise UsageError(
            f"{option}: {fields.pairs[0].key} is not a field of -local-cpu", hint=f"it has three: {EXAMPLE}"
        )
    if cpus < 1:
        raise UsageError(f"{option}: a node runs at least one CPU", hint=f"for example {EXAMPLE}")
    part = Part(cpus, start, addresses)
    if part.nodes > MAX_NODES:
        raise UsageError(f"{option}: {part.nodes} nodes; there can be {MAX_NODES}")
    if start % cpus:
        raise UsageError(
            f"{option}: with {cpus} CPUs a node, start is a multiple of {cpus}, not {start}",
            hint=f"the nodes' starts are {', '.join(str(node * cpus) for node in range(part.nodes))}",
        )
    if part.node >= part.nodes:
        raise UsageError(
            f"{option}: start={start} is node {part.node}, but iplist has {part.nodes} "
            f"address{'es' if part.nodes > 1 else ''}",
            hint="iplist has one address for each node, the head's first; nodes on one machine repeat its address",
        )
    if smp is not None and smp != part.total_cpus:
        raise UsageError(
            f"-smp {smp}, but {part.nodes} nodes with {cpus} CPUs each make {part.total_cpus}",
            hint=f"-smp states the whole machine: write -smp {part.total_cpus}, or another number in -local-cpu",
        )
    return part


def agree(parts: Sequence[tuple[str, Part, int]]) -> None:
    """Checks that commands are parts of one machine: each with its name, part and memory (bytes of ``-m``).

    Raises ``UsageError`` that names both sides.
    """
    from leviathan.model.sizes import format_size

    first_name, first, memory = parts[0]
    seen: dict[int, str] = {}
    for name, part, size in parts:
        if size != memory:
            raise UsageError(
                f"-m does not agree: {format_size(memory)} in {first_name}, {format_size(size)} in {name}",
                hint="-m states the memory of the whole machine, the same in every node's command",
            )
        if part.cpus != first.cpus or part.addresses != first.addresses:
            raise UsageError(
                f'-local-cpu does not agree: {first.cpus} CPUs a node and iplist "{" ".join(first.addresses)}" in '
                f'{first_name}, {part.cpus} and "{" ".join(part.addresses)}" in {name}',
                hint="only start= differs between the nodes of one machine",
            )
        if part.node in seen:
            raise UsageError(
                f"two commands are node {part.node} (start={part.start}): {seen[part.node]} and {name}",
                hint=f"the nodes' starts are {', '.join(str(node * part.cpus) for node in range(part.nodes))}",
            )
        seen[part.node] = name


def _number(option: str, what: str, text: str | None) -> int:
    if text is None:
        raise UsageError(f"{option}: {what} is missing", hint=f"for example {EXAMPLE}")
    if not (text.isascii() and text.isdecimal()):
        raise UsageError(f"{option}: {what} {text} is not a number".replace("= ", "="), hint=f"for example {EXAMPLE}")
    return int(text)


def _addresses(option: str, text: str | None) -> tuple[str, ...]:
    words = (text or "").replace('"', " ").replace("'", " ").split()
    if not words:
        raise UsageError(f"{option}: iplist= is missing", hint=f"for example {EXAMPLE}")
    for word in words:
        try:
            ipaddress.IPv4Address(word)
        except ValueError:
            raise UsageError(
                f"{option}: {word} is not an IPv4 address", hint="names are not looked up: write 10.0.0.1, say"
            ) from None
    return tuple(words)
