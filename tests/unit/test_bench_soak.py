"""`lev bench soak` and `lev bench kills`: short runs with real processes, and what they must not overlook."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import random
import re
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from leviathan.bench import soak
from leviathan.bench.kills import Kills
from leviathan.bench.nodes import BenchNode, even
from leviathan.bench.pauses import Pauses
from leviathan.bench.soak import Options, judge, settled
from leviathan.bench.watch import FEWEST, FLUSH_THREAD, OWN_TOLERANCE, WORK_THREAD, Growth, Sample, grown, sample
from leviathan.cli.app import app
from leviathan.launch.programs import bin_dir
from leviathan.vm.progress import Progress

processes = pytest.mark.skipif(
    not (bin_dir() / "lev-bench").exists() or (os.geteuid() != 0 and not os.access("/dev/userfaultfd", os.W_OK)),
    reason="needs lev-bench (make build) and the right to use userfaultfd",
)


def answer(**changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a node without anything wrong says in a round with another one that did the same."""
    looked = {
        "findings": [],
        "digests": [5, 6],
        "counters": [2, 0],
        "added": [1, 0],
        "versions": [4],
        "made": [2],
    }
    return {"findings": []}, looked | changes


def judged(*nodes: tuple[dict[str, Any], dict[str, Any]]) -> list[str]:
    return judge([work for work, _ in nodes], [look for _, look in nodes])


def test_a_round_without_differences_is_right() -> None:
    assert judged(answer(), answer()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"added": [2, 0]}, "counter 0 is 2 after 3 additions"),
        ({"made": [1]}, "block 0 has version 4 after 3 changes"),
        ({"digests": [5, 7]}, r"node0 and node1 see different bytes in groups \[1\]"),
        ({"findings": ["page 3"]}, "node1 found: page 3"),
    ],
)
def test_every_difference_is_a_failure(changes: dict[str, Any], words: str) -> None:
    (wrong,) = judged(answer(), answer(**changes))
    assert re.search(words, wrong)


def is_child(comm: Path) -> bool:
    """Whether it is a node that this process has started."""
    try:
        parent = int((comm.parent / "stat").read_text().rpartition(")")[2].split()[1])
        return parent == os.getpid() and comm.read_text().strip() == "lev-bench"
    except OSError:
        return False  # it has ended


def seen(**changes: Any) -> Sample:
    """A process that does nothing unusual."""
    usual: dict[str, Any] = {"descriptors": 9, "region": 4096, "own": 1 << 20, "peak": 1 << 22}
    threads = Counter({"main": 1, "lev-hold": 1} | changes.pop("threads", {}))
    return Sample(threads, **(usual | changes))


CEILINGS = {FLUSH_THREAD: 3, WORK_THREAD: 2}


def test_growth_is_found_by_name() -> None:
    assert grown([seen()], [seen(), seen(own=(1 << 20) + OWN_TOLERANCE)], CEILINGS) == []
    assert grown([seen()], [seen(threads={FLUSH_THREAD: 3})], CEILINGS) == []
    assert grown([seen()], [seen(threads={FLUSH_THREAD: 4})], CEILINGS) == ["threads lev-flush: 3 -> 4"]
    leaked = [seen(threads={"lev-hold": 2}), seen(threads={"lev-hold": 3})]
    assert grown([seen()], leaked, CEILINGS) == ["threads lev-hold: 1 -> 2"]
    leaked = [seen(descriptors=10), seen(descriptors=10)]
    assert grown([seen(), seen(descriptors=10)], leaked, CEILINGS) == ["descriptors: 9 -> 10"]
    (found,) = grown([seen()], [seen(own=(2 << 20) + OWN_TOLERANCE)], CEILINGS)
    assert found.startswith("memory outside of the region")


def test_what_comes_and_goes_is_no_growth() -> None:
    # A sample between two rounds has no thread that works; one in a round has them all.
    assert grown([seen()], [seen(threads={WORK_THREAD: 2})], CEILINGS) == []
    assert grown([seen()], [seen(), seen(threads={WORK_THREAD: 3})], CEILINGS) == ["threads work: 2 -> 3"]
    # A new thread has the name of its parent for a moment, and files in /proc are open for a moment.
    assert grown([seen()], [seen(), seen(threads={"main": 2})], CEILINGS) == []
    assert grown([seen()], [seen(), seen(descriptors=10)], CEILINGS) == []


def test_growth_needs_several_samples() -> None:
    growth = Growth()
    for number in range(4 * FEWEST):
        assert growth.found(CEILINGS) == []
        growth.add(seen(descriptors=9 + number))
    assert growth.found(CEILINGS) == [f"descriptors: {9 + FEWEST} -> {9 + 3 * FEWEST}"]


def test_a_region_that_was_left_leaves_nothing_behind() -> None:
    one = soak.Soak(Options(nodes=1), Progress())
    # The first region's memory is kept for the next ones.
    one.idle = [[seen(), seen(own=20 << 20), seen(own=21 << 20)]]
    one._compare_idle()
    assert one.failures == []
    one.idle = [[seen(), seen(descriptors=10), seen(descriptors=10)]]
    one._compare_idle()
    assert one.failures == ["node0 grew from the first epoch to the last: descriptors: 9 -> 10"]


def test_a_process_settles_when_its_threads_have_ended() -> None:
    before = sample(os.getpid())
    end = threading.Event()
    threading.Thread(target=end.wait).start()
    assert settled(os.getpid(), before, 0.0).threads.total() > before.threads.total()
    threading.Timer(0.2, end.set).start()
    assert settled(os.getpid(), before).threads.total() <= before.threads.total()


def test_a_sample_counts_what_is_resident_in_a_region() -> None:
    with mmap.mmap(-1, 1 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[: 1 << 19] = b"1" * (1 << 19)
        all_of_it = sample(os.getpid(), 0, 1 << 63)
        none = sample(os.getpid())
    assert none.region == 0
    assert all_of_it.region >= 1 << 19
    assert abs(all_of_it.region - none.own) < 4 << 20
    assert none.threads.total() >= 1


def test_a_region_is_what_a_process_has_more_than_outside() -> None:
    length = 64 << 20
    with mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        before = sample(os.getpid(), base, length)
        memory[: length // 2] = b"1" * (length // 2)
        after = sample(os.getpid(), base, length)
        without = sample(os.getpid())
    assert before.region < 2 << 20
    assert abs(after.region - length // 2) < 2 << 20
    assert abs(without.own - after.own - length // 2) < 2 << 20


def test_limits_are_together_just_more_than_the_region() -> None:
    options = Options()
    total = options.node_limit * options.nodes
    assert options.memory * 17 / 16 <= total < options.memory * 1.07
    assert sum(pages for pages, _ in even(8191, 4)) == 8191


@processes
def test_pauses_stop_one_at_a_time_at_most_all_but_one_and_end() -> None:
    with BenchNode("node0") as one, BenchNode("node1") as other:
        with Pauses((one, other), random.Random(1), on=True) as pauses:
            end = time.monotonic() + 20
            while sum(pauses.count) < 3 and time.monotonic() < end:
                pauses.step()
                states = [Path(f"/proc/{node.pid}/stat").read_text().split()[2] for node in (one, other)]
                assert states.count("T") < 2
                time.sleep(0.002)
            assert sum(pauses.count) >= 3
        assert "threads" in one.ask("census")
        assert "threads" in other.ask("census")


@processes
def test_a_short_soak_finds_nothing_and_says_so(tmp_path: Path) -> None:
    file = tmp_path / "soak.json"
    words = ["bench", "soak", "--seconds", "14", "--region-seconds", "7", "--memory", "16M", "--json", str(file), "-q"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    table = json.loads(file.read_text())
    assert f"seed {table['seed']}" in result.stdout
    assert table["failures"] == []
    first = table["epochs"][0]
    total: Counter[str] = Counter()
    for counters in first["counters"]:
        total.update(counters)
    assert total["promotions"] > 0
    assert total["evictions"] > 0
    assert first["bytes_verified"] >= 4 * (16 << 20)
    kinds = ("changes", "inspections", "glances", "streams", "additions", "pair_writes", "pair_reads")
    assert all(first["operations"][kind] > 0 for kind in kinds)


@processes
def test_a_soak_that_loses_a_node_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kills(Pauses):
        """Kills a node once, a second after all have joined."""

        def step(self) -> None:
            self.began = getattr(self, "began", time.monotonic())
            if time.monotonic() > self.began + 1:
                self._nodes[1].signal(signal.SIGKILL)

    monkeypatch.setattr(soak, "Pauses", Kills)
    lost = soak.Soak(Options(seconds=10, memory=16 << 20), Progress())
    lost.run()
    assert any("node1" in failure for failure in lost.failures), lost.failures
    assert [name for name in Path("/proc").glob("[0-9]*/comm") if is_child(name)] == []


@processes
def test_some_kills_are_reported_in_time(tmp_path: Path) -> None:
    file = tmp_path / "kills.json"
    words = ["bench", "kills", "--rounds", "16", "--seed", "1", "--json", str(file), "-q"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    table = json.loads(file.read_text())
    assert {each["phase"] for each in table["rounds"]} == {"join", "work", "leave"}
    assert all(each["killed"] for each in table["rounds"])
    assert sum(len(each["seconds"]) for each in table["rounds"]) > 16


@processes
def test_rounds_are_the_same_for_the_same_seed() -> None:
    def shape(kills: Kills) -> list[tuple[str, int, list[int]]]:
        kills.run(lambda: None)
        return [(each.phase, each.nodes, each.killed) for each in kills.rounds]

    assert shape(Kills(3, 5, 1)) == shape(Kills(3, 5, 3))


@pytest.mark.parametrize("memory", ["3M", "2M", "x"])
def test_a_soak_of_a_wrong_size_is_refused(memory: str) -> None:
    result = CliRunner().invoke(app, ["bench", "soak", "--memory", memory])
    assert result.exit_code != 0
    assert "--memory" in str(result.exception)
