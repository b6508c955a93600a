"""What depends on the guest's kernel."""

from __future__ import annotations

from collections.abc import Iterator

from leviathan.rules.finding import Finding, error, warning
from leviathan.rules.subject import Subject

__all__ = ["arm_regions", "dynamic_capacity", "event_logs", "symbols", "volatile_regions"]

EVENT_LOGS = (6, 3)
"""From this kernel on a device without event logs is refused (6.1 works; measured)."""
RAM_REGIONS = (6, 3)
INVALIDATION = (6, 2)
"""From this kernel on regions are made only where caches can be invalidated."""
REQUIRED = ("CXL_BUS", "CXL_PCI", "CXL_ACPI", "CXL_MEM", "CXL_PORT", "CXL_REGION")
FOR_PERSISTENT = ("CXL_PMEM", "LIBNVDIMM", "BLK_DEV_PMEM")
FOR_VOLATILE = ("DEV_DAX_CXL", "DEV_DAX_KMEM")


def event_logs(subject: Subject) -> Iterator[Finding]:
    """No memory device: ``cxl_pci: Failed to get interrupt for event Info log``."""
    qemu, kernel = subject.qemu, subject.kernel
    if qemu is None or kernel is None or not subject.cxl.memory or not qemu.commands:
        return
    if "cxl-inject-general-media-event" not in qemu.commands and kernel.version >= EVENT_LOGS:
        problem = (
            f"kernel {kernel.release} shows no memory device under QEMU {qemu.binary.version_text}, "
            "which has no event logs"
        )
        remedy = "use a kernel up to 6.2, or QEMU 10 or newer: `lev images get qemu --suite trixie` fetches one"
        yield error("event-logs", "kernel", problem, remedy)


def volatile_regions(subject: Subject) -> Iterator[Finding]:
    """Regions of type ram came with Linux 6.3."""
    kernel = subject.kernel
    if kernel is None or kernel.version >= RAM_REGIONS:
        return
    for path, _, field, _ in subject.backings():
        if field == "volatile":
            problem = f"kernel {kernel.release} makes no regions of volatile memory; 6.3 and newer do"
            yield warning("volatile-regions", path, problem, "use a newer kernel, or persistent memory")
            return


def arm_regions(subject: Subject) -> Iterator[Finding]:
    """Arm Linux cannot invalidate caches for a region; only a test option lets it go on."""
    kernel = subject.kernel
    if subject.machine.arch != "aarch64" or not subject.cxl.memory:
        return
    # Linux 6.1 does not ask.
    if kernel is not None and (0, 0) < kernel.version < INVALIDATION:
        return
    if kernel is not None and kernel.config and kernel.config.get("CXL_REGION_INVALIDATION_TEST") == "y":
        return
    problem = "arm64 kernels of distributions list CXL devices, but refuse `cxl create-region`"
    remedy = "use a kernel with CONFIG_CXL_REGION_INVALIDATION_TEST=y"
    yield warning("arm-regions", "kernel", problem, remedy)


def dynamic_capacity(subject: Subject) -> Iterator[Finding]:
    """No kernel up to 7.2 takes extents: they stay pending."""
    for path, _, field, _ in subject.backings():
        if field == "dynamic":
            problem = "no released kernel (up to 7.2) uses dynamic capacity: extents that are added stay pending"
            yield warning("dynamic-capacity", path, problem, "use a kernel with the DCD patches")
            return


def symbols(subject: Subject) -> Iterator[Finding]:
    """A kernel without the drivers finds nothing."""
    config = subject.kernel.config if subject.kernel else None
    if config is None or subject.machine.cxl is None:
        return
    wanted = list(REQUIRED)
    fields = {field for _, _, field, _ in subject.backings()}
    if "persistent" in fields:
        wanted += FOR_PERSISTENT
    if "volatile" in fields:
        wanted += FOR_VOLATILE
    missing = [name for name in wanted if config.get(name) not in ("y", "m")]
    if missing:
        problem = "the kernel was built without " + ", ".join(f"CONFIG_{name}" for name in missing)
        yield warning("symbols", "kernel", problem, "use one that has them")
