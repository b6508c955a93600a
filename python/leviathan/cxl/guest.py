"""A running VM as far as CXL goes: its guest's tools, QEMU's monitor, and the topology as both tell it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any, Protocol

from leviathan.cxl.names import read_names
from leviathan.cxl.parse import GuestToolError, Names, parse_topology
from leviathan.cxl.topology import Memdev, Region, Topology
from leviathan.errors import UsageError
from leviathan.named.client import Finished

__all__ = ["CxlGuest", "Machine"]

SECONDS = 120.0
"""For one command in the guest: slow where memory is emulated."""

# One command for all: each takes a round trip, and CPU time in the guest.
# Poison is asked for by hand: `cxl list -L` reads all symbols of the kernel for each device, minutes under emulation.
_LOOK = """
command -v cxl > /dev/null || { echo "no cxl" >&2; exit 127; }
echo '@@ cxl'; cxl list -BDEMPRTX -i
echo '@@ ndctl'; [ ! -d /sys/bus/nd/devices/ndbus0 ] || ndctl list -BNRD -i
echo '@@ mounts'; grep '^/dev/pmem' /proc/mounts
echo '@@ nodes'
for node in /sys/devices/system/node/node[0-9]*; do
    awk -v cpus="$(cat "$node/cpulist")" '$3 == "MemTotal:" { print $2, $4, cpus }' "$node/meminfo"
done
echo '@@ paths'; for memdev in /sys/bus/cxl/devices/mem*; do readlink -f "$memdev"; done
echo '@@ poison'
trace=/sys/kernel/tracing/instances/leviathan
[ -d /sys/kernel/tracing/events ] || mount -t tracefs tracefs /sys/kernel/tracing
[ -d /sys/kernel/tracing/events/cxl/cxl_poison ] || exit 0
mkdir -p $trace && echo 0 > $trace/events/enable && echo 1 > $trace/events/cxl/cxl_poison/enable || exit 0
echo > $trace/trace
for memdev in /sys/bus/cxl/devices/mem*; do
    [ ! -e "$memdev/trigger_poison_list" ] || echo 1 > "$memdev/trigger_poison_list"
done
grep -v '^#' $trace/trace
exit 0
"""


class Machine(Protocol):
    """What is needed of a VM; ``leviathan.named.client.Client`` is one."""

    name: str

    def run(self, command: str, *, timeout: float | None = None) -> Finished:
        """A shell command in the guest."""

    def qmp(self, command: str, *, then: dict[str, Any] | None = None, **arguments: Any) -> Any:
        """A command of QEMU's monitor."""


class CxlGuest:
    """CXL of one running VM."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def run(self, command: str, *, timeout: float = SECONDS) -> Finished:
        """A shell command in the guest, whatever it ends with."""
        return self.machine.run(command, timeout=timeout)

    def tool(self, argv: Sequence[str], *, timeout: float = SECONDS) -> str:
        """Runs a tool; returns what it printed. Raises ``GuestToolError`` with its complaint if it failed."""
        line = shlex.join(argv)
        done = self.run(line, timeout=timeout)
        if done.exit_code != 0:
            message, hint = explain(line, done)
            raise GuestToolError(message, hint=hint)
        return done.stdout

    def names(self) -> Names:
        """QEMU's names."""
        return read_names(lambda command, **arguments: self.machine.qmp(command, arguments=arguments))

    def topology(self) -> Topology:
        """How things are now. Raises a ``LeviathanError``."""
        done = self.run(_LOOK)
        if "no cxl" in done.stderr and "@@ cxl" not in done.stdout:
            raise GuestToolError(
                f"the guest of {self.machine.name} has no program cxl",
                hint="machines described with [cxl] get the tools; in a guest of your own install cxl and ndctl",
            )
        parts = _sections(done.stdout)
        names = self.names()
        cxl, ndctl, mounts, nodes = (parts[name] for name in ("cxl", "ndctl", "mounts", "nodes"))
        return parse_topology(cxl, ndctl, mounts, nodes, names, poison=parts["poison"], paths=parts["paths"])

    def memdevs(self, wanted: Sequence[str], topology: Topology) -> list[Memdev]:
        """Devices by QEMU's name, serial number, or the guest's name. Raises ``UsageError``."""
        return [find_memdev(word, topology) for word in wanted]

    def region(self, name: str, topology: Topology) -> Region:
        """A region by name. Raises ``UsageError``."""
        for region in topology.regions:
            if region.name == name:
                return region
        there = ", ".join(region.name for region in topology.regions)
        raise UsageError(f"there is no region {name}", hint=f"the guest has {there or 'none'}")

    def commands(self) -> frozenset[str]:
        """What QEMU's monitor knows."""
        return frozenset(str(item["name"]) for item in self.machine.qmp("query-commands"))


def find_memdev(word: str, topology: Topology) -> Memdev:
    """A memory device by what a user may call it. Raises ``UsageError`` naming those there are."""
    for memdev in topology.memdevs():
        if word in (memdev.id, memdev.name) or _serial(word) == memdev.serial:
            return memdev
    there = ", ".join(memdev.label for memdev in topology.memdevs())
    raise UsageError(f"there is no memory device {word}", hint=f"the guest has {there or 'none'}")


def _serial(word: str) -> int | None:
    try:
        return int(word, 0)
    except ValueError:
        return None


def _sections(text: str) -> dict[str, str]:
    parts = re.split(r"^@@ (\w+)\n", text, flags=re.MULTILINE)
    found = {"cxl": "", "ndctl": "", "mounts": "", "nodes": "", "poison": "", "paths": ""}
    return found | dict(zip(parts[1::2], parts[2::2], strict=False))


_REASONS = (
    (
        "failed to commit decode: No such device or address",
        "the kernel cannot flush CPU caches, because the CPU shows that it is a guest's: hypervisor = false for [cpu]",
    ),
    ("failed to set target", "the bridge's decoders are taken: hdm_for_passthrough = true, or more root ports"),
    (
        "Failed to offline",
        "the kernel keeps data of its own in it; `lev cxl create-region --as system-ram` keeps those out",
    ),
    ("no available decoders", "all decoders on the way are taken: destroy a region"),
)
"""What the tools say, and what it means."""


def explain(line: str, done: Finished) -> tuple[str, str | None]:
    """A failed tool's message, and a hint where its words are known."""
    said = [text for text in (done.stderr + done.stdout).splitlines() if text.strip()]
    hint = next((reason for words, reason in _REASONS if words in done.stderr), None)
    return f"`{line}` failed in the guest ({done.exit_code}): {' / '.join(said[-4:]) or 'no word'}", hint
