"""This machine as a place where node programs run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import IO

from leviathan.errors import LaunchError
from leviathan.launch.host import HostFacts, Sink
from leviathan.launch.programs import bin_dir, program

__all__ = ["LocalHost", "LocalProcess", "facts_from_probe", "memory_free"]

PROBE_SECONDS = 20
TERM_SECONDS = 3.0
DRAIN_SECONDS = 5.0
CLEAN_NAMES = ("PATH", "HOME", "USER", "LANG", "TMPDIR", "XDG_RUNTIME_DIR", "RUST_BACKTRACE", "LEV_LOG")

# All programs are started by one thread that lives as long as we do: the kernel kills a program that asked for a
# parent-death signal when the *thread* that started it ends.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lev-start")


class LocalProcess:
    """A program on this machine; its output goes to the sinks from reader threads."""

    def __init__(self, popen: subprocess.Popen[bytes], stdout: Sink | None, stderr: Sink | None) -> None:
        self._popen = popen
        self.pid = popen.pid
        self._readers = [
            self._reader(pipe, sink) for pipe, sink in ((popen.stdout, stdout), (popen.stderr, stderr)) if pipe and sink
        ]

    @staticmethod
    def _reader(pipe: IO[bytes], sink: Sink) -> threading.Thread:
        def pump() -> None:
            with pipe:
                while data := os.read(pipe.fileno(), 65536):
                    sink(data)

        thread = threading.Thread(target=pump, name="lev-output", daemon=True)
        thread.start()
        return thread

    def write(self, data: bytes) -> None:
        """Sends bytes to its standard input; a program that has ended takes none."""
        if self._popen.stdin is None:
            return
        # ValueError: closed by close_stdin.
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._popen.stdin.write(data)
            self._popen.stdin.flush()

    def close_stdin(self) -> None:
        """Ends its standard input."""
        if self._popen.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._popen.stdin.close()

    def signal(self, number: int) -> None:
        """Sends a signal to the program and what it started; no error if it has ended."""
        if self._popen.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def wait(self, timeout: float | None = None) -> int | None:
        """Exit code (negative: signal number), or ``None`` when the time is over. All output has been delivered."""
        try:
            code = self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        for reader in self._readers:
            reader.join(DRAIN_SECONDS)
        return code


class LocalHost:
    """This machine. ``close`` ends every program started here and removes every file put here."""

    def __init__(self, name: str = "here") -> None:
        self.name = name
        self.bin_dir = str(bin_dir())
        self.address = "127.0.0.1"
        self._processes: list[LocalProcess] = []
        self._files: list[Path] = []
        self._folders: list[Path] = []

    @cached_property
    def _facts(self) -> HostFacts:
        command = [str(program("lev-node")), "probe"]
        try:
            run = subprocess.run(command, capture_output=True, timeout=PROBE_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise LaunchError(f"cannot probe this machine: {error}") from error
        return facts_from_probe(run.stdout, run.stderr, run.returncode)

    def facts(self) -> HostFacts:
        """What this machine can do; probed once by running ``lev-node probe``."""
        return self._facts

    def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdout: Sink | None = None,
        stderr: Sink | None = None,
        stdin: bool = False,
    ) -> LocalProcess:
        """Starts a program in a session of its own, so that Ctrl-C reaches us alone. Raises ``LaunchError``."""
        if shutil.which(argv[0]) is None:
            raise LaunchError(f"cannot start {argv[0]}: no such program")
        command = list(argv)
        if setpriv := shutil.which("setpriv"):
            # If we are killed outright the kernel ends it too. `env` keeps LD_PRELOAD away from setpriv itself.
            settings = [f"{name}={value}" for name, value in (env or {}).items()]
            command = [setpriv, "--pdeathsig", "KILL", "--", "env", *settings, *command]
            env = None
        environment = {name: os.environ[name] for name in CLEAN_NAMES if name in os.environ} | dict(env or {})

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE if stdout else subprocess.DEVNULL,
                stderr=subprocess.PIPE if stderr else subprocess.DEVNULL,
                start_new_session=True,
            )

        try:
            popen = _starter.submit(start).result()
        except OSError as error:
            raise LaunchError(f"cannot start {argv[0]}: {error.strerror or error}") from error
        process = LocalProcess(popen, stdout, stderr)
        self._processes.append(process)
        return process

    def put(self, path: str, data: bytes, mode: int = 0o600) -> None:
        """Writes a file; folders that it makes are private to the user."""
        target = Path(path)
        missing = [folder for folder in [target.parent, *target.parent.parents] if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(mode=0o700)
            self._folders.append(folder)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
        self._files.append(target)

    def get(self, path: str) -> bytes:
        """Contents of a file."""
        return Path(path).read_bytes()

    def close(self) -> None:
        """Ends every program (TERM, then KILL) and removes what was put here."""
        for process in self._processes:
            process.signal(signal.SIGTERM)
        for process in self._processes:
            if process.wait(TERM_SECONDS) is None:
                process.signal(signal.SIGKILL)
                process.wait(TERM_SECONDS)
            process.close_stdin()
        self._processes.clear()
        for file in self._files:
            file.unlink(missing_ok=True)
        for folder in reversed(self._folders):
            shutil.rmtree(folder, ignore_errors=True)
        self._files.clear()
        self._folders.clear()


def facts_from_probe(stdout: bytes, stderr: bytes, code: int) -> HostFacts:
    """Reads what ``lev-node probe`` printed: one JSON object with the fields of ``HostFacts``."""
    try:
        data = json.loads(stdout)
        return HostFacts(
            kvm=data["kvm"],
            userfaultfd=data["userfaultfd"],
            cpus=int(data.get("cpus") or os.cpu_count() or 1),
            memory_free=int(data.get("memory_free") or memory_free()),
            tsc_khz=int(data.get("tsc_khz") or 0),
            cpu_vendor=str(data.get("cpu_vendor") or _proc_field("/proc/cpuinfo", "vendor_id")),
            kernel=str(data.get("kernel") or os.uname().release),
        )
    except (ValueError, KeyError, TypeError) as error:
        said = (stderr or stdout).decode(errors="replace").strip()[-400:]
        raise LaunchError(f"`lev-node probe` ended with {code} and no usable answer: {said or error}") from error


def memory_free() -> int:
    """Bytes that new programs may take."""
    return int((_proc_field("/proc/meminfo", "MemAvailable") or "0 kB").split()[0]) * 1024


def _proc_field(path: str, name: str) -> str:
    """The value of the first line ``NAME: VALUE``."""
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
