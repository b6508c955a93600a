"""Failures on purpose: poison, events and errors that a CXL device reports, through QEMU's monitor."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from leviathan.cxl.guest import CxlGuest, find_memdev
from leviathan.cxl.names import PERIPHERAL
from leviathan.cxl.schema import Schema, require
from leviathan.cxl.topology import Memdev, Topology
from leviathan.errors import LeviathanError, UsageError

__all__ = ["EVENTS", "clear_poison", "device_path", "inject_event", "inject_poison", "qemu_schema", "qemu_version"]

UNIT = 64
"""Poison is recorded by cache line."""
TRACE = "/sys/kernel/tracing/instances/leviathan"
SETTLE_SECONDS = 10.0
POLL_SECONDS = 0.5

EVENTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "general-media": (
        "cxl-inject-general-media-event",
        {"log": "informational", "flags": 1, "dpa": 0, "descriptor": 1, "type": 0, "transaction-type": 1},
    ),
    "dram": (
        "cxl-inject-dram-event",
        {"log": "fatal", "flags": 1, "dpa": 0, "descriptor": 1, "type": 0, "transaction-type": 1, "cvme-count": 1},
    ),
    "memory-module": (
        "cxl-inject-memory-module-event",
        {
            "log": "warning",
            "flags": 1,
            "type": 3,
            "health-status": 1,
            "media-status": 1,
            "additional-status": 0,
            "life-used": 30,
            "temperature": 45,
            "dirty-shutdown-count": 0,
            "corrected-volatile-error-count": 0,
            "corrected-persistent-error-count": 0,
        },
    ),
    "correctable": ("cxl-inject-correctable-error", {"type": "physical"}),
    "uncorrectable": (
        "cxl-inject-uncorrectable-errors",
        {"errors": [{"type": "cache-address-parity", "header": [0] * 32}]},
    ),
}
"""By the name of the kind: the monitor's command, and arguments for those that are not given.

Not any numbers: Linux warns of types 1 and more in ways that depend on counts (it tests bits of them).
"""
TRACED = ("general-media", "dram", "memory-module")
"""Kinds that the guest's kernel shows as trace events."""


def qemu_schema(guest: CxlGuest) -> Schema:
    """What the running QEMU's monitor offers."""
    return Schema(guest.machine.qmp("query-qmp-schema"))


def qemu_version(guest: CxlGuest) -> str:
    """Its version, such as ``7.2.22``."""
    version = guest.machine.qmp("query-version")["qemu"]
    return f"{version['major']}.{version['minor']}.{version['micro']}"


def device_path(memdev: Memdev) -> str:
    """Where QEMU keeps a device. Raises ``UsageError`` for one without a name."""
    if memdev.id is None:
        raise UsageError(f"{memdev.label} has no name in QEMU", hint="give it one: id= on QEMU's command line")
    return f"{PERIPHERAL}/{memdev.id}"


def inject_poison(guest: CxlGuest, device: str, offset: int, length: int) -> Topology:
    """Poisons a range of a device, bytes of its own addresses; returns once the guest lists it.

    Raises ``UsageError``, and ``LeviathanError`` if the guest does not list it.
    """
    for name, value in (("--offset", offset), ("--length", length)):
        if value % UNIT or value < 0 or (name == "--length" and value == 0):
            raise UsageError(f"{name} {value}: a multiple of {UNIT} bytes")
    require(qemu_schema(guest), "cxl-inject-poison", qemu_version(guest))
    memdev = find_memdev(device, guest.topology())
    capacity = memdev.pmem + memdev.ram
    if offset + length > capacity:
        raise UsageError(f"{offset} + {length} lies beyond {memdev.label}, which has {capacity} bytes")
    arguments = {"path": device_path(memdev), "start": offset, "length": length}
    guest.machine.qmp("cxl-inject-poison", arguments=arguments)
    end = time.monotonic() + SETTLE_SECONDS
    while True:
        topology = guest.topology()
        errors = find_memdev(device, topology).media_errors
        if any(at <= offset < at + size for at, size, _ in errors):
            return topology
        if time.monotonic() >= end:
            raise LeviathanError(
                f"{memdev.label} is poisoned, but the guest does not list it",
                hint="its kernel must be 6.4 or newer, its cxl tool 81 or newer",
            )
        time.sleep(POLL_SECONDS)


def clear_poison(guest: CxlGuest, device: str, offset: int, length: int) -> None:
    """Clears poison from the guest's side (debugfs of its kernel), line by line."""
    memdev = find_memdev(device, guest.topology())
    path = f"/sys/kernel/debug/cxl/{memdev.name}/clear_poison"
    if guest.run(f"test -e {path}").exit_code != 0:
        raise UsageError("the guest's kernel cannot clear poison", hint=f"it has no {path}")
    lines = range(offset, offset + length, UNIT)
    guest.tool(["sh", "-c", "".join(f"echo {line:#x} > {path} && " for line in lines) + "true"])


def inject_event(guest: CxlGuest, device: str, kind: str, given: Mapping[str, Any]) -> list[str]:
    """Makes a device report an event; returns the guest's trace lines of it (none for errors, which go by AER).

    ``given`` are arguments by QEMU's names; the rest gets values that kernels accept. Raises ``UsageError``.
    """
    if kind not in EVENTS:
        raise UsageError(f"there is no event {kind}", hint=f"there are {', '.join(EVENTS)}")
    command, defaults = EVENTS[kind]
    schema = qemu_schema(guest)
    require(schema, command, qemu_version(guest))
    members = schema.members(command)
    unknown = [name for name in given if name not in members or name == "path"]
    if unknown:
        names = ", ".join(name for name in members if name != "path")
        raise UsageError(f"an event {kind} has no {unknown[0]}", hint=f"it has {names}")
    memdev = find_memdev(device, guest.topology())
    arguments = {"path": device_path(memdev)} | {n: v for n, v in defaults.items() if n in members} | dict(given)
    # 11.1 made sub-type mandatory; what else a newer QEMU wants is a number as well, by the look of it.
    for name, optional in members.items():
        if not optional and name not in arguments:
            arguments[name] = 0
    traced = kind in TRACED
    before = _trace(guest, switch_on=True) if traced else []
    guest.machine.qmp(command, arguments=arguments)
    end = time.monotonic() + (SETTLE_SECONDS if traced else 0)
    while traced:
        lines = [line for line in _trace(guest) if line not in before]
        if lines or time.monotonic() >= end:
            return lines
        time.sleep(POLL_SECONDS)
    return []


def _trace(guest: CxlGuest, *, switch_on: bool = False) -> list[str]:
    """The kernel's CXL trace events so far, in an instance of our own: the user's tracing stays as it is."""
    on = (
        f"[ -d /sys/kernel/tracing/events ] || mount -t tracefs tracefs /sys/kernel/tracing; mkdir -p {TRACE}; "
        f"echo > {TRACE}/trace; echo 1 > {TRACE}/events/cxl/enable; "
    )
    done = guest.run((on if switch_on else "") + f"grep -v '^#' {TRACE}/trace")
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]
