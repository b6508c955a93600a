"""CXL descriptions: short and complete forms, what is filled in, the JSON schema."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leviathan.errors import ConfigError
from leviathan.model import Machine, load_machine, make_machine
from leviathan.model.complete import complete
from leviathan.model.cxl import Cxl
from leviathan.model.pci_buses import buses_needed
from leviathan.model.schema import SHIPPED, schema_text
from leviathan.model.sizes import GIB, MIB
from leviathan.rules import check

ROOT = Path(__file__).resolve().parents[2]


def completed(table: dict[str, Any], directory: str | None = "/vm") -> Cxl:
    machine = complete(make_machine({"schema": 1, "cxl": table}), directory)
    assert machine.cxl is not None
    return machine.cxl


def test_three_lines_give_a_device_that_works(tmp_path: Path) -> None:
    file = tmp_path / "pmem.toml"
    file.write_text('schema = 1\n[[cxl.memory]]\npersistent = "256M"\n')
    machine = complete(load_machine(file), tmp_path)
    assert machine.nodes == 0
    assert machine.cpu.features == {"hypervisor": False}
    assert machine.reboot == "cold"
    assert machine.append == "console=ttyS0"
    assert machine.cxl is not None
    (device,), (bridge,), (window,) = machine.cxl.memory, machine.cxl.host_bridges, machine.cxl.windows
    assert (device.name, device.port, device.serial) == ("cxl-pmem0", "hb0rp0", 1)
    assert device.persistent.file == tmp_path / "cxl-pmem0-persistent.raw"
    assert (device.labels.size, device.labels.file) == (MIB, tmp_path / "cxl-pmem0-labels.raw")
    # Two root ports: with one, QEMU 7.2 loses data.
    assert [(port.name, port.port, port.slot) for port in bridge.root_ports] == [("hb0rp0", 0, 2), ("hb0rp1", 1, 3)]
    assert (window.targets, window.size, window.granularity) == (["hb0"], 4 * GIB, 256)
    assert check(load_machine(file)) == []


def test_what_is_given_stays() -> None:
    table = {
        "memory": [
            {"name": "d", "port": "b", "persistent": {"size": "1G", "file": "/p"}, "labels": "64K", "serial": 9}
        ],
        "host_bridges": [{"name": "cxl.1", "bus": 30, "root_ports": ["a", {"name": "b", "port": 7, "slot": 9}]}],
        "windows": [{"targets": ["cxl.1"], "size": "2G", "granularity": "1K"}],
    }
    cxl = completed(table)
    (device,), (bridge,), (window,) = cxl.memory, cxl.host_bridges, cxl.windows
    assert (device.port, device.serial, str(device.persistent.file), device.labels.size) == ("b", 9, "/p", 65536)
    assert [(p.name, p.port, p.slot) for p in bridge.root_ports] == [("a", 0, 2), ("b", 7, 9)]
    assert (bridge.bus, window.size, window.granularity) == (30, 2 * GIB, 1024)


def test_devices_in_the_order_of_the_list_are_in_the_order_of_an_interleaved_region() -> None:
    cxl = completed({"memory": [{"volatile": "256M"}] * 4, "windows": [{"targets": ["a", "b"]}]})
    # Position i lies below target i mod 2, as a region over an interleaved window wants it.
    assert [(d.serial, d.port) for d in cxl.memory] == [(1, "arp0"), (2, "brp0"), (3, "arp1"), (4, "brp1")]
    assert [bridge.bus for bridge in cxl.host_bridges] == [12, 52]


def test_switches_are_used_before_free_root_ports() -> None:
    cxl = completed({"switches": [{"ports": 2}], "memory": [{"volatile": "256M"}] * 3})
    assert [device.port for device in cxl.memory] == ["sw0dp0", "sw0dp1", "hb0rp1"]
    assert cxl.switches[0].root_port == "hb0rp0"
    slots = [p.slot for p in cxl.host_bridges[0].root_ports] + [p.slot for p in cxl.switches[0].ports]
    assert len(slots) == len(set(slots)) == 4


def test_windows_hold_what_is_behind_them() -> None:
    cxl = completed({"memory": [{"persistent": "3G"}, {"persistent": "3G"}], "windows": [{"targets": ["a", "b", "c"]}]})
    # Of 256M for each of three targets.
    assert cxl.windows[0].size == 6 * GIB
    assert completed({"memory": [{"dynamic": "8G"}]}).windows[0].size == 8 * GIB


def test_serial_numbers_names_and_kinds_that_are_taken_are_left_out() -> None:
    named = {"persistent": "256M", "name": "cxl-vmem0"}
    cxl = completed({"memory": [{"volatile": "256M", "serial": "0x1"}, named, {"volatile": "256M"}]})
    assert [device.serial for device in cxl.memory] == [1, 2, 3]
    assert len({device.name for device in cxl.memory}) == 3
    assert [device.volatile.kind for device in cxl.memory if device.volatile] == ["ram", "ram"]


@st.composite
def topologies(draw: st.DrawFn) -> dict[str, Any]:
    """Descriptions with as much or as little said as people may."""
    bridges = draw(st.integers(1, 4))
    size = st.sampled_from(["256M", "512M", "1G"])
    table: dict[str, Any] = {"memory": []}
    if draw(st.booleans()):
        ports = st.one_of(st.none(), st.integers(4, 12))
        table["host_bridges"] = [
            {"root_ports": count} if (count := draw(ports)) is not None else {} for _ in range(bridges)
        ]
    else:
        table["windows"] = [{"targets": [f"b{number}" for number in range(bridges)]}]
    table["switches"] = [{"ports": draw(st.integers(1, 5))} for _ in range(draw(st.integers(0, 2)))]
    for _ in range(draw(st.integers(0, 4))):
        table["memory"].append({draw(st.sampled_from(["persistent", "volatile", "dynamic"])): draw(size)})
    return table


# No deadline: other programs may have the processors.
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(topologies())
def test_what_is_filled_in_breaks_no_rule_and_is_filled_in_once(table: dict[str, Any]) -> None:
    machine = make_machine({"schema": 1, "cxl": table})
    whole = complete(machine, "/vm")
    assert complete(whole, "/vm") == whole
    assert [finding for finding in check(machine, directory="/vm") if finding.severity == "error"] == []
    assert whole.cxl is not None
    spans = [range(b.bus, b.bus + buses_needed(b, whole.cxl.switches)) for b in whole.cxl.host_bridges]
    numbers = [number for span in spans for number in span]
    assert len(numbers) == len(set(numbers))
    assert max(numbers) <= 255


# No deadline: other programs may have the processors.
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(topologies())
def test_a_completed_description_is_read_back_from_json(table: dict[str, Any]) -> None:
    whole = complete(make_machine({"schema": 1, "cxl": table}), "/vm")
    assert Machine.model_validate(json.loads(whole.model_dump_json(by_alias=True))) == whole


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[cxl.memory]]\npersistent = 'big'", "cxl.memory.0.persistent.size: 'big' is not a size"),
        ("[[cxl.memory]]\npersistent = '0'", "cxl.memory.0.persistent.size: '0' is not a positive multiple of 4096"),
        ("[[cxl.memory]]\npersistant = '256M'", "cxl.memory.0.persistant: no such field"),
        ("[[cxl.memory]]\nvolatile = '256M'\nserial = 'x'", "cxl.memory.0.serial: 'x' is not a serial number"),
        ("[[cxl.memory]]\nname = '0d'\nvolatile = '256M'", "cxl.memory.0.name"),
        ("[[cxl.host_bridges]]\nbus = 300", "cxl.host_bridges.0.bus: Input should be less than or equal to 255"),
        ("[[cxl.host_bridges]]\nroot_ports = 999", "cxl.host_bridges.0.root_ports: 999 ports: there are 0 to 255"),
        ("[[cxl.windows]]\nsize = '4G'", "cxl.windows.0.targets: Field required"),
        ("[[cxl.windows]]\ntargets = []", "cxl.windows.0.targets: List should have at least 1 item"),
        ("[[cxl.windows]]\ntargets = ['a']\nsize = 0", "cxl.windows.0.size: 0 is not a positive multiple"),
        ("[[disks]]\nformat = 'raw'", "disks.0.file: Field required"),
        ("[[networks]]\nforward = ['22']", "networks.0.forward.0: '22': write a forwarded port as HOST:GUEST"),
        ("[[numa]]\ncpus = '3-1'", "numa.0.cpus: 3-1 is no range of CPUs"),
        ("machine_type = 'microvm'", "machine_type: Input should be 'q35', 'pc' or 'virt'"),
    ],
)  # fmt: skip
def test_a_file_with_a_wrong_type_is_refused_with_the_field(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "m.toml"
    file.write_text(f"schema = 1\n{text}\n")
    with pytest.raises(ConfigError) as raised:
        load_machine(file)
    assert f"{file}: {message}" in raised.value.message


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "m.toml"
    file.write_text(
        'schema = 1\n[[disks]]\nfile = "d.img"\n[[cxl.memory]]\npersistent = { size = "256M", file = "p.raw" }\n'
    )
    machine = load_machine(file)
    assert machine.disks[0].file == tmp_path / "d.img"
    assert machine.cxl is not None
    assert machine.cxl.memory[0].persistent is not None
    assert machine.cxl.memory[0].persistent.file == tmp_path / "p.raw"


def test_the_cpu_in_qemus_words() -> None:
    cpu = Machine.model_validate({"cpu": "EPYC-v3,+x2apic,-svm,hypervisor=off,phys-bits=46"}).cpu
    assert cpu.model == "EPYC-v3"
    assert cpu.features == {"x2apic": True, "svm": False, "hypervisor": False, "phys-bits": "46"}


# --- the schema -------------------------------------------------------------------------------------------------------


def test_the_shipped_schema_is_that_of_the_models() -> None:
    assert SHIPPED.read_text() == schema_text(), "run: lev schema > python/leviathan/model/machine.schema.json"


def test_the_schema_describes_short_forms_and_says_what_fields_are_for() -> None:
    schema = json.loads(schema_text())
    memory = schema["$defs"]["CxlMemory"]["properties"]
    assert {"type": "string"} in memory["persistent"]["anyOf"]
    assert memory["persistent"]["description"].startswith("Persistent memory")
    assert schema["required"] == ["schema"]
    described = [name for name, field in schema["properties"].items() if "description" in field]
    assert {"arch", "cxl", "cpu", "reboot", "disks"} - set(described) <= {"cxl", "disks"}


def _fits(value: Any, schema: dict[str, Any], whole: dict[str, Any]) -> bool:
    """Whether a value fits, by the words of JSON Schema that ours uses for structure."""
    if "$ref" in schema:
        return _fits(value, whole["$defs"][schema["$ref"].rsplit("/", 1)[1]], whole)
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return any(_fits(value, part, whole) for part in schema[word])
    if "const" in schema or "enum" in schema:
        return bool(value in schema.get("enum", [schema.get("const")]))
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
    kind = schema.get("type")
    if kind == "null" or (kind and not isinstance(value, kinds[kind])):
        return value is None
    if isinstance(value, bool) and kind in ("integer", "number"):
        return False
    if kind == "array":
        return all(_fits(item, schema.get("items", {}), whole) for item in value)
    if kind == "object" and "properties" in schema:
        known = schema["properties"]
        required = set(schema.get("required", [])) <= set(value)
        return required and all(name in known and _fits(item, known[name], whole) for name, item in value.items())
    return True


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.toml")), ids=lambda path: path.name)
def test_every_example_fits_the_schema(example: Path) -> None:
    schema = json.loads(schema_text())
    table = tomllib.loads(example.read_text())
    assert _fits(table, schema, schema)
    assert not _fits(table | {"cxll": {}}, schema, schema)
