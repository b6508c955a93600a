"""CXL in one VM over two nodes: tools on the CPUs of both, what one writes the other reads, a cold restart keeps it."""

from __future__ import annotations

from pathlib import Path

import pytest
from cxl_guest import FUNCTIONS, boot, image
from lev_run import Run

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(5 * 3600)]

SECONDS = 3600
PATIENCE = [f"--set=timeouts.{name}=1200" for name in ("lab", "workers", "ready", "boot", "stop")]
"""For a machine that is busy with other work."""
REGION = FUNCTIONS + "taskset 2 cxl create-region -m -d decoder0.0 -w 1 -t pmem $(mems 0x1) > /dev/null\n"
STORE = (
    REGION
    + r"""
for cpu in 1 2; do
    taskset $cpu cxl list -M | grep -c '"memdev"'
    taskset $cpu ndctl list -R | grep -c '"dev":"region0"'
    taskset $cpu daxctl list > /dev/null
done
taskset 1 ndctl create-namespace -m fsdax -M MAP -r region0 > /dev/null
await '[ -b /dev/pmem0 ]'
taskset 1 mkfs.ext4 -q -b 4096 -N 16 -O ^has_journal,^resize_inode -E nodiscard /dev/pmem0 8M
mkdir /mnt
taskset 2 mount /dev/pmem0 /mnt
dd if=/dev/urandom of=/tmp/noise bs=4k count=PAGES 2> /dev/null
md5sum < /tmp/noise
taskset 2 cp /tmp/noise /mnt/data
taskset 2 umount /mnt
echo 3 > /proc/sys/vm/drop_caches
taskset 1 mount /dev/pmem0 /mnt
taskset 1 md5sum < /mnt/data
umount /mnt
"""
)
"""The worker's CPU (1, mask 2) writes, the head's (0, mask 1) reads."""
VERIFY = (
    REGION
    + r"""
await '[ -b /dev/pmem0 ]'
mkdir /mnt
taskset 2 mount -o ro /dev/pmem0 /mnt
taskset 1 md5sum < /mnt/data
umount /mnt
ndctl list -N | grep '"mode":"fsdax"'
"""
)


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def stored_and_kept(folder: Path, tables: str, pages: int, *more: str) -> Run:
    """Two boots; the record of the first. ``tables``: where the namespace has its own (``mem`` or ``dev``)."""
    file = ROOT / "examples/cxl-giant.toml"
    more = (*more, *PATIENCE)
    store = STORE.replace("MAP", tables).replace("PAGES", str(pages))
    stored = boot(folder, file, store, *more, seconds=SECONDS)
    *seen, written, read = stored.stdout.split("\n")[:6]
    assert seen == ["1"] * 4, stored.told()
    assert read == written, stored.told()
    kept = boot(folder, file, VERIFY, *more, seconds=SECONDS)
    assert kept.stdout.split("\n")[0] == written, kept.told()
    return stored


def mmio(run: Run, vcpu: int) -> int:
    """Exits of a vCPU by accesses to devices."""
    found = [each["exits"].get("mmio", 0) for node in run.nodes() for each in node["vcpus"] if each["id"] == vcpu]
    return int(found[0])


def test_a_window_of_ram_is_coherent_and_outlives_the_machine(tmp_path: Path) -> None:
    """QEMU 11.1 adds a memory slot when the guest commits its decoders: no exits for what is stored."""
    run = stored_and_kept(tmp_path, "dev", 1024, "--qemu", image("qemu", "sid", "amd64"))
    assert "is an exit to the head's QEMU" not in run.stderr
    # 4 MiB by words would be half a million.
    assert mmio(run, 1) < 20_000, run.told()


def test_an_emulated_window_works_from_both_nodes_and_the_warning_says_what_it_costs(tmp_path: Path) -> None:
    run = stored_and_kept(tmp_path, "mem", 4)
    if "is an exit to the head's QEMU" not in run.stderr:
        pytest.skip("the system's QEMU maps windows as RAM")
    # Four pages by words of 8 bytes, and the file system's own.
    assert mmio(run, 1) > 2048, run.told()
