"""Memory is coherent: the checks of lev-guest, threads on different nodes (docs/reference/guest-checks.md)."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

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
"""Without a pool a hand-over takes milliseconds in a lab machine, and a hundred thousand of them an hour."""


@dataclass(frozen=True)
class Kind:
    """How the checks are run."""

    options: list[str]
    members: str
    """Without a pool between processes: threads share page tables, which would bounce along."""
    tlb_rounds: int
    seconds: int


KINDS = {
    "pool": Kind([], "", FEW, 330),
    "no-pool": Kind(["--no-pool"], "--processes", WITHOUT_POOL, HOURS),
}


def _script(kind: Kind) -> str:
    limit = f"--timeout {kind.seconds}"
    lines = [
        f"lev-guest {check} --json {limit} {kind.members} --rounds {ROUNDS}"
        for check in ("counters", "ticketlock", "litmus", "smc")
    ]
    lines.append(f"lev-guest tlb --json {limit} --rounds {kind.tlb_rounds}")
    lines.append("lev-guest mem --json --bytes 32M")
    # One after the other in one boot, all of them even if one fails; the worst exit code counts.
    return "worst=0; " + " ".join(f"{line} || worst=$?;" for line in lines) + " exit $worst"


@pytest.fixture(scope="module", params=list(KINDS))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One boot that runs every check; the tests below look at its reports."""
    kind = KINDS[request.param]
    # Without a pool every CPU more is one more that fights for the kernel's pages.
    cpus = MACHINE if kind.members == "" else TWO
    folder = tmp_path_factory.mktemp("run")
    return lev_run(folder, *cpus, *kind.options, command=_script(kind), seconds=kind.seconds)


def _good(run: Run, check: str) -> None:
    for report in run.of(check):
        assert report["ok"] is True, report
        assert len(set(report["nodes"])) == 2, f"the threads were not on two nodes: {report}"


def test_every_run_of_the_guest_program_passed(run: Run) -> None:
    run.assert_passed(6)


def test_locked_counters_are_exact(run: Run) -> None:
    _good(run, "counters")
    assert {r["placement"] for r in run.of("counters")} >= {"same-line", "same-page", "pages"}
    assert all(r["rounds"] >= ROUNDS for r in run.of("counters"))
    assert all(r["switches"] > 0 for r in run.of("counters")), "nobody fought for a counter"


def test_a_ticket_lock_excludes(run: Run) -> None:
    _good(run, "ticketlock")
    [report] = run.of("ticketlock")
    assert report["acquisitions"] >= ROUNDS
    assert report["handoffs"] > ROUNDS // 100, f"hardly contended: {report}"


def test_only_what_x86_allows_is_seen(run: Run) -> None:
    _good(run, "litmus")
    reports = run.of("litmus")
    assert {r["shape"] for r in reports} >= {"SB", "SB+mfence", "MP", "LB", "IRIW", "2+2W", "R", "S", "WRC", "CoRR"}
    for report in reports:
        assert report["forbidden"] == 0
        assert sum(report["outcomes"].values()) == report["rounds"] >= ROUNDS
        if report["shape"] not in ("SB", "R"):
            assert report["relaxed"] == 0
        # Threads that never run at the same time would end all rounds of a batch alike, and show nothing.
        assert report["mixed_batches"] > 0, report


def test_code_written_on_another_node_is_executed(run: Run) -> None:
    _good(run, "smc")
    assert run.of("smc")[0]["rounds"] >= ROUNDS


def test_page_table_changes_reach_the_other_node(run: Run) -> None:
    _good(run, "tlb")
    assert {r["part"] for r in run.of("tlb")} == {"page tables", "copy on write", "exec storm"}


def test_pages_moved_between_the_nodes(run: Run) -> None:
    """Without this the checks above would have said nothing about coherence."""
    for node in run.nodes():
        assert node["vcpus"], node
        assert sum(node["memory"].values()) > 0, node["name"]


def test_two_nodes_without_a_pool_take_turns(tmp_path: Path) -> None:
    """The protocol alone: slow, and right."""
    command = f"lev-guest counters --json --rounds {WITHOUT_POOL}"
    run = lev_run(tmp_path, *TWO, "--no-pool", command=command, seconds=330)
    run.assert_passed(1)
    _good(run, "counters")
    assert all(node["memory"]["turns"] > 0 for node in run.nodes())


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_accesses_may_cross_lines_and_pages(tmp_path: Path, kind: Kind) -> None:
    """In a boot of its own: it has hung a guest in a lab machine without the facade, too (guest-checks.md)."""
    seconds = min(kind.seconds, HOURS)
    command = f"lev-guest pagecross --json --timeout {seconds} {kind.members} --rounds {ROUNDS}"
    cpus = MACHINE if kind.members == "" else TWO
    run = lev_run(tmp_path, *cpus, *kind.options, command=command, seconds=seconds + 60)
    run.assert_passed(1)
    _good(run, "pagecross")
    assert {r["access"] for r in run.of("pagecross")} == {"locked", "plain line", "plain page"}


def test_coherence_under_stress(tmp_path: Path) -> None:
    stress = shutil.which("stress-ng")
    if stress is None:
        pytest.skip("stress-ng is not installed")
    command = (
        "stress-ng --vm 1 --vm-bytes 24M --futex 1 --fork 1 --context 1 --timeout 500 --quiet & "
        f"lev-guest counters --json --rounds {FEW} && lev-guest ticketlock --json --rounds {FEW} && "
        f"lev-guest litmus --json --shapes SB,MP,IRIW,2+2W --rounds {FEW} && "
        f"lev-guest tlb --json --rounds {max(FEW // 10, 1)}; code=$?; kill %1; exit $code"
    )
    run = lev_run(tmp_path, *MACHINE, "--program", stress, command=command, seconds=560)
    run.assert_passed(4)
