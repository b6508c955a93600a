"""What a guest gets for CXL: drivers, and the tools cxl, ndctl, daxctl, numactl with mke2fs."""

from __future__ import annotations

from pathlib import Path

from leviathan.images import suite
from leviathan.images.apt import host_architecture, system_suite
from leviathan.images.base import ImageError
from leviathan.images.kernel import Kernel, Progress

__all__ = ["PROGRAMS", "drivers", "tools_for"]

NEEDED = ("cxl_acpi", "cxl_port", "cxl_pci", "cxl_mem")
"""Without these a guest sees no CXL device."""
WANTED = (
    # Persistent memory: regions become libnvdimm's, namespaces block or DAX devices.
    *("cxl_pmem", "libnvdimm", "nd_pmem", "nd_btt", "dax_pmem"),
    # Volatile memory: regions become DAX devices, and those memory of a NUMA node.
    *("device_dax", "dax_cxl", "dax_hmem", "kmem"),
    "ext4",
)
"""Taken if the kernel has them: their set changes with its version (``dax_cxl`` came with 6.3)."""
PROGRAMS = (
    *("usr/bin/cxl", "usr/bin/ndctl", "usr/bin/daxctl", "usr/bin/numactl"),
    *("usr/sbin/mke2fs", "usr/sbin/mkfs.ext4", "usr/sbin/e2fsck"),
)
"""Paths in the tree of the tools; those that are links in a suite stay what they point to."""
WITHOUT_TOOLS = ("bullseye", "bookworm", "bookworm-backports")
"""Releases that have no package ``cxl``; the tools of the next one know their kernels, too."""
FIRST_TOOLS = "trixie"


def drivers(kernel: Kernel) -> list[str]:
    """The kernel's modules for CXL. Raises ``ImageError`` naming what it lacks."""
    if missing := [name for name in NEEDED if not kernel.has(name)]:
        raise ImageError(
            f"kernel {kernel.release} has no CXL: {', '.join(missing)} missing, as modules and built in",
            "use a distribution's kernel, or one with CONFIG_CXL_BUS, _ACPI, _PORT, _PCI, _MEM and _REGION",
        )
    return [*NEEDED, *(name for name in WANTED if kernel.has(name))]


def tools_for(kernel: Kernel, architecture: str, progress: Progress) -> Path:
    """The tree of the guest's tools: those of the kernel's suite if it is an unpacked one, else of the system's.

    Tools and kernel of one release know the same features.
    """
    home = suite.home_of(kernel.vmlinuz)
    name = home.suite if home is not None else system_suite()
    if name in WITHOUT_TOOLS:
        name = FIRST_TOOLS
    return suite.newest("tools", name, architecture, progress).tree


def busybox_of(tools: Path, architecture: str) -> Path | None:
    """The tools' own busybox where this machine's cannot run; ``None``: use this machine's."""
    if architecture == host_architecture():
        return None
    for path in ("usr/bin/busybox", "bin/busybox"):
        if (tools / path).exists():
            return tools / path
    raise ImageError(f"{tools} holds no busybox", "remove that folder and run: lev images get tools")
