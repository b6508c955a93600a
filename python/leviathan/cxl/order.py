"""Which window an interleave set needs, and in which order its devices have to be named.

Position ``i`` of a region lies below target ``i mod N`` of a window with ``N`` targets, and so on down the tree: each
port gives its positions to its own children in turn (Linux, drivers/cxl/core/region.c, ``cxl_port_setup_targets``). The
tool of the guest takes devices in the order in which they are named and its kernel refuses any other
(``failed to set target``); its automatic choice fails over two bridges. Names like ``mem0`` change from boot to boot.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from leviathan.cxl.topology import Memdev, Port, Topology, Window
from leviathan.errors import UsageError
from leviathan.model.sizes import format_size

__all__ = ["WAYS", "Plan", "plan_region"]

WAYS = (1, 2, 3, 4, 6, 8, 12, 16)
UNIT = 256 << 20
"""Each device gives a multiple of this (CXL 3.1, 8.2.4.20)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A region that can be made."""

    window: Window
    kind: str
    """``pmem`` or ``ram``."""
    devices: tuple[Memdev, ...]
    """In the order of their positions."""
    size: int
    """Bytes."""
    granularity: int | None

    def arguments(self) -> list[str]:
        """The command in the guest."""
        argv = ["cxl", "create-region", "-m", "-d", self.window.decoder, "-w", str(len(self.devices))]
        argv += ["-t", self.kind, "-s", str(self.size)]
        if self.granularity is not None:
            argv += ["-g", str(self.granularity)]
        return [*argv, *(device.name for device in self.devices)]


def plan_region(
    topology: Topology,
    devices: Sequence[Memdev],
    *,
    kind: str | None = None,
    window: str | None = None,
    size: int | None = None,
    granularity: int | None = None,
) -> Plan:
    """The region over some devices, named in any order. Raises ``UsageError`` with what is in the way."""
    if not devices:
        raise UsageError("a region needs memory devices", hint="name them as `lev cxl list` shows them, or --all")
    if len({device.name for device in devices}) != len(devices):
        raise UsageError("a device is named twice")
    if len(devices) not in WAYS:
        ways = ", ".join(map(str, WAYS))
        raise UsageError(f"a region over {len(devices)} devices: CXL interleaves over {ways}")
    for device in devices:
        if not device.enabled:
            raise UsageError(
                f"{device.label} has no path to a host bridge", hint="it must be below a root port of a CXL host bridge"
            )
    kind = kind or _kind(devices)
    each = _capacity(topology, devices, kind, size)
    chosen = _window(topology, devices, kind, each * len(devices), window)
    if granularity is not None and len(chosen.targets) > 1 and granularity != chosen.granularity:
        raise UsageError(
            f"granularity {granularity}: window {chosen.decoder} goes to its bridges in turn every "
            f"{chosen.granularity} bytes, and so must its regions",
            hint="leave it out, or give the window another one in the machine's description",
        )
    names = {device.name for device in devices}
    below = [_positions(_bridge(topology, target), names) for target in chosen.targets]
    return Plan(chosen, kind, tuple(_in_turn(below)), each * len(devices), granularity)


def _kind(devices: Sequence[Memdev]) -> str:
    if all(device.pmem for device in devices):
        return "pmem"
    if all(device.ram for device in devices):
        return "ram"
    persistent = ", ".join(device.label for device in devices if device.pmem)
    raise UsageError(
        f"persistent ({persistent}) and volatile devices do not make one region",
        hint="name the devices, or say --type pmem or --type ram",
    )


def _capacity(topology: Topology, devices: Sequence[Memdev], kind: str, size: int | None) -> int:
    """Bytes of each device."""
    for device in devices:
        if not (device.pmem if kind == "pmem" else device.ram):
            raise UsageError(f"{device.label} has no {'persistent' if kind == 'pmem' else 'volatile'} memory")
        taken = [region.name for region in topology.region_of(device) if region.kind == kind]
        if taken and size is None:
            raise UsageError(
                f"{device.label} is part of {', '.join(taken)}",
                hint=f"destroy it first, or give a --size that its rest holds: lev cxl destroy-region VM {taken[0]}",
            )
    least = min(device.pmem if kind == "pmem" else device.ram for device in devices)
    if size is None:
        return least // UNIT * UNIT
    if size % (UNIT * len(devices)):
        raise UsageError(
            f"a size of {format_size(size)} over {len(devices)} devices: each gives a multiple of 256M",
            hint=f"--size {format_size(max(size // (UNIT * len(devices)), 1) * UNIT * len(devices))}",
        )
    if size // len(devices) > least:
        raise UsageError(f"a size of {format_size(size)}: the devices have {format_size(least * len(devices))}")
    return size // len(devices)


def _window(topology: Topology, devices: Sequence[Memdev], kind: str, size: int, wanted: str | None) -> Window:
    names = {device.name for device in devices}
    shares = {
        bridge.host: count
        for bridge in topology.bridges
        if (count := len(names & {memdev.name for memdev in bridge.memdevs()}))
    }
    labels = {bridge.host: bridge.label for bridge in topology.bridges}
    refused: list[str] = []
    for window in topology.windows:
        if wanted is not None and wanted != window.decoder:
            continue
        why = _unfit(window, shares, kind, size, labels)
        if why is None:
            return window
        refused.append(f"{window.decoder} {why}")
    if wanted is not None and not refused:
        windows = ", ".join(window.decoder for window in topology.windows)
        raise UsageError(f"there is no window {wanted}", hint=f"the guest has {windows or 'none'}")
    where = ", ".join(f"{count} below {labels[host]}" for host, count in shares.items())
    raise UsageError(
        f"no window fits a {kind} region of {format_size(size)} with {where}: {'; '.join(refused) or 'there is none'}",
        hint="windows are part of the machine's description: [[cxl.windows]] with these bridges as targets",
    )


def _unfit(window: Window, shares: dict[str, int], kind: str, size: int, labels: dict[str, str]) -> str | None:
    """Why a window cannot hold the region."""
    if set(window.targets) != set(shares):
        return f"goes to {' and '.join(labels.get(target, target) for target in window.targets)}"
    if len(set(shares.values())) > 1:
        return "needs the same number of devices below each of its bridges"
    if not (window.pmem if kind == "pmem" else window.ram):
        return f"takes no {kind} regions"
    if window.free < size:
        return f"has {format_size(window.free)} free"
    return None


def _bridge(topology: Topology, host: str) -> Port:
    return next(bridge for bridge in topology.bridges if bridge.host == host)


def _positions(port: Port, names: Collection[str]) -> list[Memdev]:
    """The devices below a port in the order of their positions."""
    below: list[list[Memdev]] = []
    for slot in port.slots:
        if isinstance(slot.child, Memdev):
            below.append([slot.child] if slot.child.name in names else [])
        elif slot.child is not None:
            below.append(_positions(slot.child, names))
    used = [each for each in below if each]
    if len({len(each) for each in used}) > 1:
        raise UsageError(
            f"below {port.label} the ports in use have {', '.join(str(len(each)) for each in used)} of the devices: "
            "each needs the same number"
        )
    return _in_turn(used)


def _in_turn(lists: Sequence[Sequence[Memdev]]) -> list[Memdev]:
    return [each for turn in zip(*lists, strict=True) for each in turn]
