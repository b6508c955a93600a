"""What QEMUs of several versions answered when they were asked, for rules and command lines of those not installed."""

from __future__ import annotations

from leviathan.qemu.binary import QemuBinary
from leviathan.qemu.facts import DEVICES, QemuFacts

__all__ = ["recorded"]

_TYPE3 = {"7.2": {"memdev", "lsa", "sn", "cdat", "addr"}}
_TYPE3["10.0"] = _TYPE3["7.2"] | {"persistent-memdev", "volatile-memdev", "volatile-dc-memdev", "num-dc-regions"}
_TYPE3["11.1"] = _TYPE3["10.0"] | {"x-256b-flit", "hdm-db"}
_VERSIONS = {"7.2": (7, 2, 22), "10.0": (10, 0, 13), "11.1": (11, 1, 3)}


def recorded(version: str, arch: str = "x86_64", kvm: str | None = "no hardware virtualization") -> QemuFacts:
    """Facts of a version as distributed; the properties are those that matter to CXL."""
    newer = version != "7.2"
    bridge = {"bus_nr", "numa_node", "bypass_iommu"} | ({"hdm_for_passthrough"} if newer else set())
    devices = {
        "cxl-type3": frozenset(_TYPE3[version]),
        "pxb-cxl": frozenset(bridge),
        "cxl-rp": frozenset({"port", "chassis", "slot"}),
        "cxl-upstream": frozenset({"sn"} if newer else set()),
        "cxl-downstream": frozenset({"port", "chassis", "slot"}),
        **{name: frozenset({"addr"}) for name in ("virtio-scsi-pci", "nvme", "VGA", "virtio-net-pci", "e1000")},
    }
    cxl = {"acpi", "cxl", "cxl-fmw"}
    machines = {"q35": cxl, "pc": cxl} if arch == "x86_64" else {"virt": cxl if version == "11.1" else {"acpi"}}
    commands = {"query-status"} | ({"cxl-inject-general-media-event"} if newer else set())
    models = {"x86_64": {"max", "qemu64", "EPYC", "EPYC-v3", "host"}, "aarch64": {"max", "cortex-a57"}}[arch]
    return QemuFacts(
        QemuBinary(f"/usr/bin/qemu-system-{arch}", _VERSIONS[version], f"QEMU emulator version {version}", "0" * 64),
        arch,
        {name: frozenset(properties) for name, properties in machines.items()},
        devices,
        frozenset(commands),
        frozenset(models),
        frozenset({"tcg", "kvm"} if arch == "x86_64" else {"tcg"}),
        frozenset({*DEVICES, "virtio-net-pci", "e1000", "e100e"}),
        kvm,
    )
