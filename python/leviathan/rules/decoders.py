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
            problem = f"a host bridge of QEMU {version} has room for {count}; devices used one by one make {wanted}"
            remedy = "interleave them in one region, or describe another host bridge"
            yield warning("region-count", f"cxl.host_bridges.{number}", problem, remedy)
