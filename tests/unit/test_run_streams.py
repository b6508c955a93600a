"""Streams: lines, tails, pipes between programs, the end marks of commands, console keys, progress."""

from __future__ import annotations

import io
import itertools
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leviathan.errors import Interrupted
from leviathan.launch.local import LocalHost
from leviathan.launch.streams import TAIL_BYTES, Lines, Tail
from leviathan.vm.commands import LOOP, Collector, Request
from leviathan.vm.console import Escape
from leviathan.vm.mailbox import Event, Mailbox, json_events
from leviathan.vm.pipes import Pipes
from leviathan.vm.progress import STILL_SECONDS, Progress
from leviathan.vm.signals import stop_signals


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The data in pieces."""
    ends = sorted({min(place, len(data)) for place in places} | {0, len(data)})
    return [piece for a, b in itertools.pairwise(ends) if (piece := data[a:b])]


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8"))), st.lists(st.integers(0, 500)))
def test_lines_do_not_depend_on_how_the_stream_was_cut(lines: list[str], places: list[int]) -> None:
    got: list[str] = []
    sink = Lines(got.append)
    for piece in cut("".join(line + "\n" for line in lines).encode(), places):
        sink(piece)
    assert got == lines


@given(st.binary(max_size=300), st.integers(0, 255), st.lists(st.integers(0, 400)))
def test_a_command_s_output_ends_at_its_own_mark_only(output: bytes, code: int, places: list[int]) -> None:
    done: list[tuple[str, int]] = []
    collector = Collector(lambda token, exit_code: done.append((token, exit_code)))
    before, request = Request.new("true"), Request.new("true")
    collector.expect(before)
    collector(b"rest of an earlier command")
    collector.expect(request)
    stream = output + f"\n{before.token} 1\n".encode() + output + f"\n{request.token} {code}\n".encode()
    for piece in cut(stream, places):
        collector(piece)
    assert done == [(request.token, code)]
    assert collector.output() == output + f"\n{before.token} 1\n".encode() + output


def test_requests_are_single_lines_with_new_tokens() -> None:
    one, other = Request.new("echo 'a\nb'"), Request.new("echo 'a\nb'")
    assert one.token != other.token
    assert one.line.count(b"\n") == 1


def test_the_command_loop_works_in_busybox(tmp_path: Path) -> None:
    """The guest's side, with a pipe instead of the port."""
    (tmp_path / "port").mkdir()
    (tmp_path / "port/name").write_text("org.leviathan.control\n")
    os.mkfifo(tmp_path / "commands")
    script = LOOP.replace("/sys/class/virtio-ports/*/name", f"{tmp_path}/port/name")
    script = script.replace("port=/dev/${port##*/}", f"port={tmp_path}/commands").replace("-c ", "-p ")
    script = script.replace("/run/lev-command", f"{tmp_path}/command").replace("cd /root", f"cd {tmp_path}")
    loop = subprocess.Popen(["busybox", "sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    one, two = Request.new("echo out; echo err >&2; exit 3"), Request.new("cat; printf '%s' \"it's\"")
    with (tmp_path / "commands").open("wb", buffering=0) as port:
        port.write(one.line)
        port.write(two.line)
        port.write(b"quit\n")
        out, err = loop.communicate(timeout=20)
    assert loop.returncode == 0
    assert out == f"out\n\n{one.token} 3\nit's\n{two.token} 0\n".encode()
    assert err == f"err\n\n{one.token} 3\n\n{two.token} 0\n".encode()


def test_json_lines_become_events_and_the_rest_a_log() -> None:
    mailbox, log = Mailbox(), []
    sink = json_events(mailbox, "node1", log.append)
    sink(b'{"event": "listening", "address": "1.2.3.4:5"}\nplain text\n[1]\n{"no": "event"}\n\n')
    event = mailbox.take(time.monotonic() + 1)
    assert event == Event("node1", "listening", {"event": "listening", "address": "1.2.3.4:5"})
    assert log == ["plain text", "[1]", '{"no": "event"}']
    assert mailbox.take(time.monotonic()) is None


def test_a_tail_keeps_the_end_and_passes_everything_on() -> None:
    seen = bytearray()
    tail = Tail(seen.extend)
    for number in range(5000):
        tail(f"line {number}\r\n\x1b[0m".encode())
    assert tail.total == len(seen) > TAIL_BYTES * 2
    assert tail.lines(2)[-1].startswith("[0mline 4999") or "line 4999" in tail.lines(2)[-2]
    assert len(tail.lines()) == 20
    assert not any("\x1b" in line or "\r" in line for line in tail.lines())


def test_pipes_carry_both_ways_and_end_with_the_program_at_the_far_end(tmp_path: Path) -> None:
    host = LocalHost()
    try:
        pipes = Pipes(host, str(tmp_path))
        pipes.make(["a"])
        got: list[bytes] = []
        reader, writer = pipes.read("a", got.append), pipes.write("a")
        # QEMU's end: both pipes opened read-write.
        far_in, far_out = (os.open(tmp_path / f"a.{way}", os.O_RDWR) for way in ("in", "out"))
        writer.write(b"to QEMU")
        assert os.read(far_in, 100) == b"to QEMU"
        os.write(far_out, b"from QEMU")
        end = time.monotonic() + 20
        while not got and time.monotonic() < end:  # what is in a pipe that nobody holds open is gone
            time.sleep(0.01)
        os.close(far_out)
        os.close(far_in)
        assert reader.wait(5) == 0
        assert b"".join(got) == b"from QEMU"
    finally:
        host.close()


@pytest.mark.parametrize(
    ("pieces", "sent", "leaves"),
    [
        ([b"ls\r"], b"ls\r", False),
        ([b"ls\x1dmore"], b"ls", True),
        ([b"\x01x"], b"", True),
        ([b"a\x01", b"X"], b"a", True),
        ([b"\x01\x01"], b"\x01", False),
        ([b"\x01", b"b"], b"\x01b", False),
    ],
)
def test_keys_that_leave_the_console(pieces: list[bytes], sent: bytes, leaves: bool) -> None:
    escape, out, left = Escape(), b"", False
    for piece in pieces:
        more, left = escape.feed(piece)
        out += more
    assert (out, left) == (sent, leaves)


def test_the_terminal_is_raw_on_the_console_and_as_before_after_it() -> None:
    script = (
        "import sys, termios, time; from leviathan.vm.console import attach\n"
        "import threading; left = threading.Event(); got = []\n"
        "def mode(): return bool(termios.tcgetattr(0)[3] & termios.ICANON)\n"
        "before = mode()\n"
        "with attach(got.append, left.set):\n"
        "    inside = mode(); print('ready', flush=True); left.wait(10)\n"
        "print(before, inside, mode(), b''.join(got))"
    )
    master, slave = pty.openpty()
    child = subprocess.Popen([sys.executable, "-c", script], stdin=slave, stdout=subprocess.PIPE, text=True)
    os.close(slave)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    os.write(master, b"ab\x03\x1d")
    out, _ = child.communicate(timeout=20)
    os.close(master)
    assert out == "True False True b'ab\\x03'\n"


def test_progress_names_steps_and_their_times() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    with progress.step("looking"):
        progress.note("a remark")
    assert stream.getvalue() == "looking …\na remark\n"
    assert [step.name for step in progress.steps] == ["looking"]
    with pytest.raises(ValueError, match="no"), progress.step("failing"):
        raise ValueError("no")
    assert [step.name for step in progress.steps] == ["looking"]


def test_a_long_step_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("leviathan.vm.progress.time", SimpleNamespace(monotonic=lambda: now))
    stream = io.StringIO()
    progress = Progress(stream)
    with progress.step("booting"):
        now = STILL_SECONDS - 0.1
        progress.tick()
        assert "still booting" not in stream.getvalue()
        now = STILL_SECONDS + 0.1
        progress.tick()
        progress.tick()
        assert stream.getvalue().count("still booting") == 1
        now = 2 * STILL_SECONDS + 0.2
        progress.tick()
    assert stream.getvalue().count("still booting") == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_become_one_exception_and_cannot_interrupt_the_clean_up(number: int, code: int) -> None:
    before = signal.getsignal(number)
    cleaned = False
    with pytest.raises(Interrupted) as raised, stop_signals():
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        finally:
            os.kill(os.getpid(), number)
            time.sleep(0.05)
            cleaned = True
    assert cleaned
    assert raised.value.exit_code == code
    assert signal.getsignal(number) is before
