"""Wrong descriptions: each is refused with the field, the reason and the remedy, and none reaches QEMU."""

# ruff: noqa: E501 (one row of a table is one line)

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qemu_facts import recorded

from leviathan.errors import ConfigError
from leviathan.model import load_machine, make_machine
from leviathan.rules import RULES, KernelFacts, check, enforce, kernel_facts
from leviathan.rules.kernel import FOR_PERSISTENT, REQUIRED
from leviathan.rules.kernel_facts import parse_config

Table = dict[str, Any]

PMEM: Table = {"memory": [{"persistent": "256M"}]}
TWO: Table = {"memory": [{"persistent": "256M"}, {"persistent": "256M"}]}
BRIDGES: Table = {
    "memory": [{"persistent": "256M"}, {"persistent": "256M"}],
    "host_bridges": [{"name": "a"}, {"name": "b"}],
    "windows": [{"targets": ["a", "b"]}],
}
FULL: Table = {
    "memory": [{"name": "d0", "port": "rp0", "persistent": "256M", "serial": 7}],
    "host_bridges": [{"name": "hb", "root_ports": ["rp0", "rp1"]}],
    "switches": [{"name": "us", "root_port": "rp1", "ports": ["dp0", "dp1"]}],
    "windows": [{"targets": ["hb"], "size": "4G"}],
}


def change(base: Table, path: str, value: Any) -> Table:
    """A copy with one field set; ``append`` adds to a list."""
    result = copy.deepcopy(base)
    *parents, last = path.split(".")
    table: Any = result
    for word in parents:
        table = table[int(word)] if word.isdigit() else table[word]
    if last == "append":
        table.append(value)
    elif last.isdigit():
        table[int(last)] = value
    else:
        table[last] = value
    return result


def cxl(base: Table, *changes: tuple[str, Any], **fields: Any) -> Table:
    for path, value in changes:
        base = change(base, path, value)
    return {"cxl": base, **fields}


WRONG: list[tuple[str, Table, str, str]] = [
    # --- sizes and backing ---
    ("memory 100M", cxl(PMEM, ("memory.0.persistent", "100M")), "cxl.memory.0.persistent", "the guest would see no memory device at all; use 256M"),
    ("memory 384M", cxl(PMEM, ("memory.0.persistent", "384M")), "cxl.memory.0.persistent", "384M is not a multiple of 256M"),
    ("volatile 300M", cxl({"memory": [{"volatile": "300M"}]}), "cxl.memory.0.volatile", "300M is not a multiple of 256M"),
    ("no memory", cxl({"memory": [{"name": "d"}]}), "cxl.memory.0", "the device has no memory; give persistent, volatile or dynamic a size"),
    ("dynamic cut unevenly", cxl({"memory": [{"dynamic": "1G", "dynamic_regions": 3}]}), "cxl.memory.0.dynamic", "1G cannot be cut into 3 regions of a multiple of 256M each; use 1536M"),
    ("regions without dynamic", cxl({"memory": [{"volatile": "256M", "dynamic_regions": 2}]}), "cxl.memory.0.dynamic_regions", "there is no dynamic capacity to cut"),
    ("missing folder", cxl({"memory": [{"persistent": {"size": "256M", "file": "/nowhere/at/all/p.raw"}}]}), "cxl.memory.0.persistent.file", "there is no folder /nowhere/at/all; make it: mkdir -p"),
    ("backing is a folder", cxl({"memory": [{"persistent": {"size": "256M", "file": "/usr"}}]}), "cxl.memory.0.persistent.file", "/usr is a folder"),
    ("one file twice", cxl({"memory": [{"persistent": {"size": "256M", "file": "/tmp/lev-p"}}, {"persistent": {"size": "256M", "file": "/tmp/lev-p"}}]}), "cxl.memory.1.persistent.file", "already used by cxl.memory.0.persistent; each would overwrite"),
    ("labels shared", cxl({"memory": [{"persistent": "256M", "labels": {"size": "1M", "file": "/tmp/lev-l"}}, {"persistent": "256M", "labels": {"size": "1M", "file": "/tmp/lev-l"}}]}), "cxl.memory.1.labels.file", "already used by cxl.memory.0.labels"),
    ("labels in the memory's file", cxl({"memory": [{"persistent": {"size": "256M", "file": "/tmp/lev-p"}, "labels": {"size": "1M", "file": "/tmp/lev-p"}}]}), "cxl.memory.0.labels.file", "already used by cxl.memory.0.persistent"),
    ("ram with a file", cxl({"memory": [{"volatile": {"size": "256M", "kind": "ram", "file": "/tmp/lev-v"}}]}), "cxl.memory.0.volatile.file", "memory of kind 'ram' has no file"),
    ("one backend twice", cxl({"memory": [{"volatile": {"size": "256M", "name": "m0"}}, {"volatile": {"size": "256M", "name": "m0"}}]}), "cxl.memory.1.volatile.name", "'m0' is already the name of cxl.memory.0.volatile"),
    # --- windows ---
    ("target unknown", cxl(FULL, ("windows.0.targets", ["cxl.9"])), "cxl.windows.0.targets.0", "there is no host bridge 'cxl.9'; name one of hb"),
    ("target is a root port", cxl(FULL, ("windows.0.targets", ["rp0"])), "cxl.windows.0.targets.0", "'rp0' is a root port; windows lead to host bridges; name its host bridge, hb"),
    ("target twice", cxl(BRIDGES, ("windows.0.targets", ["a", "a"])), "cxl.windows.0.targets.1", "'a' is listed twice"),
    ("size 300M", cxl(FULL, ("windows.0.size", "300M")), "cxl.windows.0.size", "300M is not a multiple of 256M; use 512M"),
    ("no window", cxl(FULL, ("windows", [])), "cxl.windows", "no window leads to the devices"),
    ("bridge without a window", cxl(BRIDGES, ("windows", [{"targets": ["a"]}])), "cxl.memory.1", "no window has its host bridge 'b' as a target"),
    ("window too small", cxl(FULL, ("memory.0.persistent", "5G")), "cxl.windows.0.size", "hold 5G, the window 4G: the rest is cut off; use at least 5G"),
    ("window smaller than the sum", cxl(TWO, ("windows", [{"targets": ["hb0"], "size": "256M"}])), "cxl.windows.0.size", "hold 512M, the window 256M"),
    ("two windows too small", cxl(BRIDGES, ("windows", [{"targets": ["a", "b"], "size": "512M"}, {"targets": ["a"], "size": "256M"}]), ("memory.0.persistent", "1G")), "cxl.windows.0, cxl.windows.1", "hold 1280M, the window 768M"),
    ("window beyond the CPU's addresses", cxl(FULL, ("windows.0.size", "1024T"), accel="tcg"), "cxl.windows", "do not fit into the CPU's 40 address bits"),
    ("few address bits", cxl(FULL, cpu="max,phys-bits=32"), "cxl.windows", "address bits"),
    ("granularity 300", cxl(BRIDGES, ("windows.0.granularity", 300)), "cxl.windows.0.granularity", "300 bytes are no interleave granularity; use a power of two from 256 to 16K"),
    ("granularity 32K", cxl(BRIDGES, ("windows.0.granularity", "32K")), "cxl.windows.0.granularity", "32768 bytes are no interleave granularity"),
    ("five ways", cxl({"memory": [{"persistent": "256M"}] * 5, "windows": [{"targets": ["a", "b", "c", "d", "e"]}]}), "cxl.windows.0.targets", "interleaving over 5 targets is not possible; use 1, 2, 3, 4, 6, 8, 12 or 16"),
    # --- ports ---
    ("device on the host bridge", cxl(FULL, ("memory.0.port", "hb")), "cxl.memory.0.port", "'hb' is a host bridge, which takes only ports"),
    ("device on the machine's bus", cxl(FULL, ("memory.0.port", "pcie.0")), "cxl.memory.0.port", "CXL port topology not found"),
    ("device on a switch", cxl(FULL, ("memory.0.port", "us")), "cxl.memory.0.port", "'us' is a switch, not one of its ports; name one of dp0, dp1"),
    ("port unknown", cxl(FULL, ("memory.0.port", "rp7")), "cxl.memory.0.port", "there is no root port or switch port 'rp7'; name one of dp0, dp1, rp0, rp1"),
    ("two devices on one port", cxl(FULL, ("memory.append", {"persistent": "256M", "port": "rp0"})), "cxl.memory.1.port", "'rp0' already holds cxl.memory.0; the guest would see only one of them"),
    ("device and switch on one port", cxl(FULL, ("memory.0.port", "rp1")), "cxl.memory.0.port", "'rp1' already holds cxl.switches.0"),
    ("addr=1", cxl(FULL, ("memory.0.options", {"addr": 1})), "cxl.memory.0.options.addr", "below a port there is slot 0 only"),
    ("too many devices", cxl({"memory": [{"persistent": "256M"}] * 3, "host_bridges": [{"root_ports": 2}]}), "cxl.memory.2.port", "no root port or switch port is free"),
    ("bridge without ports", cxl(BRIDGES, ("host_bridges.1.root_ports", 0)), "cxl.host_bridges.1.root_ports", "a host bridge without root ports holds nothing"),
    ("no bridges", cxl(PMEM, ("host_bridges", [])), "cxl.host_bridges", "the list is empty"),
    ("switch without ports", cxl(FULL, ("switches.0.ports", 0)), "cxl.switches.0.ports", "a switch without ports holds nothing"),
    ("switch on a switch", cxl(FULL, ("switches.append", {"root_port": "dp0", "ports": 2})), "cxl.switches.1.root_port", "one level of switches works, two do not"),
    ("switch nowhere", cxl(FULL, ("switches.0.root_port", "rp9")), "cxl.switches.0.root_port", "there is no root port 'rp9'; name one of rp0, rp1"),
    ("no port for a switch", cxl({"host_bridges": [{"root_ports": 1}], "switches": [{"ports": 2}, {"ports": 2}]}), "cxl.switches.1.root_port", "no root port is free"),
    ("33 root ports", cxl(PMEM, ("host_bridges", [{"root_ports": 33}])), "cxl.host_bridges.0.root_ports", "33 ports: a bus has 32 slots; use up to 32"),
    ("33 switch ports", cxl(FULL, ("switches.0.ports", 33)), "cxl.switches.0.ports", "and another switch for the rest"),
    ("port number twice", cxl(FULL, ("host_bridges.0.root_ports", [{"name": "rp0", "port": 0}, {"name": "rp1", "port": 0}])), "cxl.host_bridges.0.root_ports.1.port", "'rp0' has port number 0, too; decoders route by it"),
    ("switch port number twice", cxl(FULL, ("switches.0.ports", [{"port": 3}, {"port": 3}])), "cxl.switches.0.ports.1.port", "has port number 3, too"),
    ("slot twice", cxl(FULL, ("host_bridges.0.root_ports", [{"name": "rp0", "slot": 2}, {"name": "rp1", "slot": 2}])), "cxl.host_bridges.0.root_ports.1.slot", "chassis 0, slot 2 is already that of 'rp0'"),
    # --- buses, names, serial numbers ---
    ("bus 0", cxl(BRIDGES, ("host_bridges.0.bus", 0)), "cxl.host_bridges.0.bus", "0 is the bus of the machine itself"),
    ("bus 255", cxl(BRIDGES, ("host_bridges.0.bus", 255)), "cxl.host_bridges.0.bus", "255 leaves no room for the 3 buses of this bridge and its ports, which end at 255; use at most 253"),
    ("bus clash", cxl(BRIDGES, ("host_bridges.0.bus", 12), ("host_bridges.1.bus", 12)), "cxl.host_bridges.1.bus", "overlap those of 'a'"),
    ("buses overlap", cxl(BRIDGES, ("host_bridges.0.bus", 12), ("host_bridges.1.bus", 13)), "cxl.host_bridges.1.bus", "buses 13 to 15 overlap those of 'a' (12 to 14); the guest's kernel crashes at boot"),
    ("buses of a switch overlap", cxl(FULL, ("host_bridges.0.bus", 12), ("host_bridges.append", {"name": "b", "bus": 17}), ("windows.0.targets", ["hb", "b"])), "cxl.host_bridges.1.bus", "overlap those of 'hb' (12 to 17)"),
    ("serial 0", cxl(FULL, ("memory.0.serial", 0)), "cxl.memory.0.serial", "0 means none; newer kernels then give persistent memory no namespaces"),
    ("serial twice", cxl(FULL, ("memory.append", {"persistent": "256M", "serial": "0x7"})), "cxl.memory.1.serial", "0x7 is already that of cxl.memory.0"),
    ("name twice", cxl(FULL, ("memory.0.name", "rp0")), "cxl.memory.0.name", "'rp0' is already the name of cxl.host_bridges.0.root_ports.0"),
    ("name of a bus", cxl({"memory": [{"persistent": "256M"}], "host_bridges": [{"name": "pcie.0"}]}), "cxl.host_bridges.0.name", "'pcie.0' is a bus of the machine itself"),
    ("serial as an option", cxl(FULL, ("memory.0.options", {"sn": 3})), "cxl.memory.0.options.sn", "has a field of its own; write it as serial instead"),
    ("bus number as an option", cxl(FULL, ("host_bridges.0.options", {"bus_nr": 3})), "cxl.host_bridges.0.options.bus_nr", "write it as bus instead"),
    ("window as a machine option", cxl(FULL, machine_options={"cxl-fmw.0.size": "8G"}), "machine_options.cxl-fmw.0.size", "windows have a table"),
    # --- platform ---
    ("pc", cxl(PMEM, machine_type="pc"), "machine_type", "pc has no PCI Express, so the guest would find no CXL; use 'q35'"),
    ("cxl off", cxl(PMEM, machine_options={"cxl": False}), "machine_options.cxl", "has a field of its own"),
    ("no ACPI", cxl(PMEM, acpi=False), "acpi", "without ACPI tables the guest finds no CXL"),
    ("acpi=off in the kernel's words", cxl(PMEM, append="acpi=off"), "append", "with acpi=off the guest finds no CXL"),
    ("virt on x86", cxl(PMEM, machine_type="virt"), "machine_type", "x86_64 has no machine 'virt'; use 'q35'"),
    ("q35 on arm", {"arch": "aarch64", "machine_type": "q35"}, "machine_type", "aarch64 has no machine 'q35'; use 'virt'"),
    ("GIC of a PC", cxl(PMEM, gic_version=3), "gic_version", "q35 has no GIC"),
    ("maxmem below m", cxl(PMEM, memory="2G", memory_max="1G", memory_slots=2), "memory_max", "1G is less than memory = 2G"),
    ("maxmem without slots", cxl(PMEM, memory_max="8G"), "memory_max", "room for memory without slots"),
    ("slots without maxmem", cxl(PMEM, memory_slots=8), "memory_slots", "slots without room for memory"),
    ("sockets", cxl(PMEM, cpus=4, cpu={"sockets": 3}), "cpu", "3 sockets do not make 4 CPUs"),
    ("sockets and cores", cxl(PMEM, cpus=4, cpu={"sockets": 1, "cores": 2, "threads": 1}), "cpu", "1 sockets x 2 cores x 1 threads do not make 4 CPUs"),
    ("bridge near no node", cxl(PMEM, ("host_bridges", [{"numa_node": 1}])), "cxl.host_bridges.0.numa_node", "there is no NUMA node 1"),
    # --- NUMA ---
    ("CPU in no node", {"nodes": 0, "cpus": 4, "memory": "1G", "numa": [{"cpus": "0-2", "memory": "1G"}]}, "numa", "no node has CPU 3"),
    ("CPU in two nodes", {"nodes": 0, "cpus": 2, "memory": "1G", "numa": [{"cpus": "0-1", "memory": "1G"}, {"cpus": "1"}]}, "numa.1.cpus", "CPU 1 is already in node 0"),
    ("CPU that is not there", {"nodes": 0, "cpus": 2, "memory": "1G", "numa": [{"cpus": "0-4", "memory": "1G"}]}, "numa.0.cpus", "there is no CPU 2: the machine has 2; count from 0 to 1"),
    ("memory of the nodes", {"nodes": 0, "cpus": 1, "memory": "1G", "numa": [{"cpus": 0, "memory": "512M"}]}, "numa", "the nodes have 512M, the machine 1G"),
    ("too few distances", {"nodes": 0, "cpus": 1, "memory": "1G", "numa": [{"cpus": 0, "memory": "1G", "distances": [10]}, {}]}, "numa.0.distances", "1 distances for 2 nodes"),
    ("distance to itself", {"nodes": 0, "cpus": 1, "memory": "1G", "numa": [{"cpus": 0, "memory": "1G", "distances": [20, 20]}, {"distances": [20, 10]}]}, "numa.0.distances", "20 from a node to itself; that is always 10"),
    ("distance 10", {"nodes": 0, "cpus": 1, "memory": "1G", "numa": [{"cpus": 0, "memory": "1G", "distances": [10, 10]}, {"distances": [20, 10]}]}, "numa.0.distances", "10 from a node to another one"),
    # --- the giant VM ---
    ("giant VM under TCG", {"nodes": 2, "accel": "tcg"}, "accel", "the nodes of a giant VM run under KVM"),
    ("giant VM on Arm", {"nodes": 2, "arch": "aarch64"}, "arch", "aarch64 runs on one host only; use nodes = 0"),
    ("vfio in a giant VM", {"nodes": 2, "qemu_args": ["-device", "vfio-pci,host=01:00.0"]}, "qemu_args.0", "vfio-pci reads and writes guest memory behind the nodes' backs"),
    ("vhost in a giant VM", {"nodes": 2, "networks": [{"kind": "tap", "backend_options": {"vhost": True}}]}, "networks.0.backend_options.vhost", "behind the nodes' backs"),
    ("direct images in a giant VM", {"nodes": 2, "disks": [{"file": "IMAGE", "drive_options": {"cache": "none"}}]}, "disks.0.drive_options.cache", "pins guest memory"),
    ("window among the arguments", cxl(PMEM, qemu_args=["-M", "cxl-fmw.1.size=4G"]), "qemu_args.0", "QEMU takes the keys of all windows together or not at all"),
    ("old window among the arguments", cxl(PMEM, qemu_args=["-cxl-fixed-memory-window", "targets.0=hb0,size=4G"]), "qemu_args.0", "describe the window under cxl.windows"),
    ("NUMA in a giant VM", {"nodes": 2, "numa": [{"cpus": "0-3", "memory": "1G"}]}, "numa", "the NUMA nodes of a giant VM are its nodes"),
    # --- disks, networks, display ---
    ("no image", {"nodes": 0, "disks": [{"file": "/nowhere/d.img"}]}, "disks.0.file", "there is no image /nowhere/d.img; make it: qemu-img create"),
    ("one image, two writers", {"nodes": 0, "disks": [{"file": "IMAGE"}, {"file": "IMAGE"}]}, "disks.1.file", "is already used by disks.0, and one of them writes"),
    ("one image, a writer and a reader", {"nodes": 0, "disks": [{"file": "IMAGE", "snapshot": True}, {"file": "IMAGE"}]}, "disks.1.file", "is already used by disks.0, and one of them writes"),
    ("ide, read-only", {"nodes": 0, "disks": [{"file": "IMAGE", "interface": "ide", "readonly": True}]}, "disks.0.interface", "ide disks cannot be read-only"),
    ("not qcow2", {"nodes": 0, "disks": [{"file": "IMAGE", "format": "qcow2"}]}, "disks.0.format", "is a raw image, not qcow2"),
    ("ide on virt", {"arch": "aarch64", "disks": [{"file": "IMAGE", "interface": "ide"}]}, "disks.0.interface", "virt has no ide"),
    ("seven ide disks", {"nodes": 0, "disks": [{"file": "IMAGE", "interface": "ide", "snapshot": True}] * 7}, "disks.6.interface", "q35 has 6 ide ports"),
    ("optical nvme", {"nodes": 0, "disks": [{"file": "IMAGE", "interface": "nvme", "cdrom": True}]}, "disks.0.interface", "there are no optical nvme drives"),
    ("forward over tap", {"nodes": 0, "networks": [{"kind": "tap", "forward": ["2222:22"]}]}, "networks.0.forward", "is for networks of kind 'user', and this is 'tap'"),
    ("port forwarded twice", {"nodes": 0, "networks": [{"forward": ["2222:22", "2222:80"]}]}, "networks.0.forward.1", "port 2222 is already forwarded by networks.0.forward.0"),
    ("group address", {"nodes": 0, "networks": [{"mac": "01:00:00:00:00:01"}]}, "networks.0.mac", "is a group's address"),
    ("vnc", {"nodes": 0, "display": {"vnc": "5900"}}, "display.vnc", "'5900' is no place for a VNC server"),
    ("PC card on Arm", {"arch": "aarch64", "display": {"vnc": ":0", "adapter": "cirrus"}}, "display.adapter", "virt has no cirrus"),
    ("stdio twice", {"nodes": 0, "serial": ["stdio"], "monitor": ["stdio"]}, "monitor.0", "standard input and output already belong to serial.0"),
    # --- boot ---
    ("nothing to boot from", {"nodes": 0, "boot": "firmware"}, "boot", "firmware has nothing to boot from: there is no disk"),
    ("kernel that is not there", {"nodes": 0, "kernel": "/nowhere/bzImage"}, "kernel", "there is no file /nowhere/bzImage"),
    ("firmware that is not there", {"nodes": 0, "firmware": "/nowhere/EFI.fd"}, "firmware", "there is no file /nowhere/EFI.fd; install it"),
    ("variables alone", {"nodes": 0, "firmware_variables": "IMAGE"}, "firmware_variables", "variables without the firmware"),
    ("kernel and firmware boot", {"nodes": 0, "boot": "firmware", "kernel": "IMAGE", "disks": [{"file": "IMAGE"}]}, "kernel", "firmware boots from a disk, the kernel would not be used"),
]  # fmt: skip


def filled(table: Any, image: Path) -> Any:
    """The table with IMAGE replaced by a file that is there."""
    if isinstance(table, dict):
        return {name: filled(value, image) for name, value in table.items()}
    if isinstance(table, list):
        return [filled(value, image) for value in table]
    return str(image) if table == "IMAGE" else table


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(b"\0" * 4096)
    return path


@pytest.mark.parametrize(("table", "field", "words"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_a_wrong_description_is_refused(table: Table, field: str, words: str, image: Path) -> None:
    machine = make_machine({"schema": 1, **filled(table, image)})
    with pytest.raises(ConfigError) as raised:
        enforce(machine, source="m.toml")
    lines = raised.value.message.splitlines()
    assert any(line.startswith(f"m.toml: {field}: ") and words in line for line in lines), raised.value.message
    assert all("; " in line for line in lines), "every line has a remedy"


def test_the_table_is_long_enough_and_every_base_is_right() -> None:
    assert len(WRONG) >= 60
    for base in (PMEM, TWO, BRIDGES, FULL):
        assert check(make_machine({"schema": 1, "cxl": base})) == []


DEPENDS: list[tuple[str, str, str | None, Table, str, str, str]] = [
    # id, QEMU, kernel, description, severity, field, words
    ("volatile", "7.2", None, cxl({"memory": [{"volatile": "256M"}]}), "error", "cxl.memory.0.volatile", "QEMU 7.2.22 has no volatile CXL memory"),
    ("dynamic", "7.2", None, cxl({"memory": [{"dynamic": "256M"}]}), "error", "cxl.memory.0.dynamic", "has no dynamic CXL memory"),
    ("one root port", "7.2", None, cxl(PMEM, ("host_bridges", [{"root_ports": 1}])), "error", "cxl.host_bridges.0.root_ports", "loses what the guest writes, in silence; give it 2 root ports"),
    ("decoders asked for", "7.2", None, cxl(PMEM, ("host_bridges", [{"hdm_for_passthrough": True}])), "warning", "cxl.host_bridges.0.hdm_for_passthrough", "it is left out"),
    ("switch with a serial number", "7.2", None, cxl(FULL, ("switches.0.serial", 9)), "error", "cxl.switches.0.serial", "have no serial number"),
    ("new kernel", "7.2", "6.12.95-cloud-amd64", cxl(PMEM), "error", "kernel", "shows no memory device under QEMU 7.2.22, which has no event logs"),
    ("virt without CXL", "10.0-arm", None, cxl(PMEM, arch="aarch64"), "error", "cxl", "QEMU 10.0.13 has no CXL for 'virt'; QEMU 10.2 and newer do; `lev images get qemu --suite sid --arch arm64`"),
    ("no UEFI", "11.1-arm", None, cxl(PMEM, arch="aarch64"), "error", "firmware", "aarch64 needs UEFI firmware for this"),
    ("stock arm64 kernel", "11.1-arm", "7.2.13+deb14-arm64", cxl(PMEM, arch="aarch64"), "warning", "kernel", "refuse `cxl create-region`"),
    ("QEMU of another architecture", "10.0", None, cxl(PMEM, arch="aarch64"), "error", "qemu", "is for x86_64, the machine is aarch64"),
    ("no KVM here", "10.0", None, cxl(PMEM, accel="kvm"), "error", "accel", "KVM does not run such guests here: no hardware virtualization; use 'tcg'"),
    ("no such CPU", "10.0", None, cxl(PMEM, cpu="EPYCC"), "error", "cpu.model", "has no CPU model 'EPYCC'; perhaps EPYC"),
    ("host under TCG", "10.0", None, cxl(PMEM, cpu="host"), "error", "cpu.model", "'host' needs KVM"),
    ("no such network card", "10.0", None, {"nodes": 0, "networks": [{"model": "e100e"}]}, "error", "networks.0.model", "has no network card 'e100e'; perhaps e1000"),
    ("hypervisor bit", "10.0", "6.12.95", cxl(PMEM, cpu="max,hypervisor=on"), "error", "cpu.features.hypervisor", "`cxl create-region` fails (Failed to synchronize CPU cache state) with 6.12.95"),
    ("hypervisor bit, kernel unknown", "10.0", None, cxl(PMEM, cpu="max,+hypervisor"), "warning", "cpu.features.hypervisor", "from kernel 6.2 on"),
    ("warm reset", "10.0", None, cxl(PMEM, reboot="warm"), "warning", "reboot", "endpoint failed probe"),
    ("slow window", "10.0", None, cxl({"memory": [{"volatile": "256M"}]}), "warning", "cxl.memory", "10 to 50 times slower than RAM; if speed matters, use QEMU 11.1 or newer"),
    ("interleaving is emulated", "11.1", None, cxl({"memory": [{"volatile": "256M"}] * 2, "windows": [{"targets": ["a", "b"]}]}), "warning", "cxl.windows", "an interleaved window is emulated"),
    ("emulated over nodes", "10.0", None, cxl(PMEM, nodes=2), "warning", "cxl", "QEMU 10.0.13 emulates CXL memory: every access of 8 bytes is an exit to the head's QEMU"),
    ("interleaved over nodes", "11.1", None, cxl(BRIDGES, nodes=2), "warning", "cxl.windows", "an interleaved window is emulated: every access of 8 bytes"),
    ("code in emulated memory over nodes", "10.0", None, cxl({"memory": [{"volatile": "256M"}]}, nodes=2), "warning", "cxl.memory", "programs that run from it under KVM die"),
    ("private file over nodes", "11.1", None, cxl({"memory": [{"persistent": {"size": "256M", "shared": False}}]}, nodes=2), "error", "cxl.memory.0.persistent.shared", "cannot be kept coherent over nodes; leave it out"),
    ("code in emulated memory under KVM", "10.0-kvm", None, cxl({"memory": [{"volatile": "256M"}]}), "warning", "cxl.memory", "programs that run from it under KVM die (illegal instruction)"),
    ("ram regions", "10.0", "6.1.192", cxl({"memory": [{"volatile": "256M"}]}), "warning", "cxl.memory.0.volatile", "kernel 6.1.192 makes no regions of volatile memory; 6.3 and newer do"),
    ("dynamic capacity", "11.1", "7.2.13", cxl({"memory": [{"dynamic": "256M"}]}), "warning", "cxl.memory.0.dynamic", "extents that are added stay pending"),
    ("one region", "10.0", None, cxl({"memory": [{"persistent": "256M", "volatile": "256M"}], "host_bridges": [{"root_ports": 1, "hdm_for_passthrough": False}]}), "warning", "cxl.host_bridges.0.hdm_for_passthrough", "only one region can live behind it"),
    ("too many regions", "10.0", None, cxl({"memory": [{"persistent": "256M"}] * 5}), "warning", "cxl.host_bridges.0", "a host bridge of QEMU 10.0.13 has room for 4 regions; devices used one by one make 5"),
    ("two regions with 7.2", "7.2", None, cxl(TWO), "warning", "cxl.host_bridges.0", "has room for 1 region; devices used one by one make 2"),
    ("arguments with a field", "10.0", None, cxl(PMEM, qemu_args=["-enable-kvm"]), "warning", "qemu_args.0", "write it as accel"),
    ("unbalanced", "10.0", None, cxl(BRIDGES, ("memory.append", {"persistent": "256M"})), "warning", "cxl.windows.0.targets", "they differ (a: 256M + 256M, b: 256M)"),
    ("odd window", "10.0", None, cxl(BRIDGES, ("windows.0.size", "4352M")), "warning", "cxl.windows.0.size", "over 2 targets regions are multiples of 512M"),
    ("small labels", "10.0", None, cxl(PMEM, ("memory.0.labels", "4K")), "warning", "cxl.memory.0.labels", "may be too small for a namespace"),
    ("persistent in ram", "10.0", None, cxl({"memory": [{"persistent": {"size": "256M", "kind": "ram"}}]}), "warning", "cxl.memory.0.persistent.kind", "is lost when it ends"),
    ("persistent but private", "10.0", None, cxl({"memory": [{"persistent": {"size": "256M", "shared": False}}]}), "warning", "cxl.memory.0.persistent.shared", "never reaches the file"),
    ("nothing installed", "10.0", None, {"nodes": 0, "disks": [{"file": "IMAGE"}]}, "warning", "disks", "`No bootable device`; add the installer's image"),
    ("dark screen", "10.0", None, {"nodes": 0, "display": {"vnc": ":0", "adapter": "none"}}, "warning", "display.adapter", "the screen stays dark"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("qemu", "kernel", "table", "severity", "field", "words"),
    [row[1:] for row in DEPENDS],
    ids=[row[0] for row in DEPENDS],
)
def test_what_depends_on_qemu_kernel_and_accelerator(
    qemu: str, kernel: str | None, table: Table, severity: str, field: str, words: str, image: Path
) -> None:
    version, _, kind = qemu.partition("-")
    facts = recorded(version, "aarch64" if kind == "arm" else "x86_64", **({"kvm": None} if kind == "kvm" else {}))
    machine = make_machine({"schema": 1, **filled(table, image)})
    findings = check(machine, qemu=facts, guest_kernel=KernelFacts(kernel) if kernel else None)
    assert any(f.severity == severity and f.field == field and words in str(f) for f in findings), findings


@pytest.mark.parametrize(
    ("version", "kernel"), [("7.2", "6.1.192"), ("10.0", "6.1.192"), ("10.0", "6.12.95"), ("11.1", "7.2.13")]
)
def test_the_pairs_that_were_measured_to_work_have_no_findings(version: str, kernel: str) -> None:
    machine = make_machine({"schema": 1, "cxl": PMEM})
    assert check(machine, qemu=recorded(version), guest_kernel=KernelFacts(kernel)) == []


def test_a_disc_for_another_architecture_is_named(tmp_path: Path) -> None:
    disc = tmp_path / "ubuntu-20.04.5-desktop-amd64.iso"
    disc.write_bytes(b"")
    machine = make_machine({"schema": 1, "arch": "aarch64", "disks": [{"file": str(disc), "cdrom": True}]})
    (finding,) = check(machine)
    assert (finding.severity, finding.field) == ("warning", "disks.0.file")
    assert str(finding).endswith("looks like an image for amd64; the machine is aarch64; use the image for arm64")


def backed(file: Path) -> Table:
    return {"schema": 1, "cxl": {"memory": [{"persistent": {"size": "256M", "file": str(file)}}]}}


@pytest.mark.parametrize(
    ("size", "severity", "words"),
    [
        (1 << 20, "error", "has 1M, the description says 256M; use its size, or make it longer: truncate -s 256M"),
        (1 << 29, "warning", "has 512M; the guest sees its first 256M"),
    ],
)
def test_a_backing_file_of_another_size(tmp_path: Path, size: int, severity: str, words: str) -> None:
    file = tmp_path / "p.raw"
    with file.open("wb") as out:
        out.truncate(size)
    (finding,) = check(make_machine(backed(file)))
    assert finding.severity == severity
    assert words in str(finding)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_backing_file_that_may_not_be_written(tmp_path: Path) -> None:
    file = tmp_path / "p.raw"
    file.touch(mode=0o400)
    (finding,) = check(make_machine(backed(file)))
    assert "cannot be read and written" in str(finding)


def test_files_in_the_machines_own_directory_need_not_be_there(tmp_path: Path) -> None:
    machine = make_machine({"schema": 1, "cxl": PMEM})
    assert check(machine, directory=tmp_path / "not-yet") == []


def test_a_kernels_configuration_beside_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "config-6.12.1").write_text(
        'CONFIG_CXL_BUS=m\n# CONFIG_CXL_PMEM is not set\nCONFIG_LOCALVERSION="-x"\n'
    )
    image = tmp_path / "vmlinuz-6.12.1"
    image.touch()
    facts = kernel_facts("6.12.1", image)
    assert facts.config == {"CXL_BUS": "m", "LOCALVERSION": "-x"}
    (finding,) = check(make_machine({"schema": 1, "cxl": PMEM}), guest_kernel=facts)
    assert "CONFIG_CXL_PCI" in finding.problem
    assert "CONFIG_CXL_PMEM" in finding.problem
    assert "CONFIG_CXL_BUS" not in finding.problem


def test_a_kernel_built_for_testing_may_run_on_arm() -> None:
    config = parse_config(
        "".join(f"CONFIG_{name}=y\n" for name in (*REQUIRED, *FOR_PERSISTENT, "CXL_REGION_INVALIDATION_TEST"))
    )
    machine = make_machine({"schema": 1, "arch": "aarch64", "cxl": PMEM})
    assert check(machine, guest_kernel=KernelFacts("7.2.0", config)) == []


def test_a_file_with_a_mistake_is_named_with_all_its_mistakes(tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text('schema = 1\n[[cxl.memory]]\npersistent = "100M"\nserial = 0\n')
    with pytest.raises(ConfigError) as raised:
        enforce(load_machine(file), source=str(file))
    assert [line.split(": ")[1] for line in raised.value.message.splitlines()] == [
        "cxl.memory.0.serial",
        "cxl.memory.0.persistent",
    ]


def test_every_rule_is_a_function_with_a_reason() -> None:
    rules: list[Callable[..., Any]] = list(RULES)
    assert len(rules) > 40
    assert [rule.__name__ for rule in rules if not callable(rule) or not rule.__doc__] == []
