"""Volatile memory as a NUMA node, interleaved in every way, behind switches; several regions behind one bridge.

With the newest QEMU and kernel of Debian: regions of volatile memory came with Linux 6.3.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from cxl_guest import FUNCTIONS, Pair, boot, machine

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(1500)]

NEW = Pair("sid", "sid")
VOLATILE = '[[cxl.memory]]\nvolatile = "256M"\n'
PERSISTENT = '[[cxl.memory]]\npersistent = "256M"\n'


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def online(ways: int, serials: str, megabytes: int) -> str:
    """A region of all devices becomes NUMA node 1; what is written there is read back. Prints ways and node size."""
    return (
        FUNCTIONS
        + f"""
before=$(awk '/MemTotal/ {{ print $2 }}' /proc/meminfo)
cxl create-region -m -d decoder0.0 -w {ways} -t ram $(mems {serials}) > /run/region
grep -o '"interleave_ways":[0-9]*' /run/region
await '[ -e /sys/devices/system/node/node1 ]'
want=$((before + {ways} * 256 * 1024 * 9 / 10))
await "[ \\$(awk '/MemTotal/ {{ print \\$2 }}' /proc/meminfo) -ge $want ]"
mkdir /mnt
mount -t tmpfs -o size=64m,mpol=bind:1 none /mnt
dd if=/dev/urandom of=/run/data bs=64k count={megabytes * 16} 2> /dev/null
cp /run/data /mnt/data
cmp /run/data /mnt/data
grep -E 'Node 1 (MemTotal|Shmem):' /sys/devices/system/node/node1/meminfo | tr -s ' '
numactl -H | grep '^node 1 size'
"""
    )


TOPOLOGIES = {
    "one device": (1, "0x1", VOLATILE),
    "two root ports": (2, "0x1 0x2", VOLATILE * 2),
    "two host bridges": (
        2,
        "0x1 0x2",
        VOLATILE * 2
        + '[[cxl.host_bridges]]\nname = "a"\n[[cxl.host_bridges]]\nname = "b"\n'
        + '[[cxl.windows]]\ntargets = ["a", "b"]\n',
    ),
    "two switch ports": (2, "0x1 0x2", VOLATILE * 2 + "[[cxl.switches]]\nports = 2\n"),
    "two bridges with two ports each": (
        4,
        "0x1 0x2 0x3 0x4",
        VOLATILE * 4
        + '[[cxl.host_bridges]]\nname = "a"\n[[cxl.host_bridges]]\nname = "b"\n'
        + '[[cxl.windows]]\ntargets = ["a", "b"]\ngranularity = "4K"\n',
    ),
}


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_volatile_memory_is_a_numa_node(tmp_path: Path, name: str) -> None:
    ways, serials, text = TOPOLOGIES[name]
    # Interleaved memory is emulated access by access: keep what is copied small.
    command = online(ways, serials, 16 if ways == 1 else 1)
    run = boot(tmp_path, machine(tmp_path, text), command, *NEW.arguments(), seconds=240)
    lines = run.stdout.splitlines()
    assert lines[0] == f'"interleave_ways":{ways}', run.told()
    size = next(int(line.split()[3]) for line in lines if line.startswith("node 1 size"))
    assert size >= ways * 250, run.told()
    kept = next(int(line.split()[3]) for line in lines if line.startswith("Node 1 Shmem"))
    # Counters lag behind by what each CPU has not yet handed in.
    assert kept >= (16384 if ways == 1 else 1024) * 0.9, run.told()


@pytest.mark.parametrize("pair", [NEW, Pair("trixie", "trixie")], ids=str)
def test_two_regions_behind_one_bridge(tmp_path: Path, pair: Pair) -> None:
    command = (
        FUNCTIONS
        + """
for serial in 0x1 0x2; do
    cxl create-region -m -d decoder0.0 -w 1 -t pmem $(mems $serial) > /dev/null
done
cxl list -R | grep -c '"decode_state":"commit"'
for region in region0 region1; do
    ndctl create-namespace -m devdax -M dev -r $region > /dev/null
done
await '[ -c /dev/dax0.0 -a -c /dev/dax1.0 ]'
"""
    )
    run = boot(tmp_path, machine(tmp_path, PERSISTENT * 2), command, *pair.arguments())
    assert run.stdout == "2\n", run.told()


def test_both_kinds_in_one_device(tmp_path: Path) -> None:
    """Persistent and volatile memory of one device become two regions."""
    text = '[[cxl.memory]]\npersistent = "256M"\nvolatile = "256M"\n'
    command = (
        FUNCTIONS
        + """
cxl create-region -m -d decoder0.0 -w 1 -t ram $(mems 0x1) > /dev/null
cxl create-region -m -d decoder0.0 -w 1 -t pmem $(mems 0x1) > /dev/null
cxl list -R | grep -o '"type":"[a-z]*"' | sort
"""
    )
    run = boot(tmp_path, machine(tmp_path, text), command, *NEW.arguments())
    assert run.stdout.split() == ['"type":"pmem"', '"type":"ram"'], run.told()
