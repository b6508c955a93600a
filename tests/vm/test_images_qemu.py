"""A QEMU of another release, unpacked by `lev images`, runs on this machine and in lab machines."""

from __future__ import annotations

from pathlib import Path

import pytest
from cxl_guest import image
from lev_run import lev_run

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.mark.parametrize("suite", ["trixie", "sid"])
@pytest.mark.parametrize("more", [["--nodes", "0"], ["--nodes", "0", "--set", "accel=tcg"]], ids=["lab", "here"])
def test_it_boots_a_guest_with_its_own_firmware(tmp_path: Path, suite: str, more: list[str]) -> None:
    command = "cat /sys/class/dmi/id/bios_version"
    patience = ("--set", "timeouts.lab=600", "--set", "timeouts.boot=1200")
    words = ("--cpus", "2", "--qemu", image("qemu", suite, "amd64"), *more, *patience)
    run = lev_run(tmp_path, *words, command=command, seconds=1500)
    assert run.code == 0, run.told()
    # Debian 12's is 1.16.2.
    assert run.stdout.split("-")[0] > "1.16.2", run.told()
    assert int(run.record["qemu"]["version"].split(".")[0]) >= 10
