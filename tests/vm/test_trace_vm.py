"""Traces of guests over two nodes: of a whole life, and of some seconds of a VM that runs."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from lev_run import lev

from leviathan.trace import Kind, Trace

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

GUEST = ("--nodes", "2", "--cpus", "2", "--memory", "512M")


def test_a_boot_is_recorded_on_both_nodes(tmp_path: Path) -> None:
    file = tmp_path / "boot.trace"
    command = [lev(), "trace", "record", "-o", str(file), *GUEST, "--exec", "nproc"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
    trace = Trace.load(file)
    assert (trace.nodes, trace.node, trace.finished, trace.dropped, trace.cut) == (2, None, True, 0, 0)
    counts = Counter((one.node, one.kind.is_fault) for one in trace)
    assert counts[0, True] > 100
    assert counts[1, True] > 100
    # Both nodes have a home, and each misses pages of either. (What a node sends is another matter: with the pool,
    # pages that both write are in it by the time that the second node has something to send.)
    assert {home.node for home in trace.homes} == {0, 1}
    missed = {
        (one.node, home.node)
        for one in trace
        for home in trace.homes
        if one.kind.is_fault and home.first <= one.page < home.first + home.pages
    }
    assert missed == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert any(one.kind is Kind.SEND for one in trace)
    replayed = subprocess.run([lev(), "trace", "replay", str(file)], capture_output=True, text=True, check=False)
    assert replayed.returncode == 0, replayed.stderr


@pytest.mark.slow
def test_a_vm_that_runs_is_recorded_twice(tmp_path: Path) -> None:
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path)}

    def run(*words: str) -> str:
        command = [lev(), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=800, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    try:
        run("run", "-d", "--name", "box", *GUEST)
        work = "lev-guest counters --rounds 200000 >/dev/null 2>&1 &"
        for number, command in enumerate((work, "true")):
            file = tmp_path / f"{number}.trace"
            run("exec", "box", "--", command)
            run("trace", "record", "box", "--seconds", "3", "-o", str(file))
            trace = Trace.load(file)
            assert trace.finished
            assert trace.homes
        run("stop", "box")
    finally:
        subprocess.run([lev(), "stop", "--now", "box"], env=environment, capture_output=True, check=False)
