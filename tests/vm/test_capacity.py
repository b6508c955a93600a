"""Memory of a guest is the sum of what its nodes give; each keeps its limit.

A guest for which that is not enough stands still and says so.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from lev_run import Run, lev_run

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(4000)]

PAGE = 4096
MIB = 1 << 20
SECONDS = ("--set", "timeouts.boot=600")


def assert_filled(run: Run, *, node_memory: int, at_least: int) -> None:
    """The guest filled and verified so many bytes, and no node held more than its limit and what was under way."""
    run.assert_passed(1)
    assert run.of("fill")[0]["bytes"] >= at_least, run.told()
    for node in run.nodes():
        assert 0 < node["memory"]["resident_peak"] * PAGE <= node_memory * 17 // 16, node


@pytest.mark.parametrize(
    ("memory", "node_memory", "at_least"),
    [(768 * MIB, 320 * MIB, 480 * MIB), (3072 * MIB, 1280 * MIB, 2300 * MIB)],
    ids=["768M on 320M each", "3G on 1280M each"],
)
def test_three_nodes_hold_what_none_of_them_could(tmp_path: Path, memory: int, node_memory: int, at_least: int) -> None:
    size = (f"{memory // MIB}M", "--node-memory", f"{node_memory // MIB}M")
    run = lev_run(
        tmp_path,
        *("--nodes", "3", "--cpus", "3", "--memory", *size, *SECONDS),
        # CPUs of two nodes fill what is at home on three: it does not fit on the two.
        command="lev-guest --json --timeout 3000 fill --cpus 0,1",
        seconds=3300,
    )
    assert_filled(run, node_memory=node_memory, at_least=at_least)
    assert sum(node["memory"]["evictions"] for node in run.nodes()) > 0, run.told()


def test_a_guest_without_room_stands_still_says_so_and_is_ended(tmp_path: Path) -> None:
    run = lev_run(
        tmp_path,
        *("--nodes", "2", "--cpus", "2", "--memory", "512M", "--node-memory", "160M", "--set", "overcommit=true"),
        *("--set", "timeouts.room=20", *SECONDS),
        command="lev-guest fill",
        seconds=1200,
    )
    assert run.code == 122, run.told()
    assert "no node has room for more guest memory" in run.stderr, run.told()
    assert "--node-memory" in run.record["error"]["hint"], run.told()
    full = [event for event in run.record["events"] if event["event"] == "out-of-room"]
    assert full, run.told()
    assert all(event["limit"] == 160 * MIB for event in full), full
