"""The control socket and the supervisor's process, without a VM."""

from __future__ import annotations

import base64
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from leviathan.errors import GuestDied, LeviathanError, StartError, TimeOver, UsageError
from leviathan.model import Machine
from leviathan.named.client import Client
from leviathan.named.consolehub import ConsoleHub
from leviathan.named.guestloop import CommandPort
from leviathan.named.server import Events, Server
from leviathan.named.start import launch
from leviathan.named.store import Store
from leviathan.named.wire import Lost, RemoteError, connect, raise_error
from leviathan.qemu.qmp import QmpError

PPM = b"P6\n2 1\n255\n\0\0\0\xff\xff\xff"


class FakeBackend:
    """Answers the monitor's commands by a table; keeps what it was asked."""

    def __init__(self, events: Events) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.events = events

    def qmp(self, command: str, arguments: dict[str, Any], timeout: float) -> Any:
        self.asked.append((command, arguments))
        if command == "device_del":
            self.events("DEVICE_DELETED", {"device": "other"})
            threading.Timer(0.05, self.events, ("DEVICE_DELETED", {"device": arguments["id"], "path": "/x"})).start()
        if command == "bad":
            raise QmpError("QEMU refused bad: no")
        return {"done": command}

    def read_file(self, path: str) -> bytes:
        return PPM

    def scratch(self, name: str) -> str:
        return f"/run/of/vm/{name}"

    def trace(self, path: Path, seconds: float) -> None:
        if seconds > 100:
            raise LeviathanError("there is no trace: too long")
        path.write_text(f"{seconds}")


class Served:
    """A server over a fake backend, in a store of its own, and a client."""

    def __init__(self, root: Path) -> None:
        # A long path: a socket's address could not hold it.
        self.store = Store(root / ("x" * 60) / ("y" * 60))
        _, self.lock = self.store.reserve("one", state="running")
        self.events = Events()
        self.backend = FakeBackend(self.events)
        self.console = ConsoleHub(self.store.folder("one") / "console.log")
        self.port = CommandPort()
        self.stopped: list[bool] = []
        self.server = Server(
            self.store.folder("one"),
            self.backend,  # type: ignore[arg-type]
            self.console,
            self.port,
            self.events,
            lambda: self.store.entry("one").as_json() | {"qemu": "q"},
            self.stop,
        )
        self.client = Client("one", self.store)

    def stop(self, now: bool) -> None:
        self.stopped.append(now)
        threading.Timer(0.05, self.close).start()

    def close(self) -> None:
        self.server.close()
        self.console.close()
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


@pytest.fixture
def served(tmp_path: Path) -> Any:
    served = Served(tmp_path)
    yield served
    served.close()


def test_the_socket_is_private(served: Served) -> None:
    assert stat.S_IMODE((served.store.folder("one") / "control").stat().st_mode) == 0o600


def test_status(served: Served) -> None:
    status = served.client.status()
    assert (status["name"], status["state"], status["qemu"]) == ("one", "running", "q")


def test_the_monitor(served: Served) -> None:
    assert served.client.qmp("query-x", some_thing=1) == {"done": "query-x"}
    assert served.backend.asked == [("query-x", {"some-thing": 1})]
    with pytest.raises(RemoteError, match="QEMU refused bad"):
        served.client.qmp("bad")


def test_a_trace(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    served.client.trace(Path("out.trace"), 2.5)
    assert (tmp_path / "out.trace").read_text() == "2.5"
    with pytest.raises(RemoteError, match="too long"):
        served.client.trace(tmp_path / "out.trace", 101)


def test_an_event_that_has_to_follow(served: Served) -> None:
    then = {"event": "DEVICE_DELETED", "match": {"device": "hot0"}, "timeout": 10}
    assert served.client.qmp("device_del", then=then, id="hot0") == {"done": "device_del"}
    with pytest.raises(RemoteError, match=r"did not report DEVICE_DELETED within 0\.1 s") as raised:
        served.client.qmp("device_del", then=then | {"match": {"device": "none"}, "timeout": 0.1}, id="hot0")
    assert raised.value.exit_code == TimeOver.exit_code


def test_a_screenshot(served: Served) -> None:
    shot = served.client.screenshot()
    assert (shot.width, shot.height, shot.colours) == (2, 1, 2)
    assert served.backend.asked == [("screendump", {"filename": "/run/of/vm/screen.ppm"})]


def test_a_command_streams_its_output(served: Served) -> None:
    def guest(data: bytes) -> None:
        token, text = data.decode().split()
        assert base64.b64decode(text) == b"ls"
        served.port.stdout(b"one\n")
        served.port.stdout(f"two\n{token} 3\n".encode())
        served.port.stderr(f"\n{token} 3\n".encode())

    served.port.open(guest)
    done = served.client.run("ls")
    assert (done.exit_code, done.stdout, done.stderr) == (3, "one\ntwo", "")


def test_a_command_that_takes_too_long_is_ended(served: Served) -> None:
    killed = threading.Event()

    def guest(data: bytes) -> None:
        word, token = data.decode().split()
        if word == "kill":
            killed.set()
            for stream in (served.port.stdout, served.port.stderr):
                stream(f"\n{token} 143\n".encode())

    served.port.open(guest)
    with pytest.raises(TimeOver, match=r"`sleep 9` did not end within 0\.1 s in one"):
        served.client.run("sleep 9", timeout=0.1)
    assert killed.wait(10)


def test_a_vm_that_ends_while_a_command_runs(served: Served) -> None:
    served.port.open(lambda data: served.server.close())
    with pytest.raises(GuestDied, match="one ended while `ls` ran"):
        served.client.run("ls")


def test_the_console_both_ways(served: Served) -> None:
    keys: list[bytes] = []
    came = threading.Event()

    def guest(data: bytes) -> None:
        keys.append(data)
        came.set()

    served.console.write = guest
    served.console(b"before\n")
    line = served.client.console()
    assert line.take_rest() or line.read() == b"before\n"
    line.socket.sendall(b"ls\n")
    assert came.wait(10)
    assert keys == [b"ls\n"]
    served.console(b"after\n")
    assert line.read() == b"after\n"
    line.close()


def test_stop_waits_for_the_end(served: Served) -> None:
    entry = served.client.stop()
    assert served.stopped == [False]
    assert entry.state == "lost", "nobody wrote an ending here"
    with pytest.raises(UsageError, match="one does not run"):
        served.client.stop()


def test_nonsense_is_answered_or_ends_the_connection(served: Served) -> None:
    line = connect(served.store.folder("one"))
    line.send({"do": "dance"})
    with pytest.raises(RemoteError, match="does not know 'dance'"):
        raise_error(line.receive())
    line.socket.sendall(b"[1]\n")
    assert line.receive() is None
    line.close()
    assert served.client.status()["name"] == "one", "it goes on for others"


def test_a_socket_that_nobody_serves(tmp_path: Path) -> None:
    with pytest.raises(Lost, match="cannot reach the supervisor"):
        connect(tmp_path)


def test_a_vm_that_cannot_start_says_why_and_is_kept(tmp_path: Path) -> None:
    """The supervisor's own process, for real."""
    store = Store(tmp_path)
    with pytest.raises(LeviathanError, match="QEMU no-such-qemu: it is not on PATH") as raised:
        launch(Machine(qemu="no-such-qemu"), "bad", store=store)
    assert raised.value.exit_code == StartError.exit_code
    assert raised.value.hint
    client = Client("bad", store)
    assert client._gone(10)
    entry = client.entry
    assert (entry.state, entry.exit_code) == ("failed", 125)
    assert "no-such-qemu" in (entry.error or "")
    assert "no-such-qemu" in client.lev_log.read_text()
    assert not (store.folder("bad") / "control").exists()
    with pytest.raises(UsageError, match="bad does not run .failed: QEMU no-such-qemu"):
        client.stop()
