"""Commands in a named VM's guest: where the output of one ends, however its bytes are cut."""

from __future__ import annotations

import base64
import struct
import threading
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leviathan.errors import GuestDied
from leviathan.named.consolehub import ConsoleHub
from leviathan.named.follow import shell_line
from leviathan.named.guestloop import CommandPort, Streamer
from leviathan.named.screen import Picture, ScreenError, from_ppm, png

TOKEN = "0123456789abcdef"


@given(
    output=st.lists(st.sampled_from([b"x", b"\n", b"\n0123", b"\n0123456789abcdef", b" 1", TOKEN.encode()])).map(
        b"".join
    ),
    cuts=st.lists(st.integers(1, 7), max_size=60),
    code=st.integers(0, 255),
)
def test_output_ends_at_the_mark_however_it_is_cut(output: bytes, cuts: list[int], code: int) -> None:
    mark = f"\n{TOKEN} {code}\n".encode()
    stream = output + mark + b"of somebody else"
    if mark[:-4] in output:
        return
    got, codes = bytearray(), []
    streamer = Streamer()
    streamer.expect(TOKEN, got.extend, codes.append)
    at = 0
    for cut in [*cuts, len(stream)]:
        if at < len(stream):
            streamer(stream[at : at + cut])
        at += cut
    assert bytes(got) == output
    assert codes == [code]


def test_output_is_passed_on_as_it_comes() -> None:
    got = bytearray()
    streamer = Streamer()
    streamer.expect(TOKEN, got.extend, lambda code: None)
    streamer(b"line\npart")
    assert bytes(got) == b"line\npart"
    streamer(b"\n0123")
    assert bytes(got) == b"line\npart"
    streamer(b"9")
    assert bytes(got) == b"line\npart\n01239"


def test_output_that_nobody_asked_for_is_dropped() -> None:
    got = bytearray()
    streamer = Streamer()
    streamer(b"early")
    streamer.expect(TOKEN, got.extend, lambda code: None)
    streamer.forget()
    streamer(b"late")
    assert not got


class Guest:
    """The guest's end of the ports: answers each order by hand."""

    def __init__(self) -> None:
        self.port = CommandPort()
        self.orders: list[list[str]] = []
        self.came = threading.Semaphore(0)
        self.port.open(self.take)

    def take(self, data: bytes) -> None:
        self.orders.append(data.decode().split())
        self.came.release()

    def order(self) -> list[str]:
        assert self.came.acquire(timeout=10)
        return self.orders[-1]

    def end(self, token: str, code: int, out: bytes = b"", err: bytes = b"") -> None:
        self.port.stdout(out + f"\n{token} {code}\n".encode())
        self.port.stderr(err + f"\n{token} {code}\n".encode())


class Running(threading.Thread):
    """A command in a thread of its own."""

    def __init__(self, guest: Guest, command: str) -> None:
        super().__init__(daemon=True)
        self.guest, self.command = guest, command
        self.cancelled = threading.Event()
        self.output: list[tuple[str, bytes]] = []
        self.code: int | None = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.code = self.guest.port.run(self.command, lambda *piece: self.output.append(piece), self.cancelled)
        except GuestDied as error:
            self.error = error


def test_a_command_and_its_streams() -> None:
    guest = Guest()
    running = Running(guest, "echo 'a b'")
    token, text = guest.order()
    assert base64.b64decode(text) == b"echo 'a b'"
    guest.end(token, 7, b"out", b"err")
    running.join(10)
    assert running.code == 7
    assert running.output == [("stdout", b"out"), ("stderr", b"err")]


def test_commands_take_turns() -> None:
    guest = Guest()
    first = Running(guest, "one")
    token, _ = guest.order()
    second = Running(guest, "two")
    assert not guest.came.acquire(timeout=0.05)
    guest.end(token, 0)
    first.join(10)
    token, text = guest.order()
    assert base64.b64decode(text) == b"two"
    guest.end(token, 1)
    second.join(10)
    assert (first.code, second.code) == (0, 1)


def test_a_command_that_is_cancelled_before_its_turn_never_runs() -> None:
    guest = Guest()
    first = Running(guest, "one")
    token, _ = guest.order()
    second = Running(guest, "two")
    second.cancelled.set()
    second.join(10)
    assert second.code == 143
    guest.end(token, 0)
    first.join(10)
    assert len(guest.orders) == 1


def test_a_cancelled_command_is_ended_in_the_guest() -> None:
    guest = Guest()
    running = Running(guest, "sleep 100")
    token, _ = guest.order()
    running.cancelled.set()
    guest.port.nudge()
    assert guest.order() == ["kill", token]
    guest.end(token, 143)
    running.join(10)
    assert running.code == 143


def test_a_guest_that_reboots_ends_the_command_and_takes_new_ones() -> None:
    guest = Guest()
    running = Running(guest, "reboot")
    guest.order()
    guest.port.fail(GuestDied("rebooted"), for_good=False)
    running.join(10)
    assert str(running.error) == "rebooted"
    again = Running(guest, "true")
    token, _ = guest.order()
    guest.end(token, 0)
    again.join(10)
    assert again.code == 0


def test_a_guest_that_takes_no_commands() -> None:
    with pytest.raises(GuestDied, match="takes no commands"):
        CommandPort().run("ls", lambda *piece: None, threading.Event())


def test_the_console_goes_into_a_log_of_limited_size_and_to_who_watches(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    hub = ConsoleHub(log, limit=10)
    hub(b"0123456789")
    seen: list[bytes] = []
    with hub.watched_by(seen.append):
        hub(b"abc")
    hub(b"later")
    hub.close()
    hub(b"too late")
    assert seen == [b"0123456789", b"abc"]
    assert log.read_bytes() == b"abclater"
    assert (tmp_path / "console.log.1").read_bytes() == b"0123456789"


def test_one_word_is_a_shell_line() -> None:
    assert shell_line(["ls | wc"]) == "ls | wc"
    assert shell_line(["echo", "a b"]) == "echo 'a b'"


def test_a_screendump_becomes_a_png() -> None:
    pixels = bytes(range(2 * 3 * 3))
    picture = from_ppm(b"P6\n# by qemu\n2 3\n255\n" + pixels)
    assert picture == Picture(2, 3, pixels)
    data = png(picture)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    length, kind = struct.unpack(">I4s", data[8:16])
    assert (length, kind) == (13, b"IHDR")
    assert struct.unpack(">II", data[16:24]) == (2, 3)
    at = data.index(b"IDAT")
    (size,) = struct.unpack(">I", data[at - 4 : at])
    rows = zlib.decompress(data[at + 4 : at + 4 + size])
    assert rows == b"".join(b"\0" + pixels[row * 6 : row * 6 + 6] for row in range(3))
    assert struct.unpack(">I", data[at + 4 + size : at + 8 + size])[0] == zlib.crc32(data[at : at + 4 + size])


@pytest.mark.parametrize("data", [b"", b"P5\n1 1\n255\n0", b"P6\n2 2\n255\nshort", b"P6\n1 1\n65535\n000000"])
def test_what_is_no_screendump_is_refused(data: bytes) -> None:
    with pytest.raises(ScreenError):
        from_ppm(data)
