"""Terminals of one giant VM find each other, and say what does not agree; no VM is started here."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from leviathan.cmdline.giant import Part
from leviathan.errors import StartError, TimeOver, UsageError
from leviathan.terminals.hosts import await_workers, check_address, read_identity, worker_addresses
from leviathan.terminals.runtime import Lock, runtime_folder

LEV = [sys.executable, "-c", "from leviathan.cli import main; main()", "qemu"]
SECONDS = 50.0


class Terminal:
    """One `lev qemu` and its words on standard error."""

    def __init__(self, runtime: Path, arguments: str) -> None:
        # The value of -local-cpu holds spaces, as it would behind the shell's quotes.
        words, _, part = arguments.partition(" -local-cpu ")
        self._log = runtime / f"log-{time.monotonic_ns()}"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*LEV, "--", "-nographic", *words.split(), "-local-cpu", part],
                env=os.environ | {"XDG_RUNTIME_DIR": str(runtime)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    @property
    def said(self) -> str:
        return self._log.read_text()

    def expect(self, text: str) -> None:
        end = time.monotonic() + SECONDS
        while text not in self.said:
            assert time.monotonic() < end, f"{text!r} is not in:\n{self.said}"
            assert self.process.poll() is None or text in self.said, f"ended without {text!r}:\n{self.said}"
            time.sleep(0.05)

    def end(self) -> int:
        return self.process.wait(SECONDS)


@contextmanager
def terminal(runtime: Path, arguments: str) -> Iterator[Terminal]:
    started = Terminal(runtime, arguments)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait()


ADDRESSES = "iplist=127.0.0.1 127.0.0.1"


def test_the_worker_may_come_first_and_memory_must_agree(tmp_path: Path) -> None:
    with (
        terminal(tmp_path, f"-smp 4 -m 2048 -local-cpu 2,start=2,{ADDRESSES}") as worker,
        terminal(tmp_path, f"-smp 4 -m 2048 -local-cpu 2,start=2,{ADDRESSES}") as twin,
    ):
        first, second = (worker, twin) if _waits(worker, twin) else (twin, worker)
        first.expect("node 1 (CPUs 2 to 3) waits for node 0: start its terminal, the one with start=0")
        assert second.end() == 125
        assert f"node 1 of this VM already runs (process {first.process.pid})" in second.said
        with terminal(tmp_path, f"-smp 4 -m 4096 -local-cpu 2,start=0,{ADDRESSES}") as head:
            message = "-m does not agree: 4G in node 0 (start=0), 2G in node 1 (start=2)"
            first.expect(message)
            assert first.end() == 2
            assert "hint: -m states the memory of the whole machine" in first.said
            # The head goes on waiting for a terminal that agrees.
            head.expect(f"a terminal was refused: {message}")
            head.expect("node 1 is missing: start it in another terminal, the same command with start=2")
            head.process.send_signal(signal.SIGINT)
            assert head.end() == 130
    assert not list(tmp_path.glob("leviathan/*/*.sock"))


def _waits(one: Terminal, other: Terminal) -> bool:
    """Whether it is the first that waits; the one that came too late ends."""
    end = time.monotonic() + SECONDS
    while one.process.poll() is None and other.process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.05)
    return one.process.poll() is None


def test_two_heads_and_another_list_of_addresses(tmp_path: Path) -> None:
    with terminal(tmp_path, f"-smp 4 -m 1G -local-cpu 2,start=0,{ADDRESSES}") as head:
        head.expect("node 1 is missing")
        with (
            terminal(tmp_path, f"-smp 4 -m 1G -local-cpu 2,start=0,{ADDRESSES}") as second,
            terminal(tmp_path, f"-smp 2 -m 1G -local-cpu 1,start=1,{ADDRESSES}") as other,
        ):
            assert second.end() == 125
            assert f"node 0 of this VM already runs (process {head.process.pid})" in second.said
            other.expect("the CPUs or the iplist in its -local-cpu differ from yours")
        # Only looking is no visit.
        assert "refused" not in head.said


def test_a_killed_head_is_noticed_and_its_place_is_free_again(tmp_path: Path) -> None:
    # Three nodes, so that nothing starts with two of them.
    three = "iplist=127.0.0.1 127.0.0.1 127.0.0.1"
    with (
        terminal(tmp_path, f"-smp 3 -m 1G -local-cpu 1,start=0,{three}") as head,
        terminal(tmp_path, f"-smp 3 -m 1G -local-cpu 1,start=2,{three}") as worker,
    ):
        worker.expect("node 2 (CPU 2) belongs to the VM of node 0")
        head.expect("node 2 (CPU 2) is here")
        head.process.kill()
        assert worker.end() == 123
        assert "the terminal of node 0 ended without a word" in worker.said
        with terminal(tmp_path, f"-smp 3 -m 1G -local-cpu 1,start=0,{three}") as again:
            again.expect("node 2 is missing")


def test_a_stranger_and_nonsense_do_no_harm(tmp_path: Path) -> None:
    with terminal(tmp_path, f"-smp 4 -m 1G -local-cpu 2,start=0,{ADDRESSES}") as head:
        head.expect("node 1 is missing")
        (path,) = tmp_path.glob("leviathan/giant-*/head.sock")
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        for nonsense in (
            b"\n",
            b"{}\n",
            b"[1]\n",
            b"\xff\n",
            b'{"cpus": 0, "start": 9, "addresses": []}\n',
            b"x" * 200_000,
        ):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(path))
                connection.settimeout(SECONDS)
                try:
                    connection.sendall(nonsense)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(4096):
                        pass
                except OSError:
                    pass
        assert head.process.poll() is None
        assert "a terminal said something else than which node it is" in head.said


APART = Part(2, 0, ("127.0.0.1", "127.0.0.2"))


def test_nodes_on_several_machines_need_a_private_secret(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    with pytest.raises(UsageError, match=r"several machines \(127.0.0.1, 127.0.0.2\): they need a common secret"):
        read_identity(None, APART)
    with pytest.raises(UsageError, match="cannot read"):
        read_identity(path, APART)
    path.write_text("a" * 64 + "\n")
    path.chmod(0o644)
    with pytest.raises(UsageError, match="others can read"):
        read_identity(path, APART)
    path.chmod(0o600)
    identity = read_identity(path, APART)
    assert identity.secret == "a" * 64
    # Every node of one machine has the same name for the run, those of another machine do not.
    assert read_identity(path, Part(2, 2, APART.addresses)) == identity
    assert read_identity(path, Part(1, 0, APART.addresses)).run_id != identity.run_id
    assert "a" * 64 not in repr(identity)
    path.write_text("hunter2")
    with pytest.raises(UsageError, match="holds no 64 hexadecimal digits"):
        read_identity(path, APART)


def test_a_node_is_on_a_machine_of_its_own_address() -> None:
    check_address(APART)
    with pytest.raises(UsageError, match="node 1 .* is on 192.0.2.1, and this machine has no such address"):
        check_address(Part(2, 2, ("127.0.0.1", "192.0.2.1")))
    assert worker_addresses(Part(1, 0, ("10.0.0.1", "10.0.0.2", "10.0.0.2"))) == ["10.0.0.2:37711", "10.0.0.2:37712"]


def test_workers_are_waited_for() -> None:
    said: list[str] = []
    with pytest.raises(TimeOver, match="waited 0.1 s for node 1 on 127.0.0.2:37711"):
        await_workers(APART, said.append, 0.1)
    assert said == ["node 1 does not listen on 127.0.0.2:37711 yet: start it there, the same command with start=2"]
    with socket.create_server(("127.0.0.2", 37711)):
        await_workers(APART, said.append, 5)
    assert said[-1] == "node 1 listens on 127.0.0.2:37711"


def test_the_runtime_folder_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folder = runtime_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    with pytest.raises(StartError, match="not a private folder of yours"):
        runtime_folder()


def test_a_lock_names_its_holder(tmp_path: Path) -> None:
    one = Lock(tmp_path / "lock")
    assert one.held
    other = Lock(tmp_path / "lock")
    assert (other.held, other.holder) == (False, os.getpid())
    one.close()
    assert Lock(tmp_path / "lock").held


def test_a_holder_that_has_not_written_its_number_yet_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    path.write_bytes(gone.stdout)  # of a holder before, which was killed
    takes = (
        "import fcntl, os, sys, time; file = open(sys.argv[1], 'r+'); fcntl.flock(file, fcntl.LOCK_EX);"
        "print(flush=True);"
        "time.sleep(0.2); file.truncate(0); file.write(str(os.getpid())); file.flush(); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", takes, path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        lock = Lock(path)
        holder.kill()
    assert (lock.held, lock.holder) == (False, holder.pid)
