"""Decoders: how many regions fit behind a host bridge, and whether it has decoders at all."""

from __future__ import annotations

from collections.abc import Iterator

from leviathan.model.cxl import CxlMemory, HostBridge
from leviathan.rules.finding import Finding, error, warning
from leviathan.rules.subject import Subject

__all__ = ["one_region", "region_count"]


def _decoders(subject: Subject, bridge: HostBridge) -> bool:
    """Whether a host bridge has decoders of its own: with one root port only if it is told to."""
    if len(bridge.root_ports or []) != 1:
        return True
    can = subject.qemu is None or subject.qemu.has("pxb-cxl", "hdm_for_passthrough")
    return can and bridge.hdm_for_passthrough is not False


def one_region(subject: Subject) -> Iterator[Finding]:
    """A host bridge with one root port and no decoders passes everything through: one region, no second."""
    for number, bridge in enumerate(subject.bridges):
        if _decoders(subject, bridge):
            continue
        behind = [device for device in subject.cxl.memory if subject.bridge_of(device) is bridge]
        if subject.qemu is not None and not subject.qemu.has("pxb-cxl", "hdm_for_passthrough"):
            if behind:
                version = subject.qemu.binary.version_text
                problem = f"with a single root port QEMU {version} loses what the guest writes, in silence"
                remedy = "give it 2 root ports (one may stay empty), or leave root_ports out"
                yield error("one-region", f"cxl.host_bridges.{number}.root_ports", problem, remedy)
        elif len(behind) > 1 or any(device.persistent and device.volatile for device in behind):
            problem = "with a single root port and no decoders only one region can live behind it; a second one fails"
            remedy = "leave hdm_for_passthrough out"
            yield warning("one-region", f"cxl.host_bridges.{number}.hdm_for_passthrough", problem, remedy)


def _regions(device: CxlMemory) -> int:
    """Regions that use all of a device by itself: one for each kind of memory."""
    return sum(field != "labels" for field, _ in device.backings())


def region_count(subject: Subject) -> Iterator[Finding]:
    """``failed to set target0``: a host bridge of QEMU has four decoders, of 7.2 one; a region takes one of them."""
    if subject.qemu is None:
        return
    limit = subject.qemu.decoders
    for number, bridge in enumerate(subject.bridges):
        if not _decoders(subject, bridge):
            continue
        wanted = sum(_regions(device) for device in subject.cxl.memory if subject.bridge_of(device) is bridge)
        if wanted > limit:
            count = f"{limit} region{'s' if limit > 1 else ''}"
            version = subject.qemu.binary.version_text
            problem = f"a host bridge of QEMU {version} has room for {count}; devices used one by one make {wanted}"
            remedy = "interleave them in one region, or describe another host bridge"
            yield warning("region-count", f"cxl.host_bridges.{number}", problem, remedy)
