"""The control channel against the real agent, over a socket pair instead of a machine's port."""

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from leviathan.errors import LaunchError, StartError
from leviathan.lab.channel import HEADER, AgentError, Channel, ChannelLost, Decoder
from leviathan.launch.programs import program


@pytest.fixture
def channel() -> Iterator[Channel]:
    try:
        agent = program("lev-agent")
    except StartError as error:
        pytest.skip(str(error))
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen([agent, "serve-socket"], stdin=theirs)
    opened = Channel(ours, "lab0")
    yield opened
    opened.close("the test is over")
    assert process.wait(10) == 0


def spawn(channel: Channel, script: str, **options: object) -> tuple[object, list[bytes], list[bytes]]:
    out: list[bytes] = []
    err: list[bytes] = []
    return channel.spawn(["sh", "-c", script], {}, out.append, err.append, True, None), out, err


def test_a_program_with_all_its_streams(channel: Channel) -> None:
    process, out, err = spawn(channel, "cat; echo bad >&2; exit 4")
    process.write(b"x" * 1_000_000)
    process.write(b"end")
    process.close_stdin()
    assert process.wait(20) == 4
    assert b"".join(out) == b"x" * 1_000_000 + b"end"
    assert b"".join(err) == b"bad\n"
    process.write(b"nobody reads this")
    process.signal(9)


def test_a_wait_can_run_out_and_signals_end_programs(channel: Channel) -> None:
    process, _, _ = spawn(channel, "exec sleep 60")
    assert process.wait(0.05) is None
    process.signal(15)
    assert process.wait(20) == -15


def test_a_sink_that_blocks_holds_up_nobody_else(channel: Channel) -> None:
    release = threading.Event()
    got: list[int] = []

    def slow(data: bytes) -> None:
        release.wait(20)
        got.append(len(data))

    stuck = channel.spawn(["head", "-c", "3000000", "/dev/zero"], {}, slow, None, False, None)
    other, out, _ = spawn(channel, "echo other")
    assert other.wait(20) == 0
    assert out == [b"other\n"]
    assert stuck.wait(0.05) is None
    release.set()
    assert stuck.wait(20) == 0
    assert sum(got) == 3_000_000


def test_a_sink_that_fails_does_not_hide_the_exit(channel: Channel) -> None:
    def fail(data: bytes) -> None:
        raise RuntimeError(data)

    assert channel.spawn(["echo", "x"], {}, fail, None, False, None).wait(20) == 0


def test_files(channel: Channel, tmp_path: Path) -> None:
    path = tmp_path / "new/folder/file"
    data = bytes(range(256)) * 4000
    channel.put(str(path), data, 0o640, 20)
    assert path.read_bytes() == data
    assert path.stat().st_mode & 0o777 == 0o640
    assert channel.get(str(path), 20) == data
    channel.put(str(path), b"", 0o600, 20)
    assert channel.get(str(path), 20) == b""
    with pytest.raises(AgentError, match="No such file") as caught:
        channel.get(str(tmp_path / "none"), 20)
    assert caught.value.errno == 2


def test_a_program_that_is_not_there(channel: Channel) -> None:
    with pytest.raises(LaunchError, match="/no/such"):
        channel.spawn(["/no/such"], {}, None, None, False, None)


def test_a_lost_machine_wakes_everybody(channel: Channel) -> None:
    process, _, _ = spawn(channel, "sleep 60")
    writer = threading.Thread(target=lambda: process.write(b"x" * 5_000_000), daemon=True)
    writer.start()
    time.sleep(0.05)
    channel.close("lab0 burned down")
    with pytest.raises(ChannelLost, match="burned down"):
        process.wait(20)
    writer.join(20)
    assert not writer.is_alive()
    with pytest.raises(ChannelLost, match="burned down"):
        channel.call("info")


@pytest.mark.parametrize("step", [1, 7, 12, 100])
def test_frames_are_cut_right(step: int) -> None:
    data = b"".join(HEADER.pack(n, n + 1, 17, b"\0\0\0") + bytes(n) for n in (0, 5, 300))
    decoder = Decoder()
    frames = [frame for at in range(0, len(data), step) for frame in decoder.push(data[at : at + step])]
    assert [(frame.stream, len(frame.payload)) for frame in frames] == [(1, 0), (6, 5), (301, 300)]


@pytest.mark.parametrize("head", [HEADER.pack(1 << 21, 1, 17, b"\0\0\0"), HEADER.pack(0, 1, 17, b"\0\1\0")])
def test_what_is_no_frame_ends_the_channel(head: bytes) -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours, "lab0")
    with theirs:
        _, reply = channel.begin("info", {})
        theirs.sendall(head)
        with pytest.raises(ChannelLost, match="no frame"):
            channel.finish("info", reply, 20)
