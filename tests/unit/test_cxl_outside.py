"""CXL of a running guest, from outputs recorded in one (QEMU 11.1, kernel 7.2, tools 85): read, ordered, shown.

``mixed``: two bridges with two devices each, windows over both and over each; ``switch``: two devices behind a switch
and one beside it. ``a``: as booted; ``b``: with regions; ``d``: after they were destroyed.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leviathan.cxl.graph import make_graph
from leviathan.cxl.guest import explain, find_memdev
from leviathan.cxl.listing import devices_json
from leviathan.cxl.names import read_names
from leviathan.cxl.order import plan_region
from leviathan.cxl.parse import GuestToolError, Names, parse_topology, read_json
from leviathan.cxl.picture import svg
from leviathan.cxl.schema import Schema, require
from leviathan.cxl.topology import Memdev, Port, Slot, Topology, Window
from leviathan.cxl.tree import tree
from leviathan.errors import LeviathanError, UsageError
from leviathan.named.client import Finished

DATA = Path(__file__).parent / "data" / "cxl"
MIXED = Names(
    {1: "pm0", 3: "pm1", 2: "vm0", 4: "vm1"},
    {12: "hb0", 52: "hb1"},
    {("hb0", 0): "rp0", ("hb0", 1): "rp1", ("hb1", 0): "rp2", ("hb1", 1): "rp3", ("hb1", 2): "rp4"},
)
SWITCH = Names(
    {1: "vm0", 2: "vm1", 3: "vm2"},
    {12: "hb0"},
    {("hb0", 0): "rp0", ("hb0", 1): "rp1", ("sw0", 0): "dp0", ("sw0", 1): "dp1"},
    {"rp0": "sw0"},
)
MIB = 1 << 20
POISON = (
    "cxl-123 [000] ..... 6.81: cxl_poison: memdev=mem3 host=0000:0e:00.0 serial=2 trace_type=List region=region1 "
    "overflow_ts=0 region_uuid=00000000-0000-0000-0000-000000000000 hpa=0x150001000 hpa_alias0=0xffffffffffffffff "
    "dpa=0x1000 dpa_length=0x100 source=Internal flags= overflow_time=0\n"
)


def recorded(name: str, names: Names | None = None, **more: str) -> Topology:
    cxl, ndctl = ((DATA / f"{name}.{tool}.json").read_text() for tool in ("cxl", "ndctl"))
    return parse_topology(cxl, ndctl, more.get("mounts", ""), "0 987000 0-1\n", names, poison=more.get("poison", ""))


def by_serial(topology: Topology, *serials: int) -> list[Memdev]:
    return [find_memdev(str(serial), topology) for serial in serials]


# --- reading ----------------------------------------------------------------------------------------------------------


def test_a_machine_as_booted() -> None:
    topology = recorded("mixed-a", MIXED)
    assert [bridge.id for bridge in topology.bridges] == ["hb0", "hb1"]
    assert [(slot.id, slot.child.label if slot.child else None) for slot in topology.bridges[0].slots] == [
        ("rp0", "pm0"),
        ("rp1", "vm0"),
    ]
    assert topology.bridges[1].slots[2] == Slot("", 2, None, "rp4"), "the kernel does not list empty ports"
    assert topology.regions == ()
    assert [(m.serial, m.pmem // MIB, m.ram // MIB) for m in topology.memdevs()] == [
        (1, 256, 0),
        (2, 0, 256),
        (3, 256, 0),
        (4, 0, 512),
    ]
    window = topology.windows[0]
    assert (window.targets, window.size, window.free) == (("pci0000:0c", "pci0000:34"), 1 << 30, 1 << 30)
    assert not any(d.committed for memdev in topology.memdevs() for d in memdev.decoders)


def test_regions_and_what_became_of_them() -> None:
    topology = recorded("mixed-b", MIXED, mounts="/dev/pmem0 /mnt/d ext4 rw,dax 0 0\n", poison=POISON)
    pmem, ram = topology.regions
    assert (pmem.kind, pmem.ways, pmem.committed, pmem.size) == ("pmem", 2, True, 512 * MIB)
    assert [topology.memdev(name).serial for name in pmem.members] == [1, 3]  # type: ignore[union-attr]
    assert [(n.name, n.mode, n.device, n.mount) for n in pmem.namespaces] == [
        ("namespace0.0", "fsdax", "pmem0", "/mnt/d"),
        ("namespace0.1", "devdax", "dax0.1", None),
    ]
    assert (ram.kind, ram.decoder, ram.daxes[0].name, ram.daxes[0].node) == ("ram", "decoder0.1", "dax1.0", 1)
    (poisoned,) = [memdev for memdev in topology.memdevs() if memdev.media_errors]
    assert (poisoned.id, poisoned.media_errors) == ("vm0", ((0x1000, 0x100, "Internal"),))
    assert sum(decoder.committed for decoder in topology.bridges[0].decoders) == 2


def test_destroyed_regions_are_gone() -> None:
    topology = recorded("mixed-d")
    assert topology.regions == ()
    assert not any(d.committed for bridge in topology.bridges for d in bridge.decoders)


def test_a_switch() -> None:
    topology = recorded("switch-b", SWITCH)
    (bridge,) = topology.bridges
    switch = bridge.slots[0].child
    assert isinstance(switch, Port)
    assert (switch.kind, switch.id) == ("switch", "sw0")
    assert [(slot.id, slot.child.label if slot.child else "") for slot in switch.slots] == [
        ("dp0", "vm0"),
        ("dp1", "vm1"),
    ]
    (region,) = topology.regions
    assert (region.daxes[0].mode, region.daxes[0].online, region.daxes[0].blocks) == ("system-ram", 0, 4)


def test_linux_6_1_names_neither_ports_nor_bridges() -> None:
    """Recorded with QEMU 7.2: places of devices come from sysfs, bridges have their PCI names as aliases."""
    ports = ("0000:0c:01.0/0000:0e:00.0/mem0", "0000:0c:00.0/0000:0d:00.0/mem1")
    paths = "".join(f"/sys/devices/pci0000:0c/{port}\n" for port in ports)
    names = Names({1: "cxl-pmem0", 2: "cxl-pmem1"}, {12: "hb0"}, {("hb0", 0): "hb0rp0", ("hb0", 1): "hb0rp1"})
    text = (DATA / "linux61-a.cxl.json").read_text()
    topology = parse_topology(text, names=names, paths=paths)
    assert [device["where"] for device in devices_json(topology)] == ["hb0 > hb0rp0", "hb0 > hb0rp1"]
    assert topology.windows[0].targets == ("pci0000:0c",)
    assert plan_region(topology, by_serial(topology, 2)).window.decoder == "decoder0.0"
    assert len(list(parse_topology(text).memdevs())) == 2, "without their places, too"


@pytest.mark.parametrize(
    "text",
    ["", "Warning: no matching devices found\n", "[]", '[{"bus": 7, "ports:root0": [1, {"dports": 3}]}]', "[[[]]]"],
)
def test_what_is_not_there_or_nonsense(text: str) -> None:
    assert list(parse_topology(text).memdevs()) == []


def test_broken_json_is_said() -> None:
    with pytest.raises(GuestToolError, match="`cxl list` printed no JSON in the guest"):
        read_json('[\n {"memdev":', "cxl list")


def test_complaints_before_the_json_are_passed_over() -> None:
    assert read_json('libcxl: cxl_fwl_get_status: nothing\n[{"a":1}]\ncreated 1 region\n', "x") == [{"a": 1}]


def test_devices_without_a_path() -> None:
    text = '[{"anon memdevs":[{"memdev":"mem0","pmem_size":268435456,"serial":9,"host":"0000:01:00.0"}]},{"buses":[]}]'
    (memdev,) = parse_topology(text).memdevs()
    assert (memdev.serial, memdev.enabled) == (9, False)
    with pytest.raises(UsageError, match="serial 0x9 has no path to a host bridge"):
        plan_region(parse_topology(text), [memdev])


def test_names_from_qemus_objects() -> None:
    """As QEMU 11.1 answered."""
    objects: dict[str, dict[str, Any]] = {
        "cxl-pmem0": {"type": "cxl-type3", "sn": 1, "parent_bus": "/machine/peripheral/hb0rp0/hb0rp0"},
        "hb0": {"type": "pxb-cxl", "bus_nr": 12},
        "hb0rp0": {"type": "cxl-rp", "port": 0, "parent_bus": "/machine/unattached/device[27]/hb0"},
        "us0": {"type": "cxl-upstream", "parent_bus": "/machine/peripheral/hb0rp1/hb0rp1"},
        "dp1": {"type": "cxl-downstream", "port": 1, "parent_bus": "/machine/peripheral/us0/us0"},
        "ports": {"type": "virtio-serial-pci"},
    }

    def monitor(command: str, **arguments: str) -> Any:
        if command == "qom-list":
            return [{"name": "type", "type": "string"}] + [
                {"name": name, "type": f"child<{facts['type']}>"} for name, facts in objects.items()
            ]
        facts = objects[arguments["path"].rpartition("/")[2]]
        if arguments["property"] not in facts:
            raise LeviathanError("QEMU refused qom-get")
        return facts[arguments["property"]]

    names = read_names(monitor)
    assert names.memories == {1: "cxl-pmem0"}
    assert names.bridges == {12: "hb0"}
    assert names.ports == {("hb0", 0): "hb0rp0", ("us0", 1): "dp1"}
    assert names.switches == {"hb0rp1": "us0"}


# --- which window, which order ----------------------------------------------------------------------------------------


def test_the_order_alternates_between_bridges() -> None:
    topology = recorded("mixed-a", MIXED)
    plan = plan_region(topology, by_serial(topology, 3, 1))
    assert [device.id for device in plan.devices] == ["pm0", "pm1"]
    assert plan.arguments() == [
        *("cxl", "create-region", "-m", "-d", "decoder0.0", "-w", "2", "-t", "pmem", "-s", str(512 * MIB)),
        *("mem1", "mem2"),
    ], "the command that the guest took when this was recorded"


def test_one_device_goes_into_the_window_of_its_bridge() -> None:
    topology = recorded("mixed-a", MIXED)
    assert plan_region(topology, by_serial(topology, 2)).window.decoder == "decoder0.1"
    assert plan_region(topology, by_serial(topology, 4)).window.decoder == "decoder0.2"


def test_devices_behind_a_switch() -> None:
    topology = recorded("switch-a", SWITCH)
    plan = plan_region(topology, by_serial(topology, 2, 1), granularity=1024)
    assert [device.id for device in plan.devices] == ["vm0", "vm1"]
    assert plan.arguments()[-4:] == ["-g", "1024", *(find_memdev(name, topology).name for name in ("vm0", "vm1"))]


def machine(bridges: int, ports: int, switch: int = 0) -> Topology:
    """Bridges with so many root ports, each with a device or a switch of so many; serials count up in that order."""
    serial = 0

    def device() -> Memdev:
        nonlocal serial
        serial += 1
        return Memdev(f"mem{97 * serial % 89}", serial, ram=256 * MIB)

    def below(name: str) -> Port | Memdev:
        if not switch:
            return device()
        return Port(name, name, "switch", tuple(Slot(f"{name}.{n}", n, device()) for n in range(switch)))

    made = tuple(
        Port(
            f"port{b}",
            f"pci0000:{b:02x}",
            "bridge",
            tuple(Slot(f"{b}.{p}", p, below(f"{b}.{p}")) for p in range(ports)),
        )
        for b in range(bridges)
    )
    window = Window("decoder0.0", 1 << 32, 1 << 36, tuple(bridge.host for bridge in made), free=1 << 36)
    return Topology((window,), made)


def test_four_ways_over_two_bridges() -> None:
    """Measured: the good order is 1, 3, 2, 4."""
    topology = machine(2, 2)
    plan = plan_region(topology, by_serial(topology, 1, 2, 3, 4))
    assert [device.serial for device in plan.devices] == [1, 3, 2, 4]


def test_eight_ways_over_bridges_and_switches() -> None:
    topology = machine(2, 2, switch=2)
    plan = plan_region(topology, by_serial(topology, *range(1, 9)))
    assert [device.serial for device in plan.devices] == [1, 5, 3, 7, 2, 6, 4, 8]


@given(
    shape=st.sampled_from([(1, 1, 0), (2, 1, 0), (1, 4, 0), (2, 2, 0), (2, 2, 2), (4, 2, 2), (2, 8, 0), (1, 2, 3)]),
    seed=st.randoms(use_true_random=False),
)
def test_the_order_does_not_depend_on_how_devices_are_named(shape: tuple[int, int, int], seed: Any) -> None:
    topology = machine(*shape)
    devices = list(topology.memdevs())
    shuffled = devices[:]
    seed.shuffle(shuffled)
    plan = plan_region(topology, shuffled)
    assert plan == plan_region(topology, devices)
    assert {device.serial for device in plan.devices} == {device.serial for device in devices}
    for position, device in enumerate(plan.devices):
        target = plan.window.targets[position % len(plan.window.targets)]
        bridge = next(bridge for bridge in topology.bridges if bridge.host == target)
        assert device in list(bridge.memdevs()), f"position {position}"


@pytest.mark.parametrize(
    ("serials", "wishes", "message"),
    [
        ((1, 2), {}, "persistent .pm0. and volatile devices do not make one region"),
        ((1, 1), {}, "a device is named twice"),
        ((1,), {"kind": "ram"}, "pm0 has no volatile memory"),
        ((1,), {"window": "decoder0.9"}, "there is no window decoder0.9"),
        (
            (1,),
            {"window": "decoder0.2"},
            "no window fits a pmem region of 256M with 1 below hb0: decoder0.2 goes to hb1",
        ),
        (
            (1, 3),
            {"granularity": 512},
            "granularity 512: window decoder0.0 goes to its bridges in turn every 256 bytes",
        ),
        ((1, 3), {"size": 300 * MIB}, "a size of 300M over 2 devices: each gives a multiple of 256M"),
        ((1, 3), {"size": 1024 * MIB}, "a size of 1G: the devices have 512M"),
        ((), {}, "a region needs memory devices"),
    ],
)
def test_regions_that_cannot_be(serials: tuple[int, ...], wishes: dict[str, Any], message: str) -> None:
    topology = recorded("mixed-a", MIXED)
    with pytest.raises(UsageError, match=message):
        plan_region(topology, by_serial(topology, *serials), **wishes)


def test_devices_that_are_taken_and_windows_that_are_full() -> None:
    topology = recorded("mixed-b", MIXED)
    with pytest.raises(UsageError, match="pm0 is part of region0") as raised:
        plan_region(topology, by_serial(topology, 1))
    assert raised.value.hint is not None
    assert raised.value.hint.endswith("destroy-region VM region0")
    full = replace(topology, windows=tuple(replace(window, free=0) for window in topology.windows))
    with pytest.raises(UsageError, match=r"decoder0\.2 has 0 free|decoder0\.2 has 0B? free"):
        plan_region(full, by_serial(full, 4))


def test_unequal_branches() -> None:
    topology = machine(2, 2)
    with pytest.raises(UsageError, match="no window fits"):
        plan_region(topology, by_serial(topology, 1, 2, 3))
    lopsided = machine(1, 2, switch=2)
    with pytest.raises(UsageError, match="the ports in use have 2, 1 of the devices"):
        plan_region(lopsided, by_serial(lopsided, 1, 2, 3))


# --- showing ----------------------------------------------------------------------------------------------------------


def test_the_tree() -> None:
    text = tree(recorded("mixed-b", MIXED, mounts="/dev/pmem0 /mnt/d ext4 rw 0 0\n"), "CXL of x")
    assert text.splitlines()[0] == "CXL of x"
    for line in (
        "├─ host bridge hb0: port2, pci0000:0c, 2 of 4 decoders committed",
        "│  │  └─ pm0: mem1, serial 0x1, pmem 256 MiB",
        "│  │     └─ in region0, position 0 of 2: committed",
        "│  └─ root port rp4: empty",
        "│  └─ region0: committed, pmem, 512 MiB, 2-way every 256 bytes, at 0x110000000",
        "│     ├─ over pm0, pm1",
        "│     ├─ namespace0.0: fsdax, 124 MiB, /dev/pmem0, mounted on /mnt/d",
        "│     └─ dax1.0: devdax, 256 MiB, NUMA node 1",
        "   └─ node 0: 963.9 MiB, CPUs 0-1",
    ):
        assert line in text.splitlines(), f"{line}\n{text}"


def test_a_guest_without_cxl() -> None:
    assert tree(parse_topology("[]"), "CXL of x") == "CXL of x\n└─ the guest sees no CXL\n"


def test_the_graph_goes_from_window_to_use() -> None:
    graph = make_graph(recorded("mixed-b", MIXED, mounts="/dev/pmem0 /mnt/d ext4 rw 0 0\n"))
    committed = {(edge.start, edge.end) for edge in graph.edges if edge.committed}
    for pair in (
        ("window:decoder0.0", "port:pci0000:0c"),
        ("port:pci0000:0c", "slot:pci0000:0c:0"),
        ("slot:pci0000:0c:0", "mem:mem1"),
        ("mem:mem1", "region:region0"),
        ("region:region0", "space:namespace0.0"),
        ("space:namespace0.0", "mount:/mnt/d"),
    ):
        assert pair in committed
    assert ("window:decoder0.2", "port:pci0000:34") not in committed
    assert graph.boxes["mem:mem0"].state == "idle"
    columns = [
        graph.boxes[key].column for key in ("window:decoder0.0", "slot:pci0000:0c:0", "mem:mem1", "mount:/mnt/d")
    ]
    assert columns == sorted(columns)


@pytest.mark.parametrize("name", ["mixed-a", "mixed-b", "mixed-d", "switch-b"])
def test_the_picture_is_svg_without_overlaps(name: str) -> None:
    graph = make_graph(recorded(name, SWITCH if "switch" in name else MIXED))
    root = ElementTree.fromstring(svg(graph, "a <b> & c"))
    space = "{http://www.w3.org/2000/svg}"
    assert root.findtext(f"{space}title") == "a <b> & c"
    rows = [
        [float(r.get(k, "0")) for k in ("x", "y", "width", "height")] for r in root.iter(f"{space}rect") if r.get("x")
    ]
    assert len(rows) == len(graph.boxes)
    for index, (x, y, width, height) in enumerate(rows):
        assert x + width <= float(root.get("width", "0"))
        assert y + height <= float(root.get("height", "0"))
        for x2, y2, width2, height2 in rows[:index]:
            apart = x + width <= x2 or x2 + width2 <= x or y + height <= y2 or y2 + height2 <= y
            assert apart
    assert len(list(root.iter(f"{space}path"))) == len(graph.edges)


def test_the_list_for_programs() -> None:
    devices = devices_json(recorded("switch-b", SWITCH))
    assert devices[0]["where"] == "hb0 > rp0 > sw0 > dp0"
    assert devices[0]["regions"] == ["region0"]
    assert [device["name"] for device in devices] == ["vm0", "vm1", "vm2"]


# --- asking -----------------------------------------------------------------------------------------------------------


def test_a_device_by_any_of_its_names() -> None:
    topology = recorded("mixed-a", MIXED)
    assert {find_memdev(word, topology).serial for word in ("pm1", "3", "0x3", "mem2")} == {3}
    with pytest.raises(UsageError, match="there is no memory device nope") as raised:
        find_memdev("nope", topology)
    assert raised.value.hint == "the guest has pm0, vm0, pm1, vm1"


def test_known_failures_of_the_tools_get_a_hint() -> None:
    said = "cxl region: create_region: region0: failed to commit decode: No such device or address\n"
    message, hint = explain("cxl create-region", Finished("", 6, "", said))
    assert message.startswith("`cxl create-region` failed in the guest (6): cxl region: create_region")
    assert hint is not None
    assert "hypervisor = false" in hint


def test_what_the_monitor_offers() -> None:
    schema = Schema(
        [
            {"name": "cxl-inject-poison", "meta-type": "command", "arg-type": "7"},
            {
                "name": "7",
                "meta-type": "object",
                "members": [{"name": "path", "type": "str"}, {"name": "x", "default": None}],
            },
        ]
    )
    require(schema, "cxl-inject-poison", "10.0.2")
    assert schema.members("cxl-inject-poison") == {"path": False, "x": True}
    with pytest.raises(UsageError, match=r"this QEMU .7\.2\.22. has no cxl-inject-dram-event") as raised:
        require(schema, "cxl-inject-dram-event", "7.2.22")
    assert "lev images get qemu --suite trixie" in (raised.value.hint or "")
