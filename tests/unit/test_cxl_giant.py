"""CXL in a VM over nodes: where its files are, and what QEMU is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from qemu_facts import recorded

from leviathan.errors import UsageError
from leviathan.model.machine import LabOptions, Machine
from leviathan.qemu.command import HeadCommand, head_command
from leviathan.vm.backing import with_own_files
from leviathan.vm.inside import disk_arguments, inside_lab
from leviathan.vm.place import lab_size
from leviathan.vm.prepare import hides_hypervisor

PMEM = Machine(nodes=2, cpus=2, memory="512M", name="m", cxl={"memory": [{"persistent": "256M"}]})


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def command(machine: Machine, version: str = "11.1", *, hide: bool = False) -> list[str]:
    head = HeadCommand("/q", "/k", "/i", "/f", facts=recorded(version), hide_hypervisor=hide)
    return head_command(machine, head)


def test_files_are_disks_of_the_lab_machine_behind_the_guests_own(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(512))
    machine = with_own_files(PMEM.model_copy(update={"disks": Machine(disks=[{"file": image}]).disks}))
    drives = [word for word in disk_arguments(machine) if word.startswith("file=")]
    folder = tmp_path / "leviathan/machines/m"
    names = [drive.split(",")[0] for drive in drives]
    assert names == [f"file={p}" for p in (image, folder / "cxl-pmem0-persistent.raw", folder / "cxl-pmem0-labels.raw")]
    assert all("format=raw" in drive for drive in drives[1:])
    argv = " ".join(command(inside_lab(machine, "")))
    assert "id=cxl-pmem0-persistent,share=on,mem-path=/dev/vdb,size=256M" in argv
    assert "id=cxl-pmem0-labels,share=on,mem-path=/dev/vdc,size=1M" in argv


def test_the_head_has_the_topology_and_no_instruction_that_cannot_be_emulated() -> None:
    argv = command(inside_lab(with_own_files(PMEM), ""))
    text = " ".join(argv)
    assert ",cxl=on -cpu" in text
    assert {"clwb=off", "erms=off", "fsrm=off"} <= set(argv[argv.index("-cpu") + 1].split(","))
    assert "hypervisor=off" not in text
    assert "hypervisor=off" in " ".join(command(inside_lab(with_own_files(PMEM), ""), hide=True))
    assert "cxl-type3,bus=hb0rp0,persistent-memdev=cxl-pmem0-persistent" in text
    assert "cxl-fmw.0.targets.0=hb0" in text
    # Beside a CXL host bridge QEMU must be told the bus.
    assert "virtio-serial-pci,id=ports,max_ports=8,bus=pcie.0" in text
    plain = " ".join(head_command(Machine(nodes=2), HeadCommand("/q", "/k", "/i", "/f")))
    assert "cxl" not in plain
    assert "clwb" not in plain


def test_memory_without_a_file_is_private_like_all_other() -> None:
    machine = with_own_files(Machine(nodes=2, cxl={"memory": [{"volatile": "256M"}]}))
    assert "memory-backend-ram,id=cxl-vmem0-volatile,share=off,size=256M" in " ".join(command(machine))


def test_files_need_a_single_lab_machine_and_memory_is_counted() -> None:
    machine = with_own_files(PMEM.model_copy(update={"lab": LabOptions(machines=2)}))
    with pytest.raises(UsageError, match="files of CXL memory are in one lab machine"):
        disk_arguments(machine)
    plain = PMEM.model_copy(update={"cxl": None})
    assert lab_size(with_own_files(PMEM))[1] - lab_size(plain)[1] == 2 * (256 << 20)


@pytest.mark.parametrize(
    ("release", "hidden"), [("6.1.0-50-cloud-amd64", False), ("6.12.107+deb13-cloud-amd64", True), ("", True)]
)
def test_newer_kernels_see_no_hypervisor(release: str, hidden: bool) -> None:
    assert hides_hypervisor(release) is hidden
