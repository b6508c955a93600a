"""What stands in ``qemu_args``, which is handed to QEMU as it is, after everything that the description says."""

from __future__ import annotations

from collections.abc import Iterator

from leviathan.rules.finding import Finding, error, warning
from leviathan.rules.subject import Subject

__all__ = ["arguments_with_fields", "pinned_pages", "window_arguments"]

FIELDS = {
    "enable-kvm": "accel",
    "accel": "accel",
    "cpu": "cpu",
    "smp": "cpus",
    "m": "memory",
    "kernel": "kernel",
    "initrd": "initrd",
    "append": "append",
    "bios": "firmware",
    "vnc": "display.vnc",
    "display": "display.window",
    "name": "name",
    "no-acpi": "acpi",
}
"""Arguments by which a description says something else than its fields."""
PINNING = ("vfio-", "vhost-", "ivshmem-")
"""Devices by which somebody else than QEMU reads and writes guest memory."""


def _options(subject: Subject) -> Iterator[tuple[int, str, str]]:
    """Position, name without dashes, and value (empty: none) of each option."""
    words = subject.machine.qemu_args
    for number, word in enumerate(words):
        if word.startswith("-") and len(word) > 1:
            value = words[number + 1] if number + 1 < len(words) and not words[number + 1].startswith("-") else ""
            yield number, word.lstrip("-"), value


def arguments_with_fields(subject: Subject) -> Iterator[Finding]:
    """QEMU takes the last one, or refuses both: the description and what runs differ."""
    for number, name, _ in _options(subject):
        if name in FIELDS:
            problem = f"-{name} overrules what the description says, or is refused by QEMU"
            yield warning("arguments", f"qemu_args.{number}", problem, f"write it as {FIELDS[name]}")


def window_arguments(subject: Subject) -> Iterator[Finding]:
    """QEMU: ``Parameters 'cxl-fmw.*' used inconsistently``; the old option is gone since 7.1."""
    for number, name, value in _options(subject):
        field = f"qemu_args.{number}"
        if name == "cxl-fixed-memory-window":
            problem = "QEMU has no such option any more (7.1 removed it)"
            yield error("window-arguments", field, problem, "describe the window under cxl.windows")
        elif name in ("M", "machine") and "cxl-fmw" in value and subject.windows:
            problem = "QEMU takes the keys of all windows together or not at all"
            yield error("window-arguments", field, problem, "describe all windows under cxl.windows")
        elif name == "device" and value.startswith("cxl-type3") and subject.machine.cxl is None:
            problem = "a CXL device without a machine with CXL (QEMU: CXL host bridges present, but cxl=off)"
            yield error("window-arguments", field, problem, "describe it under cxl.memory")


def pinned_pages(subject: Subject) -> Iterator[Finding]:
    """Memory that is pinned, or shared with other programs, cannot be kept coherent over nodes."""
    if subject.given.stock:
        return
    remedy = "leave it out, or use nodes = 0"
    for number, name, value in _options(subject):
        driver = value.split(",")[0]
        if name == "device" and driver.startswith(PINNING):
            problem = f"{driver} reads and writes guest memory behind the nodes' backs"
            yield error("pinned-pages", f"qemu_args.{number}", problem, remedy)
        elif name == "netdev" and "vhost=on" in value.split(","):
            problem = "vhost reads and writes guest memory behind the nodes' backs"
            yield error("pinned-pages", f"qemu_args.{number}", problem, "leave vhost=on out, or use nodes = 0")
    for number, network in enumerate(subject.machine.networks):
        if network.backend_options.get("vhost") in (True, "on"):
            problem = "vhost reads and writes guest memory behind the nodes' backs"
            yield error("pinned-pages", f"networks.{number}.backend_options.vhost", problem, remedy)
    for number, disk in enumerate(subject.machine.disks):
        for option, values in (
            ("cache", ("none", "directsync")),
            ("aio", ("native", "io_uring")),
            ("cache.direct", (True, "on")),
        ):
            if disk.drive_options.get(option) in values:
                problem = "direct access to the image pins guest memory, which then cannot move between nodes"
                yield error("pinned-pages", f"disks.{number}.drive_options.{option}", problem, remedy)
