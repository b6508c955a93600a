"""Serial numbers: the only stable name of a device, as memN changes from boot to boot."""

from __future__ import annotations

from collections.abc import Iterator

from leviathan.rules.finding import Finding, error
from leviathan.rules.subject import Subject

__all__ = ["serial_numbers"]


def serial_numbers(subject: Subject) -> Iterator[Finding]:
    """Without one (0), kernel 7.2 makes regions but no namespaces: ``invalid or missing serial number``."""
    seen: dict[int, str] = {}
    numbered = [(f"cxl.memory.{number}", device.serial) for number, device in enumerate(subject.cxl.memory)]
    numbered += [(f"cxl.switches.{number}", switch.serial) for number, switch in enumerate(subject.cxl.switches)]
    for path, serial in numbered:
        if serial is None:
            continue
        if serial == 0:
            problem = "0 means none; newer kernels then give persistent memory no namespaces"
            yield error("serial", f"{path}.serial", problem, "use 1 or more, or leave it out")
        elif serial in seen:
            problem = f"{serial:#x} is already that of {seen[serial]}; the guest could not tell them apart"
            yield error("serial", f"{path}.serial", problem, "leave it out to have the next free one")
        seen.setdefault(serial, path)
