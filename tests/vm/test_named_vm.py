"""VMs by name as a user has them: plain machines under TCG, boots of seconds."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import struct
import subprocess
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from lev_run import lev

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

START = ("--nodes", "0", "--cpus", "1", "--memory", "256M", "--set", "accel=tcg", "-q")
SECONDS = 280
"""For one command, on a machine that has other things to do."""


class Lev:
    """`lev` with VMs of its own."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.environment = os.environ | {"XDG_STATE_HOME": str(state)}

    def __call__(self, *words: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [lev(), *words],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            env=self.environment,
            timeout=SECONDS,
            check=False,
        )

    def ok(self, *words: str) -> str:
        """The output of a command that must end well."""
        done = self(*words)
        assert done.returncode == 0, f"lev {' '.join(words)}: {done.returncode}\n{done.stderr.decode(errors='replace')}"
        return done.stdout.decode()

    def entry(self, name: str) -> dict[str, object]:
        (found,) = [entry for entry in json.loads(self.ok("list", "--all", "--json")) if entry["name"] == name]
        return dict(found)

    def folder(self, name: str) -> Path:
        return self.state / "leviathan" / "vms" / name


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lev]:
    """One VM with a screen, `box`, for all tests that do not end it."""
    here = Lev(tmp_path_factory.mktemp("state"))
    screen = ("--display", "card", "--append", "console=tty0 console=ttyS0")
    try:
        assert here.ok("run", "-d", "--name", "box", *START, *screen) == "box\n"
        yield here
    finally:
        here("stop", "--now", "box")


def test_it_is_listed(shared: Lev) -> None:
    entry = shared.entry("box")
    assert (entry["state"], entry["kind"], entry["cpus"], entry["memory"]) == ("running", "plain", 1, 256 << 20)
    assert "box" in shared.ok("list")


def test_its_name_is_taken(shared: Lev) -> None:
    done = shared("run", "-d", "--name", "box", *START)
    assert done.returncode == 2
    assert done.stderr.decode().splitlines() == [
        "error: a VM called box runs already",
        "hint: another --name, or: lev stop box",
    ]


def test_a_command_with_both_streams_and_its_code(shared: Lev) -> None:
    done = shared("exec", "box", "--", "echo out; echo err >&2; exit 3")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 3)
    done = shared("exec", "box", "--", "printf", "%s|", "a b", "c")
    assert done.stdout == b"a b|c|"


def test_output_is_bytes(shared: Lev) -> None:
    done = shared("exec", "box", "--", "head -c 300000 /dev/zero | tr '\\0' '\\n'; printf '\\377\\000'")
    assert done.stdout == b"\n" * 300000 + b"\xff\x00"
    answer = json.loads(shared.ok("exec", "box", "--json", "--", "echo hi"))
    assert answer == {"command": "echo hi", "exit_code": 0, "stdout": "hi\n", "stderr": ""}


def test_a_command_out_of_time_is_ended_in_the_guest(shared: Lev) -> None:
    done = shared("exec", "--timeout", "1", "box", "--", "sleep 1234")
    assert done.returncode == 124
    assert b"did not end within 1 s in box" in done.stderr
    end = time.monotonic() + 20
    while "sleep 1234" in shared.ok("exec", "box", "--", "ps"):
        assert time.monotonic() < end


def test_the_console_and_its_log(shared: Lev) -> None:
    """In a terminal: what is typed runs, Ctrl-] leaves, the VM goes on."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [lev(), "console", "box"], stdin=theirs, stdout=theirs, stderr=theirs, env=shared.environment
    ) as process:
        os.close(theirs)
        seen, asked = b"", 0.0
        end = time.monotonic() + 100
        while b"six-6" not in seen and time.monotonic() < end:
            # What is typed before the terminal is raw may be lost: again from time to time.
            if b"the VM goes on" in seen and time.monotonic() > asked + 5:
                os.write(ours, b"echo six-$((2*3))\n")
                asked = time.monotonic()
            if select.select([ours], [], [], 1)[0]:
                seen += os.read(ours, 4096)
        assert b"six-6" in seen, seen
        os.write(ours, b"\x1d")
        assert process.wait(30) == 0
    os.close(ours)
    assert b"six-6" in shared("logs", "box").stdout
    assert shared.entry("box")["state"] == "running"


def colours(png: bytes) -> set[bytes]:
    """Of an image as `lev screenshot` writes them: no filters, one chunk."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    at = png.index(b"IDAT")
    rows = zlib.decompress(png[at + 4 : at + 4 + struct.unpack(">I", png[at - 4 : at])[0]])
    stride = width * 3 + 1
    assert len(rows) == height * stride
    return {rows[i : i + 3] for y in range(height) for i in range(y * stride + 1, (y + 1) * stride, 3)}


def test_the_screen_shows_what_the_guest_prints(shared: Lev, tmp_path: Path) -> None:
    shared.ok("exec", "box", "--", "clear > /dev/tty0")
    shared.ok("screenshot", "box", str(tmp_path / "before.png"))
    shared.ok("exec", "box", "--", "ps > /dev/tty0")
    facts = json.loads(shared.ok("screenshot", "box", str(tmp_path / "after.png"), "--json"))
    before, after = (tmp_path / "before.png").read_bytes(), (tmp_path / "after.png").read_bytes()
    assert len(colours(after)) == facts["colours"] >= 2, "blank"
    assert before != after
    assert (facts["width"], facts["height"]) >= (640, 400)


def test_a_screenshot_that_cannot_be_written(shared: Lev, tmp_path: Path) -> None:
    done = shared("screenshot", "box", str(tmp_path / "x.jpg"))
    assert (done.returncode, b"a screenshot is a PNG file" in done.stderr) == (2, True)


def test_stop_powers_off_and_the_end_is_kept(tmp_path: Path) -> None:
    here = Lev(tmp_path)
    here.ok("run", "-d", "--name", "short", *START)
    done = here("screenshot", "short", str(tmp_path / "x.png"))
    assert b"the guest has no screen" in done.stderr
    here.ok("stop", "short")
    entry = here.entry("short")
    assert (entry["state"], entry["exit_code"], entry["error"]) == ("ended", 0, None)
    assert json.loads((here.folder("short") / "record.json").read_text())["exit_code"] == 0
    assert "BusyBox" in here.ok("logs", "short")
    assert "no VM runs" in here.ok("list")
    done = here("exec", "short", "--", "true")
    assert done.returncode == 2
    assert b"short does not run (ended)" in done.stderr
    here.ok("remove", "short")
    assert not here.folder("short").exists()


def test_a_killed_supervisor_leaves_nothing(tmp_path: Path) -> None:
    here = Lev(tmp_path)
    here.ok("run", "-d", "--name", "victim", *START)
    entry = here.entry("victim")
    leftovers = entry["leftovers"]
    assert isinstance(leftovers, dict)
    ((qemu, _),) = leftovers["processes"]
    (folder,) = leftovers["folders"]
    assert Path(folder).is_dir()
    assert isinstance(entry["supervisor"], int)
    os.kill(entry["supervisor"], signal.SIGKILL)
    end = time.monotonic() + 20
    while here.entry("victim")["state"] == "running" and time.monotonic() < end:
        time.sleep(0.1)
    assert here.entry("victim")["state"] == "lost"
    assert "lost" in here.ok("list")
    while Path(f"/proc/{qemu}").exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert not Path(f"/proc/{qemu}").exists()
    assert not Path(folder).exists()
