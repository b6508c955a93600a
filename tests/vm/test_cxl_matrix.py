"""Persistent memory with the QEMUs and kernels of several suites, and Arm; `make test-matrix` runs all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cxl_guest import PMEM, Pair, image, machine, stores_and_keeps
from lev_run import lev_run

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(1500)]

KERNELS = ("system", "trixie", "sid")


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.mark.parametrize("pair", [Pair(qemu, kernel) for qemu in ("trixie", "sid") for kernel in KERNELS], ids=str)
def test_data_labels_and_namespaces_outlive_the_machine(tmp_path: Path, pair: Pair) -> None:
    stores_and_keeps(tmp_path, *pair.arguments())


@pytest.mark.parametrize("kernel", ["trixie", "sid"])
def test_qemu_without_event_logs_is_refused_for_kernels_that_want_them(tmp_path: Path, kernel: str) -> None:
    run = lev_run(tmp_path, str(machine(tmp_path, PMEM)), *Pair("system", kernel).arguments(), command="true")
    version = run.record["qemu"]["version"] if run.record.get("qemu") else ""
    if run.code == 0 and not version.startswith("7."):
        pytest.skip(f"this machine's QEMU is {version}")
    assert run.code == 2, run.told()
    assert "shows no memory device under QEMU 7.2" in run.stderr
    assert "lev images get qemu" in run.stderr


@pytest.mark.parametrize("suite", ["sid", "trixie"])
def test_arm_lists_its_device(tmp_path: Path, suite: str) -> None:
    """A QEMU whose `virt` has CXL boots to `cxl list`; with an older one the error says which QEMU does."""
    arguments = ["--qemu", image("qemu", suite, "arm64"), "--kernel", image("kernel", suite, "arm64")]
    run = lev_run(tmp_path, str(ROOT / "examples/cxl-arm.toml"), *arguments, command="uname -m; cxl list -M")
    if suite == "trixie":
        assert run.code == 2, run.told()
        assert "has no CXL for 'virt'" in run.stderr
        return
    assert run.code == 0, run.told()
    arch, _, listed = run.stdout.partition("\n")
    assert arch == "aarch64"
    assert json.loads(listed)[0]["pmem_size"] == 256 << 20


def test_warm_resets_lose_the_devices(tmp_path: Path) -> None:
    """Why a guest's reboot is a cold restart here: it is QEMU's own reset that breaks CXL."""
    command = 'n=$(cxl list -M | grep -c ""memdev""); [ "$n" != 0 ] || exit 7; echo "$n"; reboot; sleep 60'
    text = f'reboot = "warm"\n{PMEM}'
    run = lev_run(tmp_path, str(machine(tmp_path, text)), "--reboot", *Pair("sid", "sid").arguments(), command=command)
    assert run.code == 7, run.told()
    assert run.stdout == "1\n"
