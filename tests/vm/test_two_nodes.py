"""The main job, short enough for every run of the tests: one machine over two nodes in one lab machine.

The long versions (all shapes, full rounds, failures) are marked slow: `make test-long`.
"""

from __future__ import annotations

import pytest
from lev_run import Run, lev_run

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

CHECKS = (
    "lev-guest --json counters --rounds 20000",
    "lev-guest --json ticketlock --rounds 5000",
    "lev-guest --json tlb --rounds 500",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One boot for all tests of this file."""
    words = "nproc; ls -d /sys/devices/system/node/node[0-9]* | wc -l; echo oops >&2; "
    return lev_run(
        tmp_path_factory.mktemp("two-nodes"),
        *("--nodes", "2", "--cpus", "2", "--memory", "512M"),
        command=words + "; ".join(CHECKS) + "; exit 7",
        seconds=400,
    )


def test_output_and_exit_code_are_the_commands_own(run: Run) -> None:
    assert run.code == 7, run.told()
    assert run.stdout.startswith("2\n2\n"), run.told()
    assert "oops" in run.stderr, run.told()


def test_the_guest_saw_one_coherent_machine(run: Run) -> None:
    assert run.results == ["pass"] * len(CHECKS), run.told()


def test_both_nodes_ran_a_cpu_and_exchanged_pages_and_interrupts(run: Run) -> None:
    nodes = run.record["report"]["nodes"]
    assert [[cpu["id"] for cpu in node["vcpus"]] for node in nodes] == [[0], [1]], run.told()
    for node in nodes:
        assert node["vcpus"][0]["counters"]["run_ns"] > 10**9, node
        for room, counter in (("memory", "pool_pages"), ("interrupts", "sent")):
            assert node[room][counter] > 0, (room, counter, node)
    # The worker's CPU starts last: what it shares with the head comes from there, or meets it in the pool.
    head, worker = (node["memory"] for node in nodes)
    assert head["pages_sent"] > 0, head
    assert worker["pages_received"] > 0, worker


def test_qemu_is_the_distributions_own(run: Run) -> None:
    assert len(run.record["qemu"]["sha256"]) == 64, run.record["qemu"]
