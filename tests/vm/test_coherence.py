"""Memory is coherent: the checks of lev-guest, threads on different nodes (docs/reference/guest-checks.md)."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from lev_run import ROUNDS, Run, lev_run

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(3 * 3600 + 200)]

MACHINE = ("--nodes", "2", "--cpus", "4", "--memory", "512M")
TWO = ("--nodes", "2", "--cpus", "2", "--memory", "512M")
FEW = max(ROUNDS // 20, 1)
"""Rounds of what needs several system calls, forks or page faults each time."""
WITHOUT_POOL = max(ROUNDS // 100, 1)
"""Rounds between threads, whose page tables bounce along with the data, without a pool."""
HOURS = 3 * 3600
"""Without a pool, or beside stressors, a hand-over takes milliseconds in the lab, 100,000 of them up to an hour."""


@dataclass(frozen=True)
class Kind:
    """How the checks are run."""

    options: list[str]
    members: str
    """Without a pool between processes: threads share page tables, which would bounce along."""
    tlb_rounds: int
    seconds: int

    def command(self, check: str, *options: str) -> str:
        """One run of lev-guest."""
        return " ".join(["lev-guest", check, "--json", f"--timeout {self.seconds}", *options])

    def run(self, folder: Path, *commands: str) -> Run:
        """A boot of two nodes that runs lev-guest so, one after the other."""
        # Without a pool every CPU more is one more that fights for the kernel's pages.
        machine = TWO if self.members else MACHINE
        run = lev_run(folder, *machine, *self.options, command=" && ".join(commands), seconds=self.seconds)
        run.assert_passed(len(commands))
        _pages_moved(run)
        return run

    def check(self, folder: Path, check: str) -> list[dict[str, Any]]:
        """The reports of a boot with one check between threads, or processes, of both nodes."""
        run = self.run(folder, self.command(check, self.members, f"--rounds {ROUNDS}"))
        _good(run, check)
        return run.of(check)


KINDS = {
    "pool": Kind([], "", FEW, 330),
    "no-pool": Kind(["--no-pool"], "--processes", max(WITHOUT_POOL // 10, 1), HOURS),
}


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def kind(request: pytest.FixtureRequest) -> Kind:
    """With the pool and without. A boot for each check: what takes hours can be run, and fail, by itself."""
    return cast("Kind", request.param)


def _good(run: Run, check: str) -> None:
    for report in run.of(check):
        assert report["ok"] is True, report
        assert len(set(report["nodes"])) == 2, f"the threads were not on two nodes: {report}"


def _pages_moved(run: Run) -> None:
    """Without this the checks would have said nothing about coherence."""
    for node in run.nodes():
        assert node["vcpus"], node
        assert sum(node["memory"].values()) > 0, node["name"]


def test_locked_counters_are_exact(tmp_path: Path, kind: Kind) -> None:
    reports = kind.check(tmp_path, "counters")
    assert {r["placement"] for r in reports} >= {"same-line", "same-page", "pages"}
    assert all(r["rounds"] >= ROUNDS for r in reports)
    assert all(r["switches"] > 0 for r in reports), "nobody fought for a counter"


def test_a_ticket_lock_excludes(tmp_path: Path, kind: Kind) -> None:
    [report] = kind.check(tmp_path, "ticketlock")
    assert report["acquisitions"] >= ROUNDS
    assert report["handoffs"] > ROUNDS // 100, f"hardly contended: {report}"


def test_only_what_x86_allows_is_seen(tmp_path: Path, kind: Kind) -> None:
    reports = kind.check(tmp_path, "litmus")
    assert {r["shape"] for r in reports} >= {"SB", "SB+mfence", "MP", "LB", "IRIW", "2+2W", "R", "S", "WRC", "CoRR"}
    for report in reports:
        assert report["forbidden"] == 0
        assert sum(report["outcomes"].values()) == report["rounds"] >= ROUNDS
        if report["shape"] not in ("SB", "R"):
            assert report["relaxed"] == 0
        # Threads that never run at the same time would end all rounds of a batch alike, and show nothing.
        assert report["mixed_batches"] > 0, report


def test_code_written_on_another_node_is_executed(tmp_path: Path, kind: Kind) -> None:
    [report] = kind.check(tmp_path, "smc")
    assert report["rounds"] >= ROUNDS


def test_page_table_changes_reach_the_other_node_and_all_memory_is_verified(tmp_path: Path, kind: Kind) -> None:
    tlb = kind.command("tlb", f"--rounds {kind.tlb_rounds}")
    run = kind.run(tmp_path, tlb, "lev-guest mem --json --bytes 32M")
    _good(run, "tlb")
    assert {r["part"] for r in run.of("tlb")} == {"page tables", "copy on write", "exec storm"}


def test_two_nodes_without_a_pool_take_turns(tmp_path: Path) -> None:
    """The protocol alone: slow, and right."""
    command = f"lev-guest counters --json --rounds {WITHOUT_POOL}"
    run = lev_run(tmp_path, *TWO, "--no-pool", command=command, seconds=330)
    run.assert_passed(1)
    _good(run, "counters")
    assert all(node["memory"]["turns"] > 0 for node in run.nodes())


def test_accesses_may_cross_lines_and_pages(tmp_path: Path, kind: Kind) -> None:
    """The check has hung a guest in a lab machine without the facade, too (guest-checks.md)."""
    reports = kind.check(tmp_path, "pagecross")
    assert {r["access"] for r in reports} == {"locked", "plain line", "plain page"}


def test_coherence_under_stress(tmp_path: Path) -> None:
    stress = shutil.which("stress-ng")
    if stress is None:
        pytest.skip("stress-ng is not installed")
    rounds = f"--json --timeout {HOURS} --rounds {ROUNDS}"
    command = (
        f"stress-ng --vm 1 --vm-bytes 24M --futex 1 --fork 1 --context 1 --timeout {HOURS} --quiet & "
        f"lev-guest counters {rounds} && lev-guest ticketlock {rounds} && "
        f"lev-guest litmus --shapes SB,MP,IRIW,2+2W {rounds} && "
        f"lev-guest tlb --json --rounds {max(FEW // 10, 1)}; code=$?; kill %1; exit $code"
    )
    run = lev_run(tmp_path, *MACHINE, "--program", stress, command=command, seconds=HOURS)
    run.assert_passed(4)
