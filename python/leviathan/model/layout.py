"""Which vCPUs and which guest physical addresses belong to which node.

QEMU's q35 machine puts memory below and above the PCI hole: with less than 0xb0000000 bytes all of it lies below 4 GiB;
with more, 0x80000000 bytes lie below and the rest starts at 4 GiB (``pc_q35_init``; the same from QEMU 2.x to 11).
NUMA nodes take consecutive parts of the whole.
"""

from __future__ import annotations

from dataclasses import dataclass

from leviathan.model.machine import Machine
from leviathan.model.sizes import GIB

__all__ = ["HomeRange", "homes", "low_memory", "vcpus"]

HOLE_THRESHOLD = 0xB000_0000
LOW_WITH_HOLE = 0x8000_0000
HIGH_START = 4 * GIB


@dataclass(frozen=True, slots=True)
class HomeRange:
    """Guest physical range ``[gpa, gpa + len)`` is at home on ``node``."""

    gpa: int
    len: int
    node: int


def low_memory(memory: int) -> int:
    """Bytes of guest memory that q35 maps below 4 GiB."""
    return memory if memory < HOLE_THRESHOLD else LOW_WITH_HOLE


def vcpus(machine: Machine) -> list[range]:
    """vCPU numbers of every node, consecutive, the head first."""
    result, first = [], 0
    for share in machine.shares():
        result.append(range(first, first + share.cpus))
        first += share.cpus
    return result


def homes(machine: Machine) -> list[HomeRange]:
    """Homes of all guest memory in ascending order of address."""
    low = low_memory(machine.memory)
    ranges, offset = [], 0
    for node, share in enumerate(machine.shares()):
        below = min(max(low - offset, 0), share.memory)
        if below:
            ranges.append(HomeRange(offset, below, node))
        if share.memory > below:
            start = offset + below
            ranges.append(HomeRange(HIGH_START + start - low, share.memory - below, node))
        offset += share.memory
    return ranges
