"""Which machines have a pool for hot pages, which start their workers' CPUs late, and on which CPUs their nodes run."""

from __future__ import annotations

from pathlib import Path

import pytest

from leviathan.errors import ConfigError, UsageError
from leviathan.model import make_machine
from leviathan.model.machine import LabOptions, Machine, Pool
from leviathan.vm.cluster import Identity, cluster_file
from leviathan.vm.place import Choice, has_late_cpus, lab_cpus, lab_size, pooled
from leviathan.vm.pool import check_pool

LAB, NATIVE = Choice(lab=True, reason=""), Choice(lab=False, reason="")
TWO = Machine(nodes=2, cpus=2)


@pytest.mark.parametrize(
    ("machine", "choice", "expected"),
    [
        (TWO, LAB, True),
        (TWO, NATIVE, True),
        (TWO.model_copy(update={"lab": LabOptions(machines=2)}), LAB, False),
        (TWO.model_copy(update={"pool": Pool(enabled=False)}), NATIVE, False),
    ],
)
def test_lab_machines_share_no_pool(machine: Machine, choice: Choice, expected: bool) -> None:
    assert pooled(machine, choice) is expected
    assert has_late_cpus(machine)


def test_who_starts_cpus_late(tmp_path: Path) -> None:
    off = {"pool": Pool(enabled=False)}
    assert has_late_cpus(TWO.model_copy(update=off))
    assert not has_late_cpus(TWO.model_copy(update=off | {"initrd": Path("/other")}))
    own = {"disks": [{"file": tmp_path / "d.raw"}], "boot": "firmware"}
    assert has_late_cpus(Machine.model_validate({"nodes": 2, "cpus": 2, **own})), "offered; who takes it knows it"
    assert not has_late_cpus(Machine(nodes=1).model_copy(update=off))
    assert not has_late_cpus(Machine(nodes=0).model_copy(update=off))


def with_pool(path: Path | str, size: str = "64M") -> Machine:
    return TWO.model_copy(update={"pool": Pool.model_validate({"path": str(path), "size": size})})


def test_a_pool_of_the_users_is_named_to_all_nodes(tmp_path: Path) -> None:
    file = tmp_path / "pool"
    file.write_bytes(bytes(1 << 20))
    machine = with_pool(file, "1M")
    check_pool(machine, lab=False)
    whole = cluster_file(machine, Identity.new(), ["a:1"], pooled=True, events="", report="")
    assert whole["pool"] == {"path": str(file), "len": 1 << 20}


def test_pages_stay_longer_where_processors_are_emulated_unless_somebody_says_how_long() -> None:
    def engine(lab: bool, **engine: int) -> object:
        machine = Machine(engine=engine)
        return cluster_file(machine, Identity.new(), ["a:1"], pooled=True, lab=lab, events="", report="")["engine"]

    assert [engine(False), engine(True)] == [{}, {"hold_us": 1000}]
    assert engine(True, hold_us=7) == {"hold_us": 7}


def test_a_pool_that_cannot_be_used_is_refused_before_the_start(tmp_path: Path) -> None:
    file = tmp_path / "pool"
    file.write_bytes(bytes(1 << 20))
    for path, size, said in (
        (file, "2M", "has 1M, and pool.size is 2M"),
        (tmp_path / "none", "1M", "No such file or directory"),
        (tmp_path, "1M", "is neither a file nor a DAX device"),
        ("/dev/null", "1M", "is neither a file nor a DAX device"),
    ):
        with pytest.raises(ConfigError, match=said):
            check_pool(with_pool(path, size), lab=False)
    off = TWO.model_copy(update={"pool": Pool(enabled=False, path=str(file))})
    with pytest.raises(ConfigError, match="the pool is switched off"):
        check_pool(off, lab=False)


def test_a_dax_device_tells_its_size_and_unit(tmp_path: Path) -> None:
    """`/dev/null` (1:3) stands where the device would; what is read of it is a DAX device's."""
    device = tmp_path / "1:3"
    device.mkdir()
    (device / "size").write_text("2097152\n")
    (device / "align").write_text("2097152\n")
    with pytest.raises(ConfigError, match="mapped in units of 2097152 bytes") as raised:
        check_pool(with_pool("/dev/null", "1M"), lab=False, devices=tmp_path)
    assert "--align 4096" in (raised.value.hint or "")
    (device / "align").write_text("4096\n")
    check_pool(with_pool("/dev/null", "2M"), lab=False, devices=tmp_path)
    with pytest.raises(ConfigError, match="has 2M, and pool.size is 4M") as raised:
        check_pool(with_pool("/dev/null", "4M"), lab=False, devices=tmp_path)
    assert raised.value.hint == 'set pool.size = "2M"'


def test_nodes_in_the_lab_take_no_pool_of_the_users() -> None:
    with pytest.raises(UsageError, match="TCG does not see code that another QEMU process writes"):
        check_pool(with_pool("/dev/dax0.0"), lab=True)


@pytest.mark.parametrize(
    ("changes", "cpus", "own"),
    [
        ({"nodes": 2, "cpus": 2}, 2, [[0], [1]]),
        ({"nodes": 2, "cpus": 4}, 4, [[0, 1], [2, 3]]),
        ({"nodes": [{"cpus": 1, "memory": "512M"}, {"cpus": 3, "memory": "512M"}]}, 4, [[0], [1, 2, 3]]),
        ({"nodes": 2, "cpus": 4, "lab": {"cpus": 2}}, 2, [[0], [1]]),
        ({"nodes": 3, "cpus": 3, "lab": {"cpus": 2}}, 2, None),
        ({"nodes": 4, "cpus": 32, "memory": "4G"}, 16, [[*range(first, first + 4)] for first in (0, 4, 8, 12)]),
        ({"nodes": 1, "cpus": 4}, 4, None),
        ({"nodes": 0, "cpus": 4}, 2, None),
    ],
)
def test_each_node_has_cpus_of_its_own_in_the_lab(
    changes: dict[str, object], cpus: int, own: list[list[int]] | None
) -> None:
    machine = make_machine(changes, source="test")
    assert lab_size(machine)[0] == cpus
    found = lab_cpus(machine, cpus)
    assert (found and [list(node) for node in found]) == own


def test_machines_beside_each_other_have_one_cpu_each() -> None:
    assert lab_size(Machine(nodes=2, cpus=4, lab={"machines": 2}))[0] == 1
