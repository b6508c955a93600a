"""Fixed memory windows: targets, ways, granularity, size, and whether everything behind them fits."""

from __future__ import annotations

from collections.abc import Iterator

from leviathan.model.sizes import GIB, KIB, MIB, format_size
from leviathan.rules.finding import Finding, error, warning
from leviathan.rules.subject import Subject

__all__ = [
    "address_space",
    "balance",
    "capacity",
    "granularity",
    "no_window",
    "targets",
    "ways",
    "window_sizes",
]

UNIT = 256 * MIB
WAYS = (1, 2, 3, 4, 6, 8, 12, 16)
GRANULARITIES = tuple(256 << shift for shift in range(7))
TCG_PHYS_BITS = 40
"""Of QEMU's x86 CPU models unless ``phys-bits`` says otherwise."""


def no_window(subject: Subject) -> Iterator[Finding]:
    """Without a window the guest has memory devices, but no addresses for them."""
    if subject.cxl.memory and not subject.windows:
        problem = "no window leads to the devices: the guest lists them and can use none"
        yield error("no-window", "cxl.windows", problem, "leave it out to have one for each host bridge")
        return
    reached = {target for window in subject.windows for target in window.targets}
    if not reached <= {bridge.name for bridge in subject.bridges}:
        # A misspelt target is the cause, and is told as such.
        return
    for number, device in enumerate(subject.cxl.memory):
        bridge = subject.bridge_of(device)
        if bridge is not None and subject.windows and bridge.name not in reached:
            problem = f"no window has its host bridge {bridge.name!r} as a target: the memory could not be used"
            yield error("no-window", f"cxl.memory.{number}", problem, f"add {bridge.name!r} to a window's targets")


def targets(subject: Subject) -> Iterator[Finding]:
    """QEMU: ``Could not resolve CXLFM target``; a target listed twice it accepts, the guest does not."""
    bridges = {bridge.name for bridge in subject.bridges}
    remedy = "name one of " + ", ".join(sorted(name for name in bridges if name))
    for number, window in enumerate(subject.windows):
        for index, target in enumerate(window.targets):
            field = f"cxl.windows.{number}.targets.{index}"
            if target in window.targets[:index]:
                problem = f"{target!r} is listed twice; the guest says `set_interleave_ways failed` and makes no region"
                yield error("targets", field, problem, "list each host bridge once")
            elif target in bridges:
                continue
            elif target in subject.root_ports:
                above = subject.root_ports[target].bridge
                problem = f"{target!r} is a root port; windows lead to host bridges"
                yield error("targets", field, problem, f"name its host bridge, {above.name if above else '?'}")
            else:
                yield error("targets", field, f"there is no host bridge {target!r}", remedy)


def ways(subject: Subject) -> Iterator[Finding]:
    """QEMU: ``Interleave ways: 5 not supported``."""
    for number, window in enumerate(subject.windows):
        if window.ways not in WAYS:
            problem = f"interleaving over {window.ways} targets is not possible"
            remedy = "use " + ", ".join(map(str, WAYS[:-1])) + f" or {WAYS[-1]} targets"
            yield error("ways", f"cxl.windows.{number}.targets", problem, remedy)


def granularity(subject: Subject) -> Iterator[Finding]:
    """QEMU: ``Interleave granularity: 300 invalid``."""
    for number, window in enumerate(subject.windows):
        if window.granularity is not None and window.granularity not in GRANULARITIES:
            problem = f"{window.granularity} bytes are no interleave granularity"
            remedy = "use a power of two from 256 to 16K"
            yield error("granularity", f"cxl.windows.{number}.granularity", problem, remedy)


def window_sizes(subject: Subject) -> Iterator[Finding]:
    """QEMU: ``Size of a CXL fixed memory window must be a multiple of 256MiB``."""
    for number, window in enumerate(subject.windows):
        field, size = f"cxl.windows.{number}.size", window.size or 0
        unit = UNIT * window.ways
        if size % UNIT:
            near = -(-size // UNIT) * UNIT
            yield error(
                "window-size", field, f"{format_size(size)} is not a multiple of 256M", f"use {format_size(near)}"
            )
        elif size % unit:
            problem = f"over {window.ways} targets regions are multiples of {format_size(unit)}: the rest is of no use"
            yield warning("window-size", field, problem, f"use {format_size(-(-size // unit) * unit)}")


def capacity(subject: Subject) -> Iterator[Finding]:
    """What does not fit is cut off in silence: 5G behind a window of 4G makes a region of 4G."""
    for names, numbers in _groups(subject):
        room = sum(subject.windows[number].size or 0 for number in numbers)
        held = sum(
            device.capacity
            for device in subject.cxl.memory
            if (bridge := subject.bridge_of(device)) is not None and bridge.name in names
        )
        if held > room:
            fields = ", ".join(f"cxl.windows.{number}" for number in numbers)
            problem = (
                f"the devices behind it hold {format_size(held)}, the window {format_size(room)}: the rest is cut off"
            )
            remedy = f"use at least {format_size(-(-held // UNIT) * UNIT)}, or leave size out"
            yield error("capacity", f"{fields}.size" if len(numbers) == 1 else fields, problem, remedy)


def _groups(subject: Subject) -> list[tuple[set[str], list[int]]]:
    """Windows that share host bridges, with those bridges."""
    groups: list[tuple[set[str], list[int]]] = []
    for number, window in enumerate(subject.windows):
        names, numbers = set(window.targets), [number]
        for group in [group for group in groups if group[0] & names]:
            groups.remove(group)
            names |= group[0]
            numbers = [*group[1], *numbers]
        groups.append((names, numbers))
    return groups


def balance(subject: Subject) -> Iterator[Finding]:
    """A region over an interleaved window takes as many devices, of one size, from each target."""
    for number, window in enumerate(subject.windows):
        if window.ways == 1:
            continue
        counts: dict[str, list[int]] = {target: [] for target in window.targets}
        for device in subject.cxl.memory:
            bridge = subject.bridge_of(device)
            if bridge is not None and bridge.name in counts:
                counts[bridge.name].append(device.capacity)
        sizes = [sorted(held) for held in counts.values()]
        if any(held != sizes[0] for held in sizes):
            shown = ", ".join(
                f"{name}: {' + '.join(map(format_size, held)) if held else 'none'}" for name, held in counts.items()
            )
            problem = f"a region takes as many devices of one size from each target, and they differ ({shown})"
            remedy = "put the same devices behind each target"
            yield warning("balance", f"cxl.windows.{number}.targets", problem, remedy)


def address_space(subject: Subject) -> Iterator[Finding]:
    """QEMU: ``Address space limit 0xffffffffff < 0x4010affffffff phys-bits too low (40)``."""
    given = str(subject.machine.cpu.features.get("phys-bits", ""))
    if given.isdecimal() and int(given):
        bits = int(given)
    elif subject.machine.arch == "x86_64" and subject.accel == "tcg":
        bits = TCG_PHYS_BITS
    else:
        return
    total = sum(window.size or 0 for window in subject.windows)
    memory = max(subject.machine.memory, subject.machine.memory_max or 0)
    # Windows lie above the memory, which goes on above 4 GiB; firmware wants room for PCI above them.
    if total and 4 * GIB + memory + total > 1 << bits:
        problem = f"memory and windows of {format_size(total)} do not fit into the CPU's {bits} address bits"
        remedy = "use smaller windows, or cpu.features.phys-bits = 46"
        yield error("address-space", "cxl.windows", problem, remedy)


assert GRANULARITIES[-1] == 16 * KIB
