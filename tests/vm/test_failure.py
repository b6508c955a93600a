"""What ends while a VM runs, ends the VM: soon, with an error that names it, and with nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lev_run import lev

from leviathan.errors import GuestDied, LeviathanError, NodeLost
from leviathan.model import Machine
from leviathan.vm.life import Life
from leviathan.vm.prepare import Work

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(300)]

SECONDS_TO_NOTICE = 5
"""Promised; the clean-up after it has its own limits."""
CLEAN_UP_SECONDS = 10
NAMES = ("qemu-system-x86", "lev-node", "lev-agent")


def ours(root: int) -> list[str]:
    """Programs of ours that run below a process: command lines by pid."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
    below, found = set[int](), {root}
    while found - below:
        below |= found
        found = {int(pid) for pid, parent, _ in rows if int(parent) in below}
    return [
        args for pid, _, args in rows if int(pid) in below and int(pid) != root and any(name in args for name in NAMES)
    ]


def run_folders() -> set[Path]:
    return set(Path("/tmp").glob("lev-[0-9a-f]*"))


@pytest.fixture
def nothing_left() -> Iterator[None]:
    before = run_folders()
    yield
    assert ours(os.getpid()) == []
    assert run_folders() - before == set()


@pytest.fixture
def running() -> Iterator[Life]:
    """A guest over two nodes in one lab machine, in the midst of a command."""
    machine = Machine(cpus=2, memory="512M", nodes=2, on="lab")
    with Life(machine, Work("sleep 1000")) as life:
        life.start()
        yield life


def fails(life: Life, kind: type[LeviathanError], act: Callable[[], object]) -> LeviathanError:
    """The error after an act, and that it came in time."""
    began = time.monotonic()
    act()
    with pytest.raises(kind) as raised:
        life.wait_end(60)
    took = time.monotonic() - began
    # Until the error of a dead worker is known, the head may take its whole time to say which it was.
    assert took < SECONDS_TO_NOTICE + 1, f"{took:.1f} s"
    life.close()
    assert time.monotonic() - began < SECONDS_TO_NOTICE + CLEAN_UP_SECONDS
    return raised.value


@pytest.mark.usefixtures("nothing_left")
def test_a_killed_worker_is_named(running: Life) -> None:
    (worker,) = running._workers
    error = fails(running, NodeLost, lambda: worker.process.signal(signal.SIGKILL))
    assert error.message.startswith("node1 was lost")
    assert error.exit_code == 123


@pytest.mark.usefixtures("nothing_left")
def test_a_stopped_worker_is_named(running: Life) -> None:
    """As when a cable is pulled: the channel is open, but nothing comes."""
    (worker,) = running._workers
    error = fails(running, NodeLost, lambda: worker.process.signal(signal.SIGSTOP))
    assert error.message.startswith("node1 was lost")


@pytest.mark.usefixtures("nothing_left")
def test_a_killed_head(running: Life) -> None:
    assert running.head is not None
    head = running.head.process
    error = fails(running, GuestDied, lambda: head.signal(signal.SIGKILL))
    assert error.message.startswith("QEMU was killed by SIGKILL")
    assert error.exit_code == 122


def lab_machine(name: str) -> int:
    """The process of a lab machine of this test."""
    listed = subprocess.run(["pgrep", "-f", f"leviathan-{name}"], capture_output=True, text=True).stdout.split()
    (pid,) = [
        int(pid)
        for pid in listed
        if Path(f"/proc/{pid}/comm").read_text().startswith("qemu-system") and str(os.getpid()) in _ancestors(int(pid))
    ]
    return pid


@pytest.mark.usefixtures("nothing_left")
def test_a_killed_lab_machine(running: Life) -> None:
    """With all nodes in it, the head is lost first."""
    error = fails(running, LeviathanError, lambda: os.kill(lab_machine("lab0"), signal.SIGKILL))
    assert "lab0" in error.message
    assert error.exit_code in (122, 123)


@pytest.mark.usefixtures("nothing_left")
def test_a_killed_lab_machine_of_two() -> None:
    machine = Machine(cpus=2, memory="512M", nodes=2, on="lab", lab={"machines": 2})
    with Life(machine, Work("sleep 1000")) as life:
        life.start()
        error = fails(life, NodeLost, lambda: os.kill(lab_machine("lab1"), signal.SIGKILL))
    assert "node1" in error.message


def _ancestors(pid: int) -> list[str]:
    found = []
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        found.append(str(pid))
    return found


@pytest.mark.parametrize(
    ("number", "code", "nodes"), [(signal.SIGINT, 130, "2"), (signal.SIGTERM, 143, "0"), (signal.SIGHUP, 129, "0")]
)
@pytest.mark.usefixtures("nothing_left")
def test_signals_end_everything(number: int, code: int, nodes: str) -> None:
    words = ["run", "--nodes", nodes, "--cpus", "2", "--memory", "512M", "--exec", "echo up; sleep 1000"]
    with subprocess.Popen(
        [lev(), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background has made them ignore SIGINT, and lev leaves an ignored signal so.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        assert ours(process.pid)
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(CLEAN_UP_SECONDS) == code
        assert process.stderr is not None
        assert "stopped by" in process.stderr.read()
    assert time.monotonic() - began < CLEAN_UP_SECONDS


@pytest.mark.usefixtures("nothing_left")
def test_even_a_killed_lev_leaves_no_process() -> None:
    words = ["run", "--nodes", "0", "--cpus", "2", "--memory", "512M", "--exec", "echo up; sleep 1000"]
    with subprocess.Popen([lev(), *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        listed = ours(process.pid)
        process.kill()
    assert listed
    end = time.monotonic() + CLEAN_UP_SECONDS
    while time.monotonic() < end:
        alive = subprocess.run(["ps", "-eo", "args="], capture_output=True, text=True, check=True).stdout.splitlines()
        if not set(listed) & set(alive):
            break
        time.sleep(0.2)
    else:
        pytest.fail(f"still there: {set(listed) & set(alive)}")
