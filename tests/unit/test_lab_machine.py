"""Machines without machines: a small program stands where QEMU would, under the real guard."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from leviathan.errors import LaunchError, StartError
from leviathan.lab import Lab, LabOptions
from leviathan.lab.channel import ChannelLost
from leviathan.lab.machine import LabMachine, MachineSpec, Nic, Tail
from leviathan.launch.programs import program


@pytest.fixture
def agent() -> Path:
    try:
        return program("lev-agent")
    except StartError as error:
        pytest.skip(str(error))


def spec(qemu: Path, agent: Path, **more: object) -> MachineSpec:
    image = os.memfd_create("image")
    return MachineSpec("lab0", qemu, agent, Path("/boot/vmlinuz"), image, 2, 512 << 20, **more)  # type: ignore[arg-type]


def script(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "qemu"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_the_command_line_names_nothing_in_a_file_system() -> None:
    made = MachineSpec(
        "lab0", Path("/q"), Path("/a"), Path("/k"), 9, 3, 512 << 20, nics=[Nic(1, 2, 7)], pool=(8, 1 << 20)
    )
    line = made.arguments(5, 6)
    text = " ".join(line)
    assert "-initrd /proc/self/fd/9" in text
    assert "socket,id=agent,fd=5" in text
    assert "-smp 3,maxcpus=3 -m 512M" in text
    assert "addr.str=7" in text
    assert "mac=52:54:00:87:01:02" in text
    assert "mem-path=/proc/self/fd/8,size=1048576" in text
    assert made.descriptors() == [9, 7, 8]
    assert "path=/tmp" not in text


def test_a_machine_that_ends_is_noticed_with_its_last_words(agent: Path, tmp_path: Path) -> None:
    gone: list[str] = []
    text = "echo 'qemu: no such machine type' >&2; exit 1"
    machine = LabMachine(spec(script(tmp_path, text), agent), lambda machine: gone.append(machine.obituary()))
    wait_for(lambda: bool(gone))
    assert "lab0 ended (1)" in gone[0]
    assert "no such machine type" in gone[0]
    with pytest.raises(ChannelLost, match="no such machine type"):
        machine.channel.call("info")
    machine.stop()


def test_a_stopped_machine_is_not_reported(agent: Path, tmp_path: Path) -> None:
    gone: list[LabMachine] = []
    machine = LabMachine(spec(script(tmp_path, "exec sleep 60"), agent), gone.append)
    machine.stop()
    assert not machine.running
    assert gone == []


def test_machines_end_with_a_control_plane_that_is_killed(agent: Path, tmp_path: Path) -> None:
    qemu = script(tmp_path, f"echo $$ > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; exec sleep 60")
    child = f"""
        import os, time
        from pathlib import Path
        from leviathan.lab.machine import LabMachine, MachineSpec
        image = os.memfd_create("image")
        machine = LabMachine(
            MachineSpec("lab0", Path({str(qemu)!r}), Path({str(agent)!r}), Path("/k"), image, 1, 1 << 20)
        )
        time.sleep(60)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(child)])
    wait_for((tmp_path / "pid").exists)
    pid = int((tmp_path / "pid").read_text())
    assert alive(pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not alive(pid))


@pytest.mark.parametrize("options", [{"machines": 0}, {"machines": 17}, {"shared_pool_bytes": 3 << 20}])
def test_impossible_labs_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(StartError):
        Lab(**options)  # type: ignore[arg-type]


def test_every_two_machines_have_a_cable() -> None:
    import contextlib

    with contextlib.ExitStack() as stack:
        nics = Lab(4)._network(stack)
    ends = sorted((nic.own, nic.peer) for row in nics for nic in row)
    assert ends == [(own, peer) for own in range(1, 5) for peer in range(1, 5) if own != peer]
    assert len({nic.descriptor for row in nics for nic in row}) == 12


def test_a_lab_whose_agent_stays_silent_names_what_it_waited_for(agent: Path, tmp_path: Path) -> None:
    from test_images_guest import MODULES
    from test_images_kernel import tree

    qemu = script(tmp_path, "exec sleep 60")
    options = LabOptions(
        qemu=qemu,
        inner_qemu=None,
        kernel=tree(tmp_path / "modules", MODULES),
        bin_dir=tmp_path,
        agent=agent,
        boot_seconds=0.3,
    )
    steps: list[str] = []
    with (
        pytest.raises(LaunchError, match=r"agent of lab0 did not answer within 0 s"),
        Lab(options=options, progress=steps.append),
    ):
        pass
    assert steps == ["building the lab image", "booting 1 lab machine"]


def test_the_beginning_of_a_panic_is_shown() -> None:
    tail = Tail()
    tail.add(b"".join(b"line %d\n" % n for n in range(100)))
    assert tail.lines(3) == ["line 97", "line 98", "line 99"]
    tail.add(b"\n[ 1.0] Kernel panic - not syncing: reason\n" + b"trace\n" * 100)
    assert tail.lines(5) == ["line 98", "line 99", "[ 1.0] Kernel panic - not syncing: reason", "trace", "trace"]
    tail.add(bytes(100_000))
    assert len(tail.lines(5)[0]) <= 64 << 10
