"""Guests of every shape boot, run commands, reboot and power off; their vCPUs run where they belong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from lev_run import Run, lev_run

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(400)]

BOOTS = int(os.environ.get("LEV_TEST_BOOTS", "4"))
"""Boots in a row; 20 before a release."""
SPIN_SECONDS = 15


@pytest.mark.timeout(1100)
@pytest.mark.parametrize(
    ("nodes", "cpus", "memory", "more"),
    [
        (2, 4, "1G", []),
        (3, 3, "512M", []),
        (4, 8, "1G", []),
        (2, 4, "512M", ["--lab-machines", "2"]),
        (1, 2, "512M", []),
        (0, 2, "512M", []),
    ],
    ids=["two", "three", "four-of-two", "two-lab-machines", "one", "stock"],
)
def test_machines_of_every_shape(tmp_path: Path, nodes: int, cpus: int, memory: str, more: list[str]) -> None:
    seen = max(nodes, 1)
    demo, litmus, smc, seconds = "200", "5000", "2000", 500
    if "--lab-machines" in more:
        # A page takes milliseconds from one lab machine to the other, and threads fight for page tables, too. Both
        # machines want a CPU of the host: beside other work everything takes twice as long.
        demo, litmus, smc, seconds = "10", "100 --processes", "200 --processes", 1000
    command = (
        "nproc; cat /proc/interrupts; "
        f"lev-guest demo --json --rounds {demo} --expect-cpus {cpus} --expect-nodes {seen} && "
        f"lev-guest litmus --json --shapes SB,MP,WRC,IRIW --rounds {litmus} && "
        f"lev-guest smc --json --rounds {smc}"
    )
    arguments = ["--nodes", str(nodes), "--cpus", str(cpus), "--memory", memory, *more]
    run = lev_run(tmp_path, *arguments, command=command, seconds=seconds)
    run.assert_passed(3)
    lines = run.stdout.splitlines()
    assert lines[0] == str(cpus), run.told()
    assert lines[1].split() == [f"CPU{n}" for n in range(cpus)], run.told()
    _assert_interrupts(run, cpus, seen)
    assert run.record["exit_code"] == 0
    assert len(run.record["nodes"]) == seen
    assert run.record["qemu"]["version"]
    assert len(run.record["qemu"]["sha256"]) == 64
    if nodes > 0:
        assert [len(node["vcpus"]) for node in run.nodes()] == [len(node["vcpus"]) for node in run.record["nodes"]]


def _assert_interrupts(run: Run, cpus: int, nodes: int) -> None:
    [report] = run.of("interrupts")
    assert len(report["CAL"]) == cpus
    assert len(report["forced"]) == cpus * (cpus - 1)
    assert all(count > 0 for count in report["CAL"]), report
    if nodes > 1:
        assert report["between_nodes"] > 0, report


def _spin(folder: Path, cpu: int) -> Run:
    folder.mkdir()
    # busybox's taskset and shell: what a person would type.
    command = f"taskset -c {cpu} sh -c 'while :; do :; done' & sleep {SPIN_SECONDS}; kill $!; echo done"
    run = lev_run(folder, "--nodes", "2", "--cpus", "4", "--memory", "512M", command=command)
    assert (run.code, run.stdout.strip()) == (0, "done"), run.told()
    return run


def test_a_busy_cpu_costs_the_node_that_it_belongs_to(tmp_path: Path) -> None:
    """The same load on CPU 0 (head) and CPU 3 (worker): each raises its own node's vCPU time, not the other's."""
    on_head, on_worker = _spin(tmp_path / "head", 0), _spin(tmp_path / "worker", 3)

    def seconds(run: Run, node: int) -> float:
        return sum(vcpu["counters"]["run_ns"] for vcpu in run.nodes()[node]["vcpus"]) / 1e9

    for run in (on_head, on_worker):
        assert [[vcpu["id"] for vcpu in node["vcpus"]] for node in run.nodes()] == [[0, 1], [2, 3]]
    told = {
        f"{name}, node {n}": seconds(run, n) for n in (0, 1) for name, run in [("head", on_head), ("wrk", on_worker)]
    }
    assert seconds(on_worker, 1) - seconds(on_head, 1) > 0.6 * SPIN_SECONDS, told
    assert seconds(on_head, 0) - seconds(on_worker, 0) > 0.4 * SPIN_SECONDS, told
    # Meanwhile the idle vCPU beside it slept.
    assert on_worker.vcpu(3)["run_ns"] > 0.6 * SPIN_SECONDS * 1e9
    assert on_worker.vcpu(2)["halted_ns"] > 0.6 * SPIN_SECONDS * 1e9


def test_output_exit_code_and_files_are_the_commands_own(tmp_path: Path) -> None:
    files = tmp_path / "files"
    (files / "etc").mkdir(parents=True)
    (files / "etc" / "motto").write_text("one of many\n")
    command = "cat /etc/motto; echo to-stderr >&2; exit 37"
    run = lev_run(tmp_path, "--nodes", "2", "--cpus", "2", "--memory", "512M", "--add", str(files), command=command)
    assert (run.code, run.stdout) == (37, "one of many\n"), run.told()
    assert "to-stderr" in run.stderr
    assert run.record["exit_code"] == 37


def test_power_off_from_inside(tmp_path: Path) -> None:
    command = "echo bye; sleep 1; poweroff -f; sleep 100"
    run = lev_run(tmp_path, "--nodes", "2", "--cpus", "2", "--memory", "512M", command=command)
    assert (run.code, run.stdout) == (0, "bye\n"), run.told()


# The guest keeps nothing over a reboot but its clock: a year far ahead says that it has been there before.
REBOOT = """
if [ "$(date +%Y)" -ge 2040 ]; then
    echo second
    exec lev-guest demo --json --expect-cpus 4 --expect-nodes 2
fi
date -u -s 2040.06.01-12:00:00 > /dev/null && hwclock -u -w -f /dev/rtc0 || exit 99
echo first
sleep 1
reboot -f
sleep 100
"""


def test_reboot_from_inside(tmp_path: Path) -> None:
    run = lev_run(tmp_path, "--nodes", "2", "--cpus", "4", "--memory", "512M", "--reboot", command=REBOOT)
    run.assert_passed(1)
    words = [line for line in run.stdout.splitlines() if line in ("first", "second")]
    assert words == ["first", "second"], run.told()


def test_two_gigabytes(tmp_path: Path) -> None:
    command = "grep MemTotal /proc/meminfo && lev-guest mem --json --bytes 96M"
    run = lev_run(tmp_path, "--nodes", "2", "--cpus", "2", "--memory", "2G", command=command)
    run.assert_passed(1)
    kib = int(run.stdout.split()[1])
    assert 1_900_000 < kib <= 2_097_152, run.told()


@pytest.mark.timeout(60 + 150 * BOOTS)
def test_boots_in_a_row(tmp_path: Path) -> None:
    for boot in range(BOOTS):
        run = lev_run(tmp_path, "--nodes", "2", "--cpus", "2", "--memory", "512M", command="nproc", seconds=120)
        assert (run.code, run.stdout) == (0, "2\n"), f"boot {boot + 1} of {BOOTS}\n{run.told()}"
