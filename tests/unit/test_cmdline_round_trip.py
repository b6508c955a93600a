"""A description becomes QEMU's arguments, and those become the same description."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leviathan.cmdline.describe import describe
from leviathan.model import Machine
from leviathan.model.complete import complete
from leviathan.qemu.binary import QemuBinary
from leviathan.qemu.facts import QemuFacts
from leviathan.qemu.render import render

MIB = 1 << 20
NAMES = st.from_regex(r"[a-z][a-z0-9_.-]{0,6}", fullmatch=True)
FILES = st.from_regex(r"(/[a-z][a-z0-9 ,=_.-]{0,6}[a-z]){1,3}", fullmatch=True)
KEYS = st.from_regex(r"x-[a-z][a-z-]{0,6}[a-z]", fullmatch=True)
OPTIONS = st.dictionaries(
    KEYS, st.booleans() | st.integers(0, 1 << 40) | st.from_regex(r"[p-s][p-s ,=:/]{0,6}", fullmatch=True), max_size=2
)
FEATURES = st.dictionaries(KEYS, st.booleans() | st.integers(0, 64), max_size=2)
MEMORY = st.integers(64, 4096).map(lambda count: count * 2 * MIB)
PASSED_ON = st.sampled_from(
    [
        [],
        ["-device", "virtio-rng-pci"],
        ["-usb"],
        ["-rtc", "base=localtime", "-uuid", "1-2"],
        ["-device", "pcie-root-port,id=x"],
    ]
)


def facts(arch: str, *, old: bool) -> QemuFacts:
    """A QEMU that has everything, or one that has what 7.2 has."""
    program = f"qemu-system-{arch}"
    devices = {"cxl-type3": frozenset({"memdev", "lsa", "sn"}), "pxb-cxl": frozenset({"bus_nr"})}
    if not old:
        devices["cxl-type3"] |= {"persistent-memdev", "volatile-memdev"}
        devices["pxb-cxl"] |= {"hdm_for_passthrough"}
    binary = QemuBinary(program, (7, 2, 0) if old else (11, 1, 0), "QEMU", "0" * 64)
    return QemuFacts(binary, arch, {}, devices, frozenset(), frozenset(), frozenset({"kvm", "tcg"}), kvm=None)


@st.composite
def backings(draw: st.DrawFn, *, persistent: bool) -> dict[str, Any]:
    kind = draw(st.sampled_from(["file", "ram", "memfd"]))
    backing: dict[str, Any] = {
        "size": draw(st.integers(1, 64)) * 256 * MIB,
        "kind": kind,
        "shared": draw(st.booleans()),
    }
    if kind == "file" and (not persistent or draw(st.booleans())):
        backing["file"] = draw(FILES)
    return backing | {"options": draw(OPTIONS)}


@st.composite
def cxl(draw: st.DrawFn, *, old: bool) -> dict[str, Any]:
    memory = []
    for _ in range(draw(st.integers(0, 3))):
        kinds = (
            ["persistent"]
            if old
            else draw(st.lists(st.sampled_from(["persistent", "volatile", "dynamic"]), min_size=1, unique=True))
        )
        device = {kind: draw(backings(persistent=kind == "persistent")) for kind in kinds}
        if "dynamic" in kinds and draw(st.booleans()):
            device["dynamic_regions"] = draw(st.integers(1, 8))
        memory.append(
            {**device, "options": draw(OPTIONS)}
            | ({"serial": draw(st.integers(0, (1 << 64) - 1))} if draw(st.booleans()) else {})
        )
    bridges = [
        {"root_ports": draw(st.integers(1, 4)), "options": draw(OPTIONS)}
        | ({} if old else {"hdm_for_passthrough": draw(st.booleans())})
        | ({"numa_node": draw(st.integers(0, 3))} if draw(st.booleans()) else {})
        for _ in range(draw(st.integers(1, 3)))
    ]
    bridges[0]["root_ports"] = 5
    switches = [{"ports": draw(st.integers(1, 4))} for _ in range(draw(st.integers(0, 2)))]
    result: dict[str, Any] = {"memory": memory, "host_bridges": bridges, "switches": switches}
    if draw(st.booleans()):
        targets = draw(st.lists(st.sampled_from([f"hb{n}" for n in range(len(bridges))]), min_size=1, unique=True))
        granularity = draw(st.sampled_from([256, 512, 4096, 16384]))
        result["windows"] = [{"targets": targets, "size": "4G", "granularity": granularity}]
    return result


@st.composite
def disks(draw: st.DrawFn, machine: str) -> list[dict[str, Any]]:
    interfaces = ["virtio", "scsi", "nvme"] + (["ide"] if machine != "virt" else [])
    return [
        {
            "file": draw(FILES),
            "format": draw(st.sampled_from(["raw", "qcow2"])),
            "interface": draw(st.sampled_from(interfaces)),
            "snapshot": draw(st.booleans()),
            "readonly": draw(st.booleans()),
            "options": draw(OPTIONS),
            "drive_options": draw(OPTIONS),
        }
        | ({"boot_index": draw(st.integers(0, 9))} if draw(st.booleans()) else {})
        for _ in range(draw(st.integers(0, 4)))
    ]


@st.composite
def networks(draw: st.DrawFn) -> list[dict[str, Any]]:
    result = []
    for _ in range(draw(st.integers(0, 2))):
        kind = draw(st.sampled_from(["user", "tap", "bridge"]))
        network: dict[str, Any] = {"kind": kind, "model": draw(st.sampled_from(["virtio-net-pci", "e1000e", "igb"]))}
        if kind == "user" and draw(st.booleans()):
            network["forward"] = ["2222:22", {"protocol": "udp", "host": 53, "guest": 5353, "address": ""}]
        if kind == "tap":
            network["interface"] = draw(NAMES)
        if kind == "bridge":
            network["bridge"] = draw(NAMES)
        if draw(st.booleans()):
            network["mac"] = "52:54:00:12:34:56"
        result.append(network | {"options": draw(OPTIONS), "backend_options": draw(OPTIONS)})
    return result


@st.composite
def machines(draw: st.DrawFn) -> tuple[Machine, QemuFacts]:
    old = draw(st.booleans())
    machine_type = draw(st.sampled_from(["q35", "pc", "virt"]))
    arch = "aarch64" if machine_type == "virt" else "x86_64"
    data: dict[str, Any] = {
        "nodes": 0,
        "name": draw(st.sampled_from(["leviathan", "a-vm"])),
        "arch": arch,
        "machine_type": machine_type,
        "machine_options": draw(OPTIONS),
        "accel": draw(st.sampled_from(["kvm", "tcg"])),
        "cpu": {"model": draw(st.sampled_from(["max", "host", "EPYC-v3"])), "features": draw(FEATURES)},
        "cpus": draw(st.integers(1, 8)),
        "memory": draw(MEMORY),
        "acpi": draw(st.booleans()),
        "disks": draw(disks(machine_type)),
        "networks": draw(networks()),
        "serial": draw(st.sampled_from([[], ["mon:stdio"], ["tcp::4444,server", "null"]])),
        "monitor": draw(st.sampled_from([[], ["telnet:127.0.0.1:4444,server,nowait"]])),
        "qmp": draw(st.sampled_from([[], ["unix:/q.sock,server"]])),
        "qemu_args": draw(PASSED_ON),
    }
    if arch == "aarch64":
        # Else the renderer adds the distribution's.
        data |= {"firmware": draw(FILES), "gic_version": draw(st.sampled_from(["2", "3", "max"]))}
    if draw(st.booleans()):
        data["cpu"] |= {"sockets": data["cpus"], "cores": 1, "threads": 1}
    if draw(st.booleans()):
        data |= {"memory_max": data["memory"] * 2, "memory_slots": draw(st.integers(0, 8))}
    if draw(st.booleans()):
        data |= {"firmware": draw(FILES), "firmware_variables": draw(FILES)}
    if draw(st.booleans()):
        data |= {"kernel": draw(FILES), "append": draw(st.sampled_from(["", "a b", 'quoted "x", y']))}
        if draw(st.booleans()):
            data["initrd"] = draw(FILES)
    else:
        data["boot"] = "firmware"
    adapters = ["auto", "none", "virtio"] + (["std", "qxl"] if arch == "x86_64" else ["ramfb"])
    if draw(st.booleans()):
        data["display"] = {
            "vnc": draw(st.sampled_from([":0", "127.0.0.1:1,password=on"])),
            "adapter": draw(st.sampled_from(adapters)),
        }
    if draw(st.booleans()):
        half = data["memory"] // 2
        near, far = draw(st.sampled_from([([], []), ([10, 21], [21, 10]), ([10, 31], [17, 10])]))
        data["numa"] = [
            {"cpus": f"0-{data['cpus'] - 1}" if data["cpus"] > 1 else "0", "memory": half, "distances": near},
            {"memory": data["memory"] - half, "distances": far},
        ]
    if machine_type != "pc" and draw(st.booleans()):
        data["cxl"] = draw(cxl(old=old))
    return Machine.model_validate(data), facts(arch, old=old)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(machines())
def test_descriptions_come_back(drawn: tuple[Machine, QemuFacts]) -> None:
    machine, at_hand = drawn
    argv = render(machine, at_hand, Path("/vm"))
    imported = describe(argv)
    assert complete(imported.machine, "/vm") == complete(machine, "/vm")
    assert render(imported.machine, at_hand, Path("/vm")) == argv
