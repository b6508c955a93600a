"""Persistent memory on the distribution's own QEMU and kernel: the machine lists it, and keeps what it stores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cxl_guest import PMEM, boot, machine, stores_and_keeps
from lev_run import lev_run

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.vm, pytest.mark.timeout(400)]


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_the_example_lists_its_device(tmp_path: Path) -> None:
    run = boot(tmp_path, ROOT / "examples/cxl-pmem.toml", "cxl list")
    (device,) = json.loads(run.stdout)
    assert (device["pmem_size"], device["serial"]) == (256 << 20, 1)
    assert run.record["where"]["lab"] is False


def test_data_labels_and_namespaces_outlive_the_machine(tmp_path: Path) -> None:
    stores_and_keeps(tmp_path)
    files = sorted(path.name for path in (tmp_path / "state/leviathan/machines/test").iterdir())
    assert files == ["cxl-pmem0-labels.raw", "cxl-pmem0-persistent.raw"]


def test_a_reboot_is_a_cold_restart(tmp_path: Path) -> None:
    """After a reset within one QEMU the kernel would find no memory device."""
    command = """
        cxl create-region -m -d decoder0.0 -w 1 -t pmem mem0 > /dev/null || exit 1
        ndctl list -N | grep -q namespace && { cxl list -M; exit 7; }
        ndctl create-namespace -m devdax -M dev -r region0 > /dev/null || exit 2
        reboot; sleep 60"""
    run = lev_run(tmp_path, str(machine(tmp_path, PMEM)), "--reboot", command=command, seconds=120)
    assert run.code == 7, run.told()
    assert json.loads(run.stdout)[0]["serial"] == 1
    assert "QEMU starts anew" in run.stderr


def test_a_file_in_use_is_not_shared_by_accident(tmp_path: Path) -> None:
    import fcntl

    from leviathan.vm.backing import data_directory

    folder = data_directory("test")
    folder.mkdir(parents=True)
    with (folder / "cxl-pmem0-persistent.raw").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        run = lev_run(tmp_path, str(machine(tmp_path, PMEM)), command="true", seconds=30)
    assert run.code == 125, run.told()
    assert "cxl-pmem0-persistent.raw is in use by another machine that runs" in run.stderr
