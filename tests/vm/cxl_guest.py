"""What tests of machines with CXL share: descriptions, scripts for the guest, QEMUs and kernels of other suites."""

from __future__ import annotations

import functools
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from lev_run import Run, lev, lev_run

FUNCTIONS = r"""
set -e
# Names of devices change from boot to boot; serial numbers do not.
mems() {
    for serial in "$@"; do
        for device in /sys/bus/cxl/devices/mem*; do
            read -r found < "$device/serial"
            [ "$found" != "$serial" ] || echo "${device##*/}"
        done
    done
}
await() {
    tries=0
    until eval "$1"; do
        tries=$((tries + 1))
        [ $tries -lt 900 ] || { echo "gave up: $1" >&2; dmesg | tail -n 15 >&2; exit 99; }
        usleep 100000
    done
}
"""
STORE = (
    FUNCTIONS
    + r"""
cxl create-region -m -d decoder0.0 -w 1 -t pmem $(mems 0x1) > /dev/null
ndctl create-namespace -m fsdax -M dev -r region0 > /dev/null
await '[ -b /dev/pmem0 ]'
mkfs.ext4 -q -b 4096 /dev/pmem0 > /dev/null
mkdir /mnt
mount /dev/pmem0 /mnt
dd if=/dev/urandom of=/mnt/data bs=1M count=4 2> /dev/null
md5sum /mnt/data
umount /mnt
"""
)
"""Region, namespace, file system, 4 MiB of noise; prints its checksum."""
VERIFY = (
    FUNCTIONS
    + r"""
cxl create-region -m -d decoder0.0 -w 1 -t pmem $(mems 0x1) > /dev/null
await '[ -b /dev/pmem0 ]'
mkdir /mnt
mount -o ro /dev/pmem0 /mnt
md5sum /mnt/data
umount /mnt
ndctl list -N | grep '"mode":"fsdax"'
"""
)
"""The region again, the namespace by itself from the labels; prints the checksum of what an earlier boot stored."""


@dataclass(frozen=True)
class Pair:
    """A QEMU and a kernel by the suites that they come from; ``system``: as this machine has them."""

    qemu: str
    kernel: str

    def arguments(self, arch: str = "amd64") -> list[str]:
        """Options of `lev run`."""
        words = []
        if self.qemu != "system":
            words += ["--qemu", image("qemu", self.qemu, arch)]
        if self.kernel != "system":
            words += ["--kernel", image("kernel", self.kernel, arch)]
        return words

    def __str__(self) -> str:
        return f"qemu-{self.qemu}-kernel-{self.kernel}"


@functools.cache
def image(kind: str, suite: str, arch: str) -> str:
    """Path of something unpacked by `lev images`; the test is skipped if it cannot be had."""
    done = subprocess.run([lev(), "images", "list", "--json"], capture_output=True, text=True, check=True)
    rows = [row for row in json.loads(done.stdout) if (row["kind"], row["suite"], row["arch"]) == (kind, suite, arch)]
    if rows:
        return str(rows[-1]["path"])
    words = [lev(), "images", "get", kind, "--suite", suite, "--arch", arch]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        pytest.skip(f"{kind} of {suite} cannot be had: {done.stderr.strip().splitlines()[-2:]}")
    return done.stdout.strip()


def machine(folder: Path, text: str, name: str = "test") -> Path:
    """A machine file."""
    file = folder / f"{name}.toml"
    file.write_text(f'schema = 1\nname = "{name}"\ncpus = 2\nmemory = "1G"\n{text}')
    return file


def boot(folder: Path, file: Path, command: str, *more: str, seconds: float = 500) -> Run:
    """One run that must end well."""
    run = lev_run(folder, str(file), *more, command=command, seconds=seconds)
    assert run.code == 0, run.told()
    return run


PMEM = """
[[cxl.memory]]
persistent = "256M"
"""


def stores_and_keeps(folder: Path, *more: str) -> None:
    """Two boots: what the first stores, the second finds."""
    file = machine(folder, PMEM)
    stored = boot(folder, file, STORE, *more)
    kept = boot(folder, file, VERIFY, *more)
    checksum = stored.stdout.split()[0]
    assert len(checksum) == 32, stored.told()
    assert kept.stdout.split()[0] == checksum, kept.told()
