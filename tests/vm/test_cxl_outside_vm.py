"""`lev cxl` on running machines: what the system's QEMU can, and with a newer one failures and hotplug."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cxl_guest import image
from test_named_vm import Lev

from leviathan.images import suite

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

PMEM = """
schema = 1
cpus = 2
memory = "1G"
accel = "tcg"
[[cxl.memory]]
persistent = "256M"
[[cxl.memory]]
persistent = "256M"
"""
MIXED = """
schema = 1
cpus = 2
memory = "1G"
accel = "tcg"
[cxl]
host_bridges = [{ root_ports = 2 }, { root_ports = 4 }]
[[cxl.memory]]
persistent = "256M"
[[cxl.memory]]
volatile = "256M"
[[cxl.memory]]
persistent = "256M"
[[cxl.memory]]
volatile = "256M"
[[cxl.memory]]
dynamic = "512M"
dynamic_regions = 2
[[cxl.windows]]
targets = ["hb0", "hb1"]
size = "1G"
[[cxl.windows]]
targets = ["hb0"]
size = "1280M"
[[cxl.windows]]
targets = ["hb1"]
size = "1G"
"""


@pytest.fixture(scope="module")
def pmem(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lev]:
    """`old`: two persistent devices under the system's QEMU and kernel."""
    folder = tmp_path_factory.mktemp("cxl")
    (folder / "pmem.toml").write_text(PMEM)
    here = Lev(folder / "state")
    try:
        here.ok("run", "-q", "-d", "--name", "old", str(folder / "pmem.toml"))
        yield here
    finally:
        here("stop", "--now", "old")


def test_persistent_memory_from_region_to_file(pmem: Lev, tmp_path: Path) -> None:
    devices = json.loads(pmem.ok("cxl", "list", "old", "--json"))
    assert [(d["name"], d["serial"], d["pmem"], d["regions"]) for d in devices] == [
        ("cxl-pmem0", 1, 256 << 20, []),
        ("cxl-pmem1", 2, 256 << 20, []),
    ]
    region = json.loads(pmem.ok("cxl", "create-region", "old", "cxl-pmem1", "--json"))
    assert (region["kind"], region["committed"], region["ways"]) == ("pmem", True, 1)
    name = region["name"]
    made = json.loads(
        pmem.ok("cxl", "namespace", "old", name, "--size", "64M", "--mkfs", "ext4", "--mount", "/mnt", "--json")
    )
    assert (made["mode"], made["mount"]) == ("fsdax", "/mnt")
    pmem.ok("exec", "old", "--", "echo kept > /mnt/file && sync")
    text = pmem.ok("cxl", "show", "old")
    assert "committed, pmem, 256 MiB" in text
    assert "mounted on /mnt" in text
    pmem.ok("cxl", "show", "old", "--svg", str(tmp_path / "x.svg"))
    assert ">mounted" not in (tmp_path / "x.svg").read_text()
    assert ">/mnt<" in (tmp_path / "x.svg").read_text()
    done = pmem("cxl", "destroy-region", "old", name)
    assert (done.returncode, b"is in use" in done.stderr) == (2, True)
    pmem.ok("cxl", "destroy-region", "old", name, "--force")
    assert json.loads(pmem.ok("cxl", "show", "old", "--json"))["regions"] == []
    # Labels bring the namespace back with the region.
    name = json.loads(pmem.ok("cxl", "create-region", "old", "2", "--json"))["name"]
    command = (
        "i=0; until ls /dev/pmem* 2> /dev/null || [ $i = 50 ]; do sleep 0.2; i=$((i+1)); done; mount /dev/pmem* /mnt"
    )
    pmem.ok("exec", "old", "--", command)
    assert pmem.ok("exec", "old", "--", "cat /mnt/file") == "kept\n"
    pmem.ok("cxl", "destroy-region", "old", name, "--force")


def test_what_the_systems_qemu_lacks_is_said(pmem: Lev) -> None:
    qemu = json.loads(pmem.ok("list", "--json"))
    assert qemu
    done = pmem("cxl", "poison", "old", "cxl-pmem0", "--offset", "64")
    if done.returncode == 0:
        pytest.skip("the system's QEMU can poison")
    assert done.returncode == 2
    assert b"has no cxl-inject-poison" in done.stderr
    assert b"lev images get qemu --suite trixie" in done.stderr


def test_words_that_fit_nothing(pmem: Lev) -> None:
    for words, said in (
        (("cxl", "create-region", "old", "cxl-pmem7"), "there is no memory device cxl-pmem7"),
        (("cxl", "create-region", "old", "1", "--type", "ram"), "cxl-pmem0 has no volatile memory"),
        (("cxl", "create-region", "old", "1", "--type", "disk"), "--type disk: there are pmem and ram"),
        (("cxl", "destroy-region", "old", "region9"), "there is no region region9"),
        (("cxl", "online", "old", "region9"), "there is no region region9"),
        (("cxl", "event", "old", "1", "flood"), "there is no event flood"),
        (("cxl", "hotplug", "old", "--size", "100M"), "--size 100M: a multiple of 256M"),
        (("cxl", "poison", "old", "1", "--offset", "10"), "--offset 10: a multiple of 64 bytes"),
        (("cxl", "list", "nobody"), "there is no VM called nobody"),
    ):
        done = pmem(*words)
        assert done.returncode == 2, words
        assert said in done.stderr.decode(), words
        assert b"Traceback" not in done.stderr


@pytest.fixture(scope="module", params=["newest", pytest.param("trixie", marks=pytest.mark.slow)])
def mixed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lev]:
    """`new`: two bridges, a QEMU and a kernel that know it all: the newest that have been fetched, and QEMU 10."""
    if request.param == "newest":
        pairs = [[suite.find(kind, name, "amd64") for kind in ("qemu", "kernel")] for name in ("sid", "trixie")]
        found = next(([str(each.path) for each in pair if each] for pair in pairs if all(pair)), [])
        if not found:
            pytest.skip("needs `lev images get qemu --suite sid` and `lev images get kernel --suite sid`")
    else:
        found = [image(kind, request.param, "amd64") for kind in ("qemu", "kernel")]
    folder = tmp_path_factory.mktemp("cxl")
    (folder / "mixed.toml").write_text(MIXED)
    here = Lev(folder / "state")
    try:
        here.ok(
            "run", "-q", "-d", "--name", "new", "--qemu", found[0], "--kernel", found[1], str(folder / "mixed.toml")
        )
        yield here
    finally:
        here("stop", "--now", "new")


def test_interleave_over_both_bridges_in_any_order(mixed: Lev) -> None:
    region = json.loads(mixed.ok("cxl", "create-region", "new", "cxl-pmem2", "1", "--json"))
    assert (region["ways"], region["committed"]) == (2, True)
    devices = {device["memdev"]: device["serial"] for device in json.loads(mixed.ok("cxl", "list", "new", "--json"))}
    assert sorted(devices[member] for member in region["members"]) == [1, 3]
    mixed.ok("cxl", "destroy-region", "new", region["name"])


def test_volatile_memory_becomes_a_numa_node_and_goes_again(mixed: Lev) -> None:
    region = json.loads(mixed.ok("cxl", "create-region", "new", "cxl-vmem3", "--as", "system-ram", "--json"))
    (dax,) = region["daxes"]
    assert (dax["mode"], dax["online"]) == ("system-ram", dax["blocks"])
    topology = json.loads(mixed.ok("cxl", "show", "new", "--json"))
    (node,) = [node for node in topology["nodes"] if node["number"] == dax["node"]]
    assert (node["size"], node["cpus"]) == (256 << 20, "")
    assert f"node {dax['node']} size: 256 MB" in mixed.ok("exec", "new", "--", "numactl", "-H")
    back = json.loads(mixed.ok("cxl", "online", "new", region["name"], "--off", "--json"))
    assert back["daxes"][0]["online"] == 0
    again = json.loads(mixed.ok("cxl", "online", "new", region["name"], "--as", "devdax", "--json"))
    assert again["daxes"][0]["mode"] == "devdax"
    mixed.ok("cxl", "destroy-region", "new", region["name"])
    assert json.loads(mixed.ok("cxl", "show", "new", "--json"))["regions"] == []


def test_poison_is_listed_by_the_guest_and_cleared(mixed: Lev) -> None:
    listed = json.loads(mixed.ok("cxl", "poison", "new", "cxl-vmem1", "--offset", "4096", "--length", "256", "--json"))
    assert listed == [{"offset": 4096, "length": 256, "source": "Internal"}]
    (device,) = [each for each in json.loads(mixed.ok("cxl", "list", "new", "--json")) if each["name"] == "cxl-vmem1"]
    assert device["poison"] == listed
    assert "1 poisoned" in mixed.ok("cxl", "show", "new")
    mixed.ok("cxl", "poison", "new", "cxl-vmem1", "--offset", "4096", "--length", "256", "--clear")
    (device,) = [each for each in json.loads(mixed.ok("cxl", "list", "new", "--json")) if each["name"] == "cxl-vmem1"]
    assert device["poison"] == []


def test_events_are_traced_by_the_guest(mixed: Lev) -> None:
    for kind, word in (("general-media", "cxl_general_media"), ("dram", "cxl_dram")):
        (line,) = json.loads(mixed.ok("cxl", "event", "new", "cxl-pmem0", kind, "--set", "dpa=4096", "--json"))
        assert word in line
        assert "serial=1 " in line
        assert "dpa=1000" in line
    (line,) = json.loads(
        mixed.ok("cxl", "event", "new", "cxl-pmem0", "memory-module", "--set", "temperature=91", "--json")
    )
    assert "device_temp=91" in line
    assert "WARNING" not in mixed.ok("exec", "new", "--", "dmesg")
    done = mixed("cxl", "event", "new", "cxl-pmem0", "dram", "--set", "colour=1")
    assert (done.returncode, b"an event dram has no colour" in done.stderr) == (2, True)


def test_hotplug_and_unplug(mixed: Lev) -> None:
    made = json.loads(mixed.ok("cxl", "hotplug", "new", "--size", "256M", "--name", "late", "--serial", "77", "--json"))
    assert (made["id"], made["serial"], made["ram"], made["enabled"]) == ("late", 77, 256 << 20, True)
    done = mixed("cxl", "hotplug", "new", "--size", "256M")
    assert (done.returncode, b"no port is empty" in done.stderr) == (2, True)
    region = json.loads(mixed.ok("cxl", "create-region", "new", "late", "--as", "devdax", "--json"))
    done = mixed("cxl", "hotplug", "new", "--remove", "late")
    assert (done.returncode, b"is part of region" in done.stderr) == (2, True)
    mixed.ok("cxl", "destroy-region", "new", region["name"])
    assert "removed late" in mixed.ok("cxl", "hotplug", "new", "--remove", "late")
    assert all(device["name"] != "late" for device in json.loads(mixed.ok("cxl", "list", "new", "--json")))


def test_dynamic_capacity_is_offered_and_refused_in_qemus_words(mixed: Lev) -> None:
    """No kernel takes extents yet: the first stays pending, which QEMU says of the second and of taking it back."""
    mixed.ok("cxl", "dcd", "add", "new", "cxl-dcd4", "--length", "128M")
    for words, said in (
        (("add", "new", "cxl-dcd4", "--length", "128M"), "cannot add DPA again while still pending"),
        (("release", "new", "cxl-dcd4", "--length", "128M"), "cannot release extent with pending DPA range"),
        (("add", "new", "cxl-dcd4", "--length", "2M", "--offset", "100"), "not aligned to region block size"),
        (("add", "new", "5", "--length", "1G", "--region", "1"), "extent range is beyond the region end"),
        (("add", "new", "5", "--length", "2M", "--region", "5"), "region id is too large"),
        (("add", "new", "cxl-vmem1", "--length", "2M"), "No dynamic capacity support from the device"),
        (("add", "new", "5", "--length", "2M", "--region", "9"), "--region 9: a device has dynamic regions 0 to 7"),
        (("add", "new", "5", "--length", "lots"), "--length lots"),
    ):
        done = mixed("cxl", "dcd", *words)
        assert done.returncode != 0, words
        assert said in done.stderr.decode(), words
        assert b"Traceback" not in done.stderr
    # The other dynamic region is not concerned.
    mixed.ok("cxl", "dcd", "add", "new", "cxl-dcd4", "--length", "2M", "--region", "1")


def test_the_picture_tells_what_is_committed(mixed: Lev, tmp_path: Path) -> None:
    import xml.etree.ElementTree as ET

    picture = tmp_path / "cxl.svg"

    def words() -> str:
        mixed.ok("cxl", "show", "new", "--svg", str(picture))
        return " ".join(text.strip() for text in ET.parse(picture).getroot().itertext() if text.strip())

    before = words()
    assert all(name in before for name in ("hb0", "hb1", "cxl-pmem0", "cxl-dcd4", "decoder0.0"))
    region = json.loads(mixed.ok("cxl", "create-region", "new", "cxl-pmem0", "--json"))
    assert region["committed"] is True
    assert region["name"] not in before
    assert region["name"] in words()
    assert f"{region['name']}: committed" in mixed.ok("cxl", "show", "new")
    mixed.ok("cxl", "destroy-region", "new", region["name"])
    assert region["name"] not in words()
