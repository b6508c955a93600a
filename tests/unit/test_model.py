"""Machine descriptions: sizes, shares, homes, files and their errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leviathan.errors import ConfigError, UsageError
from leviathan.model import Machine, NodeShare, format_size, homes, load_machine, make_machine, parse_settings, vcpus
from leviathan.model.layout import HIGH_START, low_memory
from leviathan.model.machine import MIN_SHARE
from leviathan.model.sizes import GIB, MIB, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("1G", GIB), ("1.5G", 3 * GIB // 2), ("512M", 512 * MIB), ("512 MiB", 512 * MIB), ("4096", 4096), (8192, 8192)],
)
def test_sizes_as_people_write_them(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "1X", "-1G", "0", "1", "1.3K", "1G2", "1e9", True])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="size|multiple"):
        parse_size(text)


@given(st.integers(min_value=1, max_value=1 << 30))
def test_a_size_is_written_so_that_it_reads_back(pages: int) -> None:
    assert parse_size(format_size(pages * 4096)) == pages * 4096


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    shares = draw(
        st.lists(
            st.tuples(st.integers(1, 8), st.integers(MIN_SHARE // (2 * MIB), 2048).map(lambda n: n * 2 * MIB)),
            min_size=1,
            max_size=16,
        ).filter(lambda shares: sum(memory for _, memory in shares) >= 128 * MIB)
    )
    return Machine(nodes=[NodeShare(cpus=cpus, memory=memory) for cpus, memory in shares])


@given(machines())
def test_homes_cover_all_memory_once_and_leave_the_pci_hole(machine: Machine) -> None:
    ranges = homes(machine)
    assert sum(r.len for r in ranges) == machine.memory
    end = 0
    for r in ranges:
        assert r.gpa >= end
        assert r.gpa % 4096 == r.len % 4096 == 0
        end = r.gpa + r.len
    low = low_memory(machine.memory)
    assert all(r.gpa + r.len <= low or r.gpa >= HIGH_START for r in ranges)
    assert [r.node for r in ranges] == sorted(r.node for r in ranges)
    for node, share in enumerate(machine.shares()):
        assert sum(r.len for r in ranges if r.node == node) == share.memory


@given(machines())
def test_every_vcpu_belongs_to_one_node(machine: Machine) -> None:
    assert [cpu for own in vcpus(machine) for cpu in own] == list(range(machine.cpus))
    assert all(len(own) == share.cpus for own, share in zip(vcpus(machine), machine.shares(), strict=True))


@given(st.integers(1, 16), st.integers(0, 60), st.integers(256, 4096).map(lambda n: n * 2 * MIB))
def test_equal_shares_differ_by_one_cpu_at_most_and_add_up(nodes: int, more: int, memory: int) -> None:
    machine = Machine(nodes=nodes, cpus=nodes + more, memory=memory)
    shares = machine.shares()
    assert sum(share.cpus for share in shares) == machine.cpus
    assert sum(share.memory for share in shares) == memory
    assert max(s.cpus for s in shares) - min(s.cpus for s in shares) <= 1
    assert [share.name for share in shares] == [f"node{index}" for index in range(nodes)]


def test_low_memory_follows_q35() -> None:
    assert low_memory(0xB000_0000 - 4096) == 0xB000_0000 - 4096
    assert low_memory(0xB000_0000) == 0x8000_0000
    assert low_memory(6 * GIB) == 0x8000_0000


def test_totals_follow_from_shares() -> None:
    machine = make_machine({"nodes": [{"cpus": 1, "memory": "512M"}, {"cpus": 3, "memory": "1G", "name": "big"}]})
    assert (machine.cpus, machine.memory) == (4, 1536 * MIB)
    assert [share.name for share in machine.shares()] == ["node0", "big"]


def test_the_baseline_is_one_share_and_stock() -> None:
    machine = Machine(nodes=0, cpus=3)
    assert machine.stock
    assert [share.cpus for share in machine.shares()] == [3]
    assert not Machine(nodes=1).stock


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"cpus": "x"}, "cpus: Input should be a valid integer"),
        ({"nodes": 129, "cpus": 200}, "nodes: Input should be less than or equal to 128"),
        ({"nodes": [{"cpus": 1, "memory": "1"}]}, "nodes.0.memory: '1' is not a positive multiple"),
        ({"nodes": [{"cpus": 1}]}, "nodes.0.memory: Field required"),
        ({"nodes": []}, "nodes: List should have at least 1 item"),
        ({"engine": {"hold": 1}}, "engine.hold: no such field"),
        ({"memory": "3Q"}, "memory: '3Q' is not a size"),
        ({"memory": "64M"}, "memory = 64M: a guest has from 128M"),
        ({"nodes": 3, "cpus": 2}, "2 CPUs cannot be shared by 3 nodes"),
        ({"schema": 2}, "schema: Input should be 1"),
        (
            {"memory": "768M", "nodes": 3, "node_memory": "256M"},
            "node_memory = 256M on 3 nodes is too little for memory = 768M and a sixteenth more, which moving pages "
            "takes: each needs 272M",
        ),
        ({"node_memory": "8M"}, "node_memory = 8M: a node holds at least 32M"),
        ({"nodes": 0, "node_memory": "1G"}, "node_memory: there are no nodes (nodes = 0), so leave it out"),
        (
            {"cpus": 3, "nodes": [{"cpus": 1, "memory": "512M"}, {"cpus": 1, "memory": "512M"}]},
            "cpus = 3, but the nodes' shares add up to 2",
        ),
        (
            {"nodes": [{"name": "a", "cpus": 1, "memory": "512M"}, {"name": "a", "cpus": 1, "memory": "512M"}]},
            "two nodes are called a",
        ),
    ],
)
def test_errors_name_the_field(data: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        make_machine(data, source="m.toml")
    assert raised.value.message.startswith("m.toml: ")
    assert message in raised.value.message
    assert raised.value.exit_code == 2


def test_limits_of_nodes_hold_the_guest_or_are_meant_not_to() -> None:
    assert Machine(memory="3G", nodes=3, node_memory="1280M").node_memory == 1280 * MIB
    assert Machine(memory="768M", nodes=3, node_memory="272M").overcommit is False
    assert Machine(memory="768M", nodes=3, node_memory="128M", overcommit=True).node_memory == 128 * MIB


def write(folder: Path, text: str) -> Path:
    path = folder / "machine.toml"
    path.write_text(text)
    return path


def test_a_file_with_changes_on_top(tmp_path: Path) -> None:
    path = write(tmp_path, 'schema = 1\ncpus = 6\nkernel = "k/vmlinuz"\n[engine]\nhold_us = 7\nstripes = 2\n')
    machine = load_machine(path, {"nodes": 3, "engine": {"hold_us": 9}})
    assert (machine.cpus, machine.nodes) == (6, 3)
    assert (machine.engine.hold_us, machine.engine.stripes) == (9, 2)
    assert machine.kernel == tmp_path / "k/vmlinuz"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cpus = 4\n", "schema is missing"),
        ("schema = 1\ncpus = \n", "not valid TOML"),
        ("schema = 1\nspeed = 3\n", "speed: no such field"),
    ],
)
def test_errors_name_the_file(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        load_machine(path)
    assert str(path) in raised.value.message
    assert message in raised.value.message


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_machine(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not a text file"):
        load_machine(tmp_path / "binary.toml")


def test_totals_do_not_silently_contradict_listed_shares(tmp_path: Path) -> None:
    path = write(tmp_path, 'schema = 1\nnodes = [{cpus = 1, memory = "512M"}, {cpus = 1, memory = "512M"}]\n')
    with pytest.raises(UsageError, match="--cpus: .* lists every node's share"):
        load_machine(path, {"cpus": 4})
    assert load_machine(path, {"cpus": 4, "nodes": 2}).cpus == 4


def test_settings_are_toml_or_plain_text() -> None:
    settings = ["engine.hold_us=100", "pool.enabled=false", "pool.size=32M", 'qemu_args=["-device", "x"]']
    assert parse_settings(settings) == {
        "engine": {"hold_us": 100},
        "pool": {"enabled": False, "size": "32M"},
        "qemu_args": ["-device", "x"],
    }


@pytest.mark.parametrize("setting", ["hold_us", "=3", "a b=3", "a..b=1"])
def test_settings_that_are_none(setting: str) -> None:
    with pytest.raises(UsageError, match="--set"):
        parse_settings([setting])
    with pytest.raises(UsageError, match="plain value"):
        parse_settings(["a=1", "a.b=2"])
