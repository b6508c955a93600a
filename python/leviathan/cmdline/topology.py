"""CXL: ``pxb-cxl``, ``cxl-rp``, ``cxl-upstream``, ``cxl-downstream``, ``cxl-type3``, their backends, and the windows.

What a description can say is taken over, wrong or not: the rules judge it. Refused here is what it cannot even say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from leviathan.cmdline.draft import Draft, Item, amount, number, options_of, switch
from leviathan.cmdline.keyval import KeyVal, Pair
from leviathan.errors import UsageError

__all__ = ["read_cxl"]

DRIVERS = ("pxb-cxl", "cxl-rp", "cxl-upstream", "cxl-downstream", "cxl-type3")
BACKENDS = {"memory-backend-file": "file", "memory-backend-ram": "ram", "memory-backend-memfd": "memfd"}
MEMORY = {
    "persistent-memdev": "persistent",
    "volatile-memdev": "volatile",
    "volatile-dc-memdev": "dynamic",
    "lsa": "labels",
}
_WINDOW = re.compile(r"cxl-fmw\.(\d+)\.(?:targets\.(\d+)|(size)|(interleave-granularity))")
FORM = "-M cxl-fmw.0.targets.0=BRIDGE,cxl-fmw.0.size=4G"


def read_cxl(draft: Draft) -> None:
    """Fills ``cxl`` if there is any of it."""
    items = [item for item in draft.items("device") if item.kind in DRIVERS]
    windows = _windows(draft.windows)
    if not items and not windows and not draft.cxl_on:
        return
    objects = {item.id: item for item in draft.items("object", driver_key="qom-type")}
    bridges: dict[str, dict[str, Any]] = {}
    switches: dict[str, dict[str, Any]] = {}
    memory: list[dict[str, Any]] = []
    owners: dict[str, str] = {}
    for item in items:
        draft.use(item.index)
        match item.kind:
            case "pxb-cxl":
                _bridge(item, bridges)
            case "cxl-rp":
                _root_port(item, bridges)
            case "cxl-upstream":
                _upstream(item, switches)
            case "cxl-downstream":
                _downstream(item, switches)
            case _:
                memory.append(_memory(draft, item, objects, owners))
    cxl: dict[str, Any] = {"memory": memory, "host_bridges": list(bridges.values()), "windows": windows}
    if switches:
        cxl["switches"] = list(switches.values())
    if draft.cxl_on is not True and (items or windows):
        draft.notes.changed(
            "-machine without cxl=on", "there are CXL devices (QEMU: “CXL host bridges present, but cxl=off”)", "cxl=on"
        )
    draft.data["cxl"] = cxl


def _bridge(item: Item, bridges: dict[str, dict[str, Any]]) -> None:
    fields = item.fields
    name = _take_id(item, "windows and root ports name it")
    bus = fields.take("bus")
    if bus not in (None, "pcie.0"):
        raise UsageError(f"{item}: a host bridge is on pcie.0, not on {bus}", hint="write bus=pcie.0")
    bridge: dict[str, Any] = {"name": name, "root_ports": []}
    _integer(item, "bus_nr", bridge, "bus")
    _integer(item, "numa_node", bridge, "numa_node")
    passthrough = fields.take("hdm_for_passthrough", "hdm-for-passthrough")
    if passthrough is not None:
        bridge["hdm_for_passthrough"] = switch(f"{name}: hdm_for_passthrough", passthrough)
    _unique(name, item, bridges)
    _finish(item, bridge)
    bridges[name] = bridge


def _root_port(item: Item, bridges: Mapping[str, dict[str, Any]]) -> None:
    bus = item.fields.take("bus")
    name = _take_id(item, "the device on it names it")
    bridge = bridges.get(bus or "")
    if bridge is None:
        known = ", ".join(bridges) or "none before it"
        raise UsageError(
            f"{item}: bus={bus or ''} is no CXL host bridge (there is {known}); a cxl-rp is a port of a pxb-cxl",
            hint=f"give it the id of a pxb-cxl that stands before it: bus={next(iter(bridges), 'BRIDGE')}",
        )
    port: dict[str, Any] = {"name": name}
    _ports(item, port)
    bridge["root_ports"].append(port)


def _upstream(item: Item, switches: dict[str, dict[str, Any]]) -> None:
    name = _take_id(item, "its downstream ports name it")
    bus = item.fields.take("bus")
    if bus is None:
        raise UsageError(f"{item}: bus= is missing: a switch is plugged into a root port", hint="write bus=ROOT-PORT")
    part: dict[str, Any] = {"name": name, "root_port": bus, "ports": []}
    _integer(item, "sn", part, "serial")
    _unique(name, item, switches)
    _finish(item, part)
    switches[name] = part


def _downstream(item: Item, switches: Mapping[str, dict[str, Any]]) -> None:
    bus = item.fields.take("bus")
    name = _take_id(item, "the device on it names it")
    part = switches.get(bus or "")
    if part is None:
        raise UsageError(
            f"{item}: bus={bus or ''} is no upstream port: downstream ports belong to a cxl-upstream before them",
            hint="for a device straight on a host bridge use cxl-rp",
        )
    port: dict[str, Any] = {"name": name}
    _ports(item, port)
    part["ports"].append(port)


def _ports(item: Item, port: dict[str, Any]) -> None:
    for key in ("port", "chassis", "slot"):
        _integer(item, key, port, key)
    _finish(item, port)


def _memory(draft: Draft, item: Item, objects: Mapping[str | None, Item], owners: dict[str, str]) -> dict[str, Any]:
    fields = item.fields
    device: dict[str, Any] = {}
    name = fields.take("id")
    if name is not None:
        device["name"] = name
    bus = fields.take("bus")
    if bus is None:
        raise UsageError(f"{item}: bus= is missing: a CXL device is plugged into a port", hint="write bus=ROOT-PORT")
    device["port"] = bus
    for key, field in MEMORY.items():
        backend = fields.take(key)
        if backend is not None:
            device[field] = _backing(draft, item, key, backend, objects, owners)
    _integer(item, "num-dc-regions", device, "dynamic_regions")
    _integer(item, "sn", device, "serial")
    if "serial" not in device:
        draft.notes.changed(
            name or str(item), "no sn=: kernels from 7 on then give it no namespaces", "a serial number of its own"
        )
    _finish(item, device)
    return device


def _backing(
    draft: Draft, device: Item, key: str, name: str, objects: Mapping[str | None, Item], owners: dict[str, str]
) -> dict[str, Any]:
    item = objects.get(name)
    if item is None:
        known = ", ".join(str(each) for each in objects if each) or "none"
        raise UsageError(
            f"{device}: {key}={name}: there is no -object with id={name} (there is {known})",
            hint=f"add it: -object memory-backend-file,id={name},share=on,mem-path=FILE,size=256M, say",
        )
    kind = BACKENDS.get(item.kind)
    if kind is None:
        raise UsageError(f"{item}: {item.kind} is no memory backend for CXL", hint=f"there are {', '.join(BACKENDS)}")
    user = f"{KeyVal.parse(device.option.value or '').get('id') or device.kind}'s {key}"
    if name in owners:
        raise UsageError(
            f"memory backend {name} is {owners[name]} and {user}",
            hint="each device has memory and labels of its own: add another -object",
        )
    owners[name] = user
    draft.use(item.index)
    fields = item.fields.copy()
    fields.take("id")
    size, file, share = fields.take("size"), fields.take("mem-path"), fields.take("share")
    if size is None:
        raise UsageError(f"{item}: size= is missing", hint="write size=256M")
    if kind == "file" and file is None:
        raise UsageError(f"{item}: mem-path= is missing", hint="write mem-path=FILE, or use memory-backend-ram")
    backing: dict[str, Any] = {"size": amount(f"{name}: size=", size), "kind": kind, "name": name}
    if file is not None:
        backing["file"] = file
    # QEMU's default is off for files and ram; with memfd it is on.
    backing["shared"] = switch(f"{name}: share=", share) if share is not None else kind == "memfd"
    if kind == "file" and not backing["shared"] and key != "volatile-memdev":
        draft.notes.warn(str(item), "without share=on nothing that the guest writes reaches the file")
    if more := options_of(fields):
        backing["options"] = more
    return backing


def _windows(pairs: list[Pair]) -> list[dict[str, Any]]:
    """Windows from keys such as ``cxl-fmw.0.targets.1``, which may come in any order."""
    found: dict[int, dict[str, Any]] = {}
    for pair in pairs:
        match = _WINDOW.fullmatch(pair.key)
        if match is None or pair.value is None:
            raise UsageError(f"-machine {pair}: not a field of a CXL window", hint=f"write {FORM}")
        window = found.setdefault(int(match[1]), {"targets": {}})
        if match[2] is not None:
            window["targets"][int(match[2])] = pair.value
        elif match[3] is not None:
            window["size"] = amount(f"{pair.key}=", pair.value)
        else:
            window["granularity"] = amount(f"{pair.key}=", pair.value)
    if sorted(found) != list(range(len(found))):
        raise UsageError(
            f"CXL windows are numbered {sorted(found)}: they count from 0 without gaps", hint=f"write {FORM}"
        )
    windows = []
    for index in sorted(found):
        window = found[index]
        targets = window["targets"]
        if not targets:
            raise UsageError(f"cxl-fmw.{index} has no targets", hint=f"write {FORM}")
        if sorted(targets) != list(range(len(targets))):
            raise UsageError(
                f"cxl-fmw.{index}: targets are numbered {sorted(targets)}: they count from 0 without gaps",
                hint=f"write {FORM}",
            )
        if "size" not in window:
            raise UsageError(f"cxl-fmw.{index}.size is missing", hint=f"write {FORM}")
        windows.append(window | {"targets": [targets[place] for place in sorted(targets)]})
    return windows


def _take_id(item: Item, why: str) -> str:
    name = item.fields.take("id")
    if name is None:
        raise UsageError(f"{item}: id= is missing: {why}", hint="add id=NAME")
    return name


def _unique(name: str, item: Item, known: Mapping[str, Any]) -> None:
    if name in known:
        raise UsageError(f"{item}: two devices have id={name}", hint="give each an id of its own")


def _integer(item: Item, key: str, table: dict[str, Any], field: str) -> None:
    value = item.fields.take(key)
    if value is not None:
        table[field] = number(f"{item}: {key}=", value)


def _finish(item: Item, table: dict[str, Any]) -> None:
    if more := options_of(item.fields_without("id")):
        table["options"] = more
