"""What a guest's kernel must be configured with, by purpose, and reading and merging configurations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ARCHITECTURES", "Symbol", "merged", "read_config", "unmet", "wanted"]

ARCHITECTURES = ("x86_64", "arm64")
_LINE = re.compile(r"^(?:CONFIG_(\w+)=(.*)|# CONFIG_(\w+) is not set)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Symbol:
    """One symbol that must be on."""

    name: str
    why: str
    """For whom: shown when it cannot be had."""
    needed: bool = True
    """False: taken if this kernel has it; symbols come and go with versions."""
    value: str = "y"


def _all(why: str, names: str, *, needed: bool = True) -> list[Symbol]:
    return [Symbol(name, why, needed) for name in names.split()]


GUEST = [
    *_all("64-bit programs and an initramfs", "64BIT BLK_DEV_INITRD BINFMT_ELF BINFMT_SCRIPT PRINTK TTY MULTIUSER"),
    *_all("C libraries", "FUTEX EPOLL SIGNALFD TIMERFD EVENTFD SHMEM POSIX_TIMERS FILE_LOCKING ADVISE_SYSCALLS AIO"),
    *_all("the guest's init", "PROC_FS SYSFS TMPFS DEVTMPFS UNIX98_PTYS NET UNIX INET"),
    *_all("devices of the virtual machine", "PCI PCI_MSI VIRTIO_MENU VIRTIO_PCI VIRTIO_CONSOLE"),
    *_all("disks and networks", "BLOCK BLK_DEV VIRTIO_BLK NETDEVICES VIRTIO_NET EXT4_FS", needed=False),
    *_all("power-off and more than one CPU", "ACPI SMP", needed=False),
    *_all("loading modules", "MODULES MODULE_UNLOAD", needed=False),
]
BY_ARCHITECTURE = {
    "x86_64": _all("the console", "SERIAL_8250 SERIAL_8250_CONSOLE"),
    "arm64": [
        *_all("the console", "SERIAL_AMBA_PL011 SERIAL_AMBA_PL011_CONSOLE"),
        *_all("ACPI tables, which come by UEFI", "EFI ACPI"),
        *_all("the machine `virt`", "PCI_HOST_GENERIC ARM_PSCI_FW", needed=False),
    ],
}
CXL = [
    *_all("PCI Express ports", "PCIEPORTBUS"),
    *_all("CXL", "ACPI CXL_BUS CXL_PCI CXL_ACPI CXL_PORT CXL_MEM"),
    *_all("CXL regions", "SPARSEMEM_VMEMMAP MEMORY_HOTPLUG MEMORY_HOTREMOVE ZONE_DEVICE CXL_REGION"),
    *_all("persistent CXL memory", "LIBNVDIMM CXL_PMEM BLK_DEV_PMEM NVDIMM_PFN NVDIMM_DAX"),
    *_all("namespaces without a block device", "TRANSPARENT_HUGEPAGE DAX DEV_DAX DEV_DAX_PMEM"),
    *_all("file systems without a page cache", "FS_DAX", needed=False),
    *_all("memory as a NUMA node", "NUMA DEV_DAX_KMEM"),
    *_all("volatile CXL memory (Linux 6.3)", "DEV_DAX_CXL DEV_DAX_HMEM", needed=False),
    *_all("hot-plug of CXL devices", "HOTPLUG_PCI HOTPLUG_PCI_PCIE", needed=False),
    *_all("poison and traces", "DEBUG_FS FTRACE", needed=False),
]
CXL_BY_ARCHITECTURE = {
    "x86_64": list[Symbol](),
    # Nothing can invalidate the caches of an Arm guest; with this option Linux makes regions nevertheless.
    "arm64": _all("regions on Arm (Linux 6.2)", "CXL_REGION_INVALIDATION_TEST", needed=False),
}


def wanted(architecture: str, *, cxl: bool) -> list[Symbol]:
    """All symbols for a guest of an architecture, each once."""
    symbols = [*GUEST, *BY_ARCHITECTURE[architecture]]
    if cxl:
        symbols += [*CXL, *CXL_BY_ARCHITECTURE[architecture]]
    found: dict[str, Symbol] = {}
    for symbol in symbols:
        if symbol.name not in found or symbol.needed:
            found[symbol.name] = symbol
    return list(found.values())


def read_config(path: Path) -> dict[str, str]:
    """A ``.config`` as a table without ``CONFIG_``; what is not set is ``n``."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return {on or off: value if on else "n" for on, value, off in _LINE.findall(text)}


def merged(config: str, symbols: Iterable[Symbol]) -> str:
    """A configuration with symbols on; those that are modules already stay so."""
    present = {on or off: value if on else "n" for on, value, off in _LINE.findall(config)}
    changes = [symbol for symbol in symbols if present.get(symbol.name) not in ("y", "m")]
    names = {symbol.name for symbol in changes}
    kept = [line for line in config.splitlines() if (m := _LINE.match(line)) is None or (m[1] or m[3]) not in names]
    return "\n".join([*kept, *(f"CONFIG_{symbol.name}={symbol.value}" for symbol in changes)]) + "\n"


def unmet(config: Mapping[str, str], symbols: Iterable[Symbol]) -> list[Symbol]:
    """Symbols that a configuration does not have on, although asked for."""
    return [symbol for symbol in symbols if config.get(symbol.name) not in ("y", "m")]
