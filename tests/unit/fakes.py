"""A host that runs nothing: its programs are Python functions. For the life cycle only; users never meet it."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from leviathan.errors import LaunchError
from leviathan.launch.host import HostFacts, Sink


@dataclass
class FakeProcess:
    """A program; its script decides what it prints and when it ends."""

    argv: list[str]
    env: dict[str, str]
    stdout: Sink | None
    stderr: Sink | None
    pid: int = 0
    input: queue.Queue[bytes] = field(default_factory=queue.Queue)
    signals: list[int] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    code: int | None = None
    _error: LaunchError | None = None

    def say(self, line: str | dict[str, object]) -> None:
        """Prints a line on standard output."""
        if self.stdout and not self._ended.is_set():
            self.stdout((json.dumps(line) if isinstance(line, dict) else line).encode() + b"\n")

    def complain(self, line: str) -> None:
        """Prints a line on standard error."""
        if self.stderr:
            self.stderr(line.encode() + b"\n")

    def end(self, code: int) -> None:
        """Ends; the first code counts."""
        if not self._ended.is_set():
            self.code = code
            self._ended.set()

    def fail(self, error: LaunchError) -> None:
        """Its host is gone: whoever waits for it learns that."""
        self._error = error
        self._ended.set()

    @property
    def running(self) -> bool:
        return not self._ended.is_set()

    def write(self, data: bytes) -> None:
        self.input.put(data)

    def close_stdin(self) -> None:
        self.input.put(b"")

    def signal(self, number: int) -> None:
        self.signals.append(number)
        self.end(-number)

    def wait(self, timeout: float | None = None) -> int | None:
        if not self._ended.wait(timeout):
            return None
        if self._error is not None:
            raise self._error
        return self.code


Script = Callable[["FakeHost", FakeProcess], None]


class FakeHost:
    """Gives every program to the script for its name."""

    def __init__(self, scripts: Mapping[str, Script], name: str = "fake") -> None:
        self.name = name
        self.bin_dir = "/bin-dir"
        self.address = "127.0.0.1"
        self.processes: list[FakeProcess] = []
        self.files: dict[str, tuple[bytes, int]] = {}
        self.closed = False
        self._scripts = scripts

    def facts(self) -> HostFacts:
        return HostFacts(None, None, 2, 1 << 40, 2_000_000, "AuthenticAMD", "6.1")

    def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdout: Sink | None = None,
        stderr: Sink | None = None,
        stdin: bool = False,
    ) -> FakeProcess:
        process = FakeProcess(list(argv), dict(env or {}), stdout, stderr, pid=len(self.processes) + 1)
        self.processes.append(process)
        name = argv[0].rsplit("/", 1)[-1]
        if name == "mkfifo":
            process.end(0)
        elif name in self._scripts:
            threading.Thread(target=self._scripts[name], args=(self, process), daemon=True).start()
        elif name not in ("cat", "sh"):
            raise LaunchError(f"cannot start {argv[0]}: no such program")
        return process

    def put(self, path: str, data: bytes, mode: int = 0o600) -> None:
        self.files[path] = (data, mode)

    def get(self, path: str) -> bytes:
        try:
            return self.files[path][0]
        except KeyError:
            raise FileNotFoundError(path) from None

    def close(self) -> None:
        self.closed = True
        for process in self.processes:
            process.end(-15)

    def port(self, name: str) -> FakeProcess:
        """The relay of one port: what it says is what QEMU wrote."""
        return next(p for p in self.processes if p.argv[-1].endswith(f"/{name}.out") and p.argv[0] == "cat")

    def end_ports(self) -> None:
        """As when QEMU ends: every relay does, too."""
        for process in self.processes:
            if process.argv[0] in ("cat", "sh"):
                process.end(0)
