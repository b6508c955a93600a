"""`leviathan.dsm`: memory shared by real processes, against a sequential oracle."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import region_programs as programs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from region_workers import TRANSPORT, Workers

from leviathan import dsm
from leviathan.errors import ConfigError, NodeLost, StartError, TimeOver, UsageError

PAGE = 4096
NODES = 3
SIZE = 5 * PAGE
CELL = 1000
"""Not a part of a page: neighbours share pages, and some cells lie on two."""
CELLS = (SIZE - PAGE) // CELL
COUNTERS = SIZE - 64
ROOT = Path(__file__).resolve().parents[2]

processes = pytest.mark.skipif(
    os.geteuid() != 0 and not os.access("/dev/userfaultfd", os.W_OK), reason="needs the right to use userfaultfd"
)


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    workers = Workers(NODES, SIZE)
    yield workers
    workers.end()


offsets = st.integers(0, SIZE - 1)
nodes = st.integers(0, NODES - 1)
data = st.binary(min_size=1, max_size=3 * PAGE)
sequential = st.one_of(
    st.tuples(nodes, st.just("write"), offsets, data),
    st.tuples(nodes, st.just("read"), offsets, st.integers(1, SIZE)),
    st.tuples(nodes, st.just("move"), offsets, offsets, st.integers(1, SIZE)),
)
owned = st.tuples(st.integers(0, CELLS - 1), st.binary(min_size=1, max_size=CELL))
concurrent = st.tuples(
    st.lists(nodes, min_size=CELLS, max_size=CELLS),
    st.lists(owned, max_size=40),
    st.lists(st.tuples(nodes, st.integers(0, 7), st.integers(-5, 5)), max_size=30),
)


@processes
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(program=st.lists(sequential, max_size=25))
def test_one_step_after_the_other_is_plain_memory(workers: Workers, program: list[tuple]) -> None:
    oracle = bytearray(SIZE)
    workers.do(0, ("write", 0, bytes(SIZE)))
    for node, name, *args in program:
        match name, args:
            case "write", (offset, data):
                data = data[: SIZE - offset]
                oracle[offset : offset + len(data)] = data
                workers.do(node, ("write", offset, data))
            case "read", (offset, length):
                (found,) = workers.do(node, ("read", offset, length))
                assert found == oracle[offset : offset + length]
            case "move", (source, target, length):
                length = min(length, SIZE - source, SIZE - target)
                oracle[target : target + length] = oracle[source : source + length]
                workers.do(node, ("move", source, target, length))
    assert all(workers.do(node, ("read", 0, SIZE)) == [oracle] for node in range(NODES))


@processes
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(phases=st.lists(concurrent, max_size=4))
def test_all_at_once_in_cells_of_their_own_is_like_one_after_the_other(workers: Workers, phases: list[tuple]) -> None:
    oracle = bytearray(SIZE)
    workers.do(0, ("write", 0, bytes(SIZE)))
    for owners, writes, additions in phases:
        steps: dict[int, list[tuple]] = {node: [] for node in range(NODES)}
        expected: dict[int, list[object]] = {node: [] for node in range(NODES)}
        for cell, data in writes:
            node, offset = owners[cell], cell * CELL
            oracle[offset : offset + len(data)] = data
            steps[node] += [("write", offset, data), ("read", offset, CELL)]
            expected[node] += [None, bytes(oracle[offset : offset + CELL])]
        for node, counter, value in additions:
            at = COUNTERS + 8 * counter
            before = int.from_bytes(oracle[at : at + 8], "little")
            oracle[at : at + 8] = ((before + value) % 2**64).to_bytes(8, "little")
            steps[node].append(("add", at, value))
            expected[node].append(...)
        found = workers.all_at_once(steps)
        for node in range(NODES):
            pairs = zip(found[node], expected[node], strict=True)
            assert all(wanted is ... or got == wanted for got, wanted in pairs)
        views = workers.all_at_once({node: [("read", 0, SIZE)] for node in range(NODES)})
        assert all(view == [oracle] for view in views.values())


@processes
def test_results_come_by_node() -> None:
    assert dsm.run_local(programs.squares, 3, "64K") == [5.0] * 3


@processes
def test_five_processes_come_leave_and_come_again() -> None:
    for _ in range(3):
        assert dsm.run_local_over(TRANSPORT, programs.squares, 5, "64K") == [30.0] * 5


@processes
def test_additions_are_atomic_between_processes() -> None:
    assert dsm.run_local_over(TRANSPORT, programs.count_together, 3, 1, 100) == [300] * 3


@processes
def test_numpy_sees_the_region_without_a_copy() -> None:
    pytest.importorskip("numpy")
    total = 2 * sum(range(512)) * 64 + 512 * 64
    assert dsm.run_local_over(TRANSPORT, programs.with_numpy, 2, 128 * PAGE) == [total, total]


@processes
def test_the_exception_of_a_process_is_raised_here_with_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError, match="on purpose") as caught:
        dsm.run_local_over(TRANSPORT, programs.fail, 3, PAGE, 1)
    assert "in node1" in caught.value.__notes__[0]
    assert "region_programs.py" in caught.value.__notes__[0]


@processes
def test_a_process_that_vanishes_is_a_lost_node() -> None:
    with pytest.raises(NodeLost, match="node1"):
        dsm.run_local_over(TRANSPORT, programs.vanish, 3, PAGE, 1)


def run_alone(name: str, nodes: int) -> subprocess.CompletedProcess[str]:
    """Runs a program that ends by a signal, in a process whose end this one can look at."""
    code = (
        "import sys; sys.path.insert(0, 'tests/unit'); import threading, region_programs as programs\n"
        "from leviathan import dsm\n"
        "def main():\n"
        f"    print(dsm.run_local_over({TRANSPORT!r}, programs.{name}, {nodes}, 8192))\n"
        "if __name__ == '__main__': main()"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=50)


@processes
@pytest.mark.parametrize("name", ["touch_after_close", "touch_after_loss"])
def test_memory_that_is_gone_cannot_be_read(name: str) -> None:
    run = run_alone(name, 2)
    assert "NodeLost" in run.stderr
    assert "ended before it had a result" in run.stderr
    assert ("node1 is lost" in run.stderr) == (name == "touch_after_loss")


@processes
def test_a_forked_child_has_no_access() -> None:
    assert dsm.run_local_over(TRANSPORT, programs.touch_in_child, 1, PAGE) == [-signal.SIGSEGV]


@processes
def test_words_are_checked() -> None:
    with Alone() as region:
        for offset in (-8, 4, PAGE, 2**64):
            with pytest.raises((IndexError, OverflowError)):
                region.load(offset)
        region.store(8, 2**64 - 1)
        assert region.add(8, 1) == 2**64 - 1
        assert region.compare_exchange(8, 0, 5) == 0
        assert region.compare_exchange(8, 0, 6) == 5
        assert region.load(8) == 5
        assert (len(region), region.node, region.nodes) == (PAGE, 0, 1)
        with pytest.raises(ValueError, match="timeout"):
            region.barrier(timeout=-1)
        region.barrier()
        assert region.statistics()["faults_zero"] == 1
    with pytest.raises(ValueError, match="has left"):
        region.barrier()
    with pytest.raises(BufferError, match="has left"):
        memoryview(region)
    region.close()


class Alone:
    """A region of one process."""

    def __enter__(self) -> dsm.Region:
        seat = dsm.Seat("127.0.0.1:0")
        self.region = dsm.join(dsm.Description.new([seat.address], 1), 0, seat=seat)
        return self.region.__enter__()

    def __exit__(self, *error: object) -> None:
        self.region.__exit__(*error)


def test_what_is_to_be_encrypted_does_not_go_over_ucx() -> None:
    seat = dsm.Seat("127.0.0.1:0")
    description = dsm.Description.new([seat.address], PAGE, encrypt="on", transport="ucx")
    with pytest.raises(UsageError, match="UCX does not encrypt") as caught:
        dsm.join(description, 0, seat=seat)
    assert "encrypt" in (caught.value.hint or "")


@pytest.mark.skipif(TRANSPORT == "ucx", reason="this build has UCX in it")
def test_a_build_without_ucx_says_so() -> None:
    seat = dsm.Seat("127.0.0.1:0")
    description = dsm.Description.new([seat.address], PAGE, transport="ucx")
    with pytest.raises(StartError, match="does not have UCX in it") as caught:
        dsm.join(description, 0, seat=seat)
    assert "libucx-dev" in (caught.value.hint or "")


@processes
def test_who_does_not_come_is_named() -> None:
    description = dsm.Description.new(["127.0.0.1:1", "127.0.0.1:0"], PAGE)
    with pytest.raises(TimeOver, match="node0 did not come"):
        dsm.join(description, 1, timeout=0.3)


def test_a_description_is_private_and_comes_back(tmp_path: Path) -> None:
    file = tmp_path / "region.json"
    homes = [(1, 1), (2, 0)]
    description = dsm.Description.new(["a:1", "b:2"], 3 * PAGE, homes=homes, engine={"hold_us": 0}, encrypt="on")
    description.save(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert dsm.Description.load(file) == description
    assert description.secret.get_secret_value() in file.read_text()
    assert description.secret.get_secret_value() not in repr(description)
    assert [(home.len // PAGE, home.node) for home in description.memory] == homes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"nodes": []}, "nodes"),
        ({"memory": [{"gpa": 0, "len": 100, "node": 0}]}, "whole pages"),
        ({"memory": [{"gpa": 0, "len": PAGE, "node": 2}]}, "nodes are 0 to 1"),
        ({"surprise": 1}, "surprise"),
        ({"encrypt": "maybe"}, "encrypt"),
    ],
)
def test_a_bad_file_is_named_with_its_field_and_without_its_secret(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    file = tmp_path / "region.json"
    description = dsm.Description.new(["a:1", "b:2"], PAGE)
    file.write_text(json.dumps(json.loads(description.text()) | change))
    with pytest.raises(ConfigError, match=words) as caught:
        dsm.join(file, 0)
    assert caught.value.message.startswith(f"{file}: ")
    assert description.secret.get_secret_value() not in str(caught.value)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="size"):
        dsm.Description.new(["a:1"], "much")
    with pytest.raises(UsageError, match="memory"):
        dsm.Description.new(["a:1"], 0)
    with pytest.raises(UsageError, match="2 pages have a home, the region has 1"):
        dsm.Description.new(["a:1"], PAGE, homes=[(2, 0)])
    with pytest.raises(UsageError, match="node 1 is not in the description"):
        dsm.join(dsm.Description.new(["a:1"], PAGE), 1)
    with pytest.raises(ConfigError, match="No such file"):
        dsm.join(tmp_path / "missing.json", 0)
    with pytest.raises(StartError, match="cannot be used"):
        dsm.Seat("nonsense")


@processes
def test_the_example_computes_something() -> None:
    run = subprocess.run(
        [sys.executable, "examples/primes.py", "1000000", "4"], cwd=ROOT, capture_output=True, text=True, timeout=50
    )
    assert run.stdout == "78498 primes below 1000000\n", run.stderr
    assert run.stderr.count("read and") == 4
