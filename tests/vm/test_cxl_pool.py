"""The pool of hot pages in CXL memory that two machines share: data of the engine, over one backing file.

Two lab machines have a persistent CXL device each, whose memory is one file of this machine. Both make a region and a
DAX device of it. Guests do not run on it: TCG does not see code that another QEMU writes (docs/design/0006-lab.md).
"""

from __future__ import annotations

import json
import queue
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cxl_guest import image

from leviathan.images import cxl as cxl_image
from leviathan.images import kernel as kernels
from leviathan.lab import Lab, LabOptions
from leviathan.lab.host import LabHost
from leviathan.launch.programs import program
from leviathan.model.complete import complete_cxl
from leviathan.model.cxl import Cxl
from leviathan.qemu.binary import probe_binary
from leviathan.qemu.cxl import cxl_arguments
from leviathan.qemu.facts import probe_facts
from leviathan.vm.cluster import Identity

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(900)]

PAGE = 4096
POOL = 16 << 20
SECONDS = 180.0
DEVICE = """
set -e
cxl create-region -m -d decoder0.0 -w 1 -t pmem mem0 >&2
ndctl create-namespace -m devdax -M mem --align 2M -r region0 >&2
cat /sys/bus/dax/devices/dax0.0/align
"""
AGAIN = """
set -e
ndctl create-namespace -f -e namespace0.0 -m devdax -M mem --align 4K >&2
cat /sys/bus/dax/devices/dax0.0/align
"""


def shell(host: LabHost, command: str) -> str:
    """Standard output of a command that must end well."""
    out: list[bytes] = []
    err: list[bytes] = []
    process = host.spawn(["/lev/busybox", "sh", "-c", command], stdout=out.append, stderr=err.append)
    code = process.wait(SECONDS)
    assert code == 0, b"".join(err).decode(errors="replace")
    return b"".join(out).decode()


class Node:
    """`lev-bench` in a lab machine, told line by line what to do."""

    def __init__(self, host: LabHost) -> None:
        self.host = host
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._rest = b""
        self._process = host.spawn(["/usr/bin/lev-bench"], stdout=self._take, stdin=True)

    def _take(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._lines.put(line)

    def tell(self, do: str, **arguments: Any) -> None:
        self._process.write(json.dumps({"do": do, **arguments}).encode() + b"\n")

    def answer(self) -> dict[str, Any]:
        found = json.loads(self._lines.get(timeout=SECONDS))
        assert isinstance(found, dict)
        return found

    def end(self) -> None:
        self._process.close_stdin()
        self._process.wait(30)


def all_nodes(nodes: list[Node], do: str, **arguments: Any) -> list[dict[str, Any]]:
    """The same command to all at once; their answers."""
    for node in nodes:
        node.tell(do, **arguments)
    return [node.answer() for node in nodes]


def join(nodes: list[Node], pool: int) -> list[dict[str, Any]]:
    """Makes one region of 64 pages, half at home on each, with a pool of so many bytes."""
    identity = Identity.new()
    members = []
    for number, node in enumerate(nodes):
        node.tell("listen", at=f"{node.host.address}:0")
        members.append({"name": f"node{number}", "address": node.answer()["address"], "vcpus": []})
    cluster = {
        "schema": 1,
        "run_id": identity.run_id,
        "secret": identity.secret,
        "nodes": members,
        "memory": [{"gpa": number * 32 * PAGE, "len": 32 * PAGE, "node": number} for number in range(2)],
        "pool": {"path": "/dev/dax0.0", "len": pool},
    }
    for number, node in enumerate(nodes):
        node.tell("join", cluster=cluster, node=number)
    return [node.answer() for node in nodes]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[LabHost]]:
    """Two machines with one CXL memory, under a QEMU that maps its window as RAM: emulated, locks would not hold."""
    folder = tmp_path_factory.mktemp("pool")
    shared = folder / "shared.raw"
    shared.touch()
    with shared.open("r+b") as file:
        file.truncate(256 << 20)
    (folder / "usr/bin").mkdir(parents=True)
    shutil.copy(program("lev-bench"), folder / "usr/bin")
    qemu = Path(image("qemu", "sid", "amd64"))
    memory = {"persistent": {"size": "256M", "file": str(shared)}, "labels": {"size": "1M", "kind": "ram"}}
    topology = complete_cxl(Cxl.model_validate({"memory": [memory]}), folder)
    kernel = kernels.find(lambda step: None, ["kvm_amd", "virtio_console", *cxl_image.NEEDED])
    tools = cxl_image.tools_for(kernel, "amd64", lambda step: None)
    options = LabOptions(
        qemu=qemu,
        inner_qemu=None,
        kernel=kernel,
        # The tools' libraries come first, and serve lev-bench, too.
        bin_dir=folder / "none",
        programs=(*(tools / f"usr/bin/{name}" for name in ("cxl", "ndctl", "daxctl")), folder / "usr/bin/lev-bench"),
        modules=cxl_image.drivers(kernel),
        qemu_arguments=["-machine", "cxl=on", *cxl_arguments(topology, probe_facts(probe_binary(str(qemu))))],
    )
    with Lab(2, cpus=1, memory=1 << 30, options=options) as lab:
        yield list(lab.hosts)


def test_hot_pages_move_into_cxl_memory_that_both_machines_map(hosts: list[LabHost]) -> None:
    # A device whose unit is a large page cannot be mapped page by page: said, with what to do.
    assert [shell(host, DEVICE).strip() for host in hosts] == ["2097152"] * 2
    nodes = [Node(host) for host in hosts]
    for answer in join(nodes, POOL):
        assert "is mapped in units of 2097152 bytes" in answer["error"]
        assert "--align 4096" in answer["error"]
    for node in nodes:
        node.end()

    assert [shell(host, AGAIN).strip() for host in hosts] == ["4096"] * 2
    nodes = [Node(host) for host in hosts]
    for answer in join(nodes, 1 << 40):
        assert "of 1099511627776 bytes" in answer["error"]
    for node in nodes:
        node.end()

    nodes = [Node(host) for host in hosts]
    assert [answer["len"] for answer in join(nodes, POOL)] == [64 * PAGE] * 2
    assert all_nodes(nodes, "barrier") == [{}, {}]
    for page in (0, 40):
        additions = sum(answer["additions"] for answer in all_nodes(nodes, "duel", page=page, ms=3000))
        assert additions > 0
        assert all_nodes(nodes, "barrier") == [{}, {}]
        assert [answer["value"] for answer in all_nodes(nodes, "word", page=page)] == [additions] * 2
    for parity, node in enumerate(nodes):
        node.tell("turns", page=1, turns=200, parity=parity)
    assert all("total_ns" in node.answer() for node in nodes)
    assert [answer["value"] for answer in all_nodes(nodes, "word", page=1)] == [200, 200]
    counters = [answer["counters"] for answer in all_nodes(nodes, "counters")]
    assert sum(each["promotions"] for each in counters) >= 3, counters
    assert all(each["pool_pages"] >= 3 for each in counters), counters
    assert all_nodes(nodes, "leave") == [{}, {}]
    for node in nodes:
        node.end()
