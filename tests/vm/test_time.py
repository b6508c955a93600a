"""One time for the whole machine: it never runs backwards between nodes, and it runs as fast as the host's."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from lev_run import lev, lev_run

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(400)]

MACHINE = ("--nodes", "2", "--cpus", "4", "--memory", "512M")
HANDOFFS = int(os.environ.get("LEV_TEST_HANDOFFS", "1000000"))


def test_time_never_runs_backwards_between_nodes(tmp_path: Path) -> None:
    run = lev_run(tmp_path, *MACHINE, command=f"lev-guest clock --json --rounds {HANDOFFS}", seconds=330)
    run.assert_passed(1)
    [report] = run.of("clock")
    assert len(set(report["nodes"])) == 2, report
    assert report["handoffs"] == HANDOFFS
    assert (report["backward_ns"], report["backward_tsc"]) == (0, 0)
    assert report["least_ns"] >= 0
    assert report["least_tsc"] >= 0
    # tsc-early until the kernel has refined the rate, which takes it long in a lab machine.
    assert report["clocksource"] in ("tsc", "tsc-early"), "the guest distrusts the time-stamp counters"


@pytest.mark.timeout(1300)
def test_time_never_runs_backwards_without_the_pool_and_over_three_nodes(tmp_path: Path) -> None:
    machine = ("--nodes", "3", "--cpus", "3", "--memory", "512M", "--no-pool")
    # Threads would fight for their page tables, too, and a hand-over takes tens of milliseconds as it is.
    command = f"lev-guest clock --json --processes --timeout 1100 --rounds {max(HANDOFFS // 200, 1)}"
    run = lev_run(tmp_path, *machine, command=command, seconds=1200)
    run.assert_passed(1)
    [report] = run.of("clock")
    assert len(set(report["nodes"])) == 3, report


def test_a_second_of_the_guest_is_a_second() -> None:
    """The head's and a worker's CPU sleep and spin as long as the host's clock says."""
    command = (
        "for cpu in 0 3; do echo begin; taskset -c $cpu sleep 5; echo end; "
        "echo begin; lev-guest spin --cpu $cpu --seconds 5 > /dev/null; echo end; done"
    )
    with subprocess.Popen(
        [lev(), "run", *MACHINE, "--quiet", "--timeout", "240", "--exec", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        stamps = [(line.strip(), time.monotonic()) for line in process.stdout]
        assert process.wait(60) == 0
    assert [word for word, _ in stamps] == ["begin", "end"] * 4
    for (_, begin), (_, end) in zip(stamps[::2], stamps[1::2], strict=True):
        # Slow cores: starting a program in the guest may take a while, ending early may not happen.
        assert 4.5 < end - begin < 9, f"5 s of the guest took {end - begin:.2f} s"
