"""One lab machine: an ordinary QEMU process with emulated AMD SVM, its console, its end.

Nothing of it has a name in a file system: control channel, console and network are socket pairs, image and shared
memory are memory files, all passed by descriptor. So nothing can be left behind, however we end; the guard
(``lev-agent guard``) ends QEMU when we are gone.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from leviathan.errors import LaunchError
from leviathan.lab.channel import Channel

__all__ = ["AGENT_PORT", "CPU_MODEL", "LabMachine", "MachineSpec", "Nic"]

AGENT_PORT = "org.leviathan.agent"
CPU_MODEL = "EPYC-v3"
CONSOLE_BYTES = 64 << 10
STOP_SECONDS = 10.0
END_SECONDS = 5.0
"""From the end of the control channel to the end of QEMU: the agent switches the machine off."""
TAIL_LINES = 15

KERNEL_COMMAND_LINE = (
    "console=ttyS0 quiet panic=-1 mitigations=off nokaslr random.trust_cpu=on audit=0 apparmor=0 "
    "cryptomgr.notests=1 8250.nr_uarts=1 i8042.nokbd i8042.noaux "
    # A lab machine may wait long for a CPU of ours; that is no fault of its clock and no lock-up.
    "tsc=reliable no_timer_check nowatchdog rcupdate.rcu_cpu_stall_suppress=1"
)

_PANIC = "Kernel panic - not syncing"
_QUIET = "warning: TCG doesn't support requested feature"


@dataclass(frozen=True, slots=True)
class Nic:
    """A network card that leads to one other machine."""

    own: int
    peer: int
    descriptor: int
    """Our end of a socket pair; the other machine has the other end."""

    @property
    def mac(self) -> str:
        """Address from which the machine itself reads who is at the ends."""
        return f"52:54:00:87:{self.own:02x}:{self.peer:02x}"


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """What a lab machine is made of."""

    name: str
    qemu: Path
    guard: Path
    """``lev-agent``, to be run on this machine."""
    kernel: Path
    image: int
    """Descriptor of the initramfs."""
    cpus: int
    memory: int
    """Bytes."""
    nics: Sequence[Nic] = ()
    pool: tuple[int, int] | None = None
    """Descriptor and size of memory shared between lab machines."""
    cpu_model: str = CPU_MODEL
    kernel_arguments: str = ""
    one_thread: bool = False
    extra: Sequence[str] = field(default=())
    """More QEMU arguments."""

    def descriptors(self) -> list[int]:
        """What QEMU inherits, beside channel and console."""
        return [self.image, *(nic.descriptor for nic in self.nics), *([self.pool[0]] if self.pool else [])]

    def arguments(self, channel: int, console: int) -> list[str]:
        """The QEMU command line, given the descriptors of control channel and console."""
        command = [
            *(str(self.qemu), "-no-user-config", "-nodefaults", "-display", "none", "-no-reboot"),
            *("-name", f"leviathan-{self.name}"),
            *("-machine", "q35,usb=off,vmport=off"),
            *("-accel", f"tcg,thread={'single' if self.one_thread else 'multi'}", "-cpu", self.cpu_model),
            # With one CPU and no more to come, TCG would do locked instructions in pieces: another machine that shares
            # memory would see them.
            *("-smp", f"{self.cpus},maxcpus={max(self.cpus, 2)}"),
            *("-m", f"{self.memory >> 20}M"),
            *("-kernel", str(self.kernel), "-initrd", f"/proc/self/fd/{self.image}"),
            *("-append", f"{KERNEL_COMMAND_LINE} {self.kernel_arguments}".rstrip()),
            *("-chardev", f"socket,id=console,fd={console}", "-serial", "chardev:console"),
            *("-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,fd={channel}"),
            *("-device", f"virtserialport,chardev=agent,name={AGENT_PORT}"),
        ]
        for nic in self.nics:
            link = f"net{nic.peer}"
            command += ["-netdev", f"stream,id={link},server=off,addr.type=fd,addr.str={nic.descriptor}"]
            command += ["-device", f"virtio-net-pci,netdev={link},mac={nic.mac},romfile="]
        if self.pool:
            path = f"/proc/self/fd/{self.pool[0]}"
            command += ["-object", f"memory-backend-file,id=pool,share=on,mem-path={path},size={self.pool[1]}"]
            command += ["-device", "ivshmem-plain,memdev=pool"]
        return [*command, *self.extra]


class Tail:
    """The end of a byte stream, and all of it in a file if one is given."""

    def __init__(self, log: Path | None = None) -> None:
        self._bytes = bytearray()
        self._lock = threading.Lock()
        self._log = log.open("ab", buffering=0) if log else None

    def add(self, data: bytes) -> None:
        """Adds what came."""
        with self._lock:
            self._bytes += data
            del self._bytes[:-CONSOLE_BYTES]
            if self._log:
                self._log.write(data)

    def lines(self, count: int = TAIL_LINES) -> list[str]:
        """The last lines that are not empty; of a kernel's panic the beginning, which says why."""
        with self._lock:
            text = self._bytes.decode(errors="replace")
        lines = [line.rstrip() for line in text.splitlines() if line.strip()]
        panic = next((index for index, line in enumerate(lines) if _PANIC in line), None)
        start = max(len(lines) - count, 0) if panic is None else max(panic - count // 2, 0)
        return lines[start : start + count]

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            if self._log:
                self._log.close()
                self._log = None


class LabMachine:
    """A running lab machine. ``on_exit(machine)`` is called once, from a thread, when it ends unasked."""

    def __init__(
        self,
        spec: MachineSpec,
        on_exit: Callable[[LabMachine], None] | None = None,
        console_log: Path | None = None,
    ) -> None:
        self.spec = spec
        self.name = spec.name
        self.started = time.monotonic()
        self.console = Tail(console_log)
        self.errors = Tail()
        self._on_exit = on_exit
        self._stopping = False
        self._lifeline: int | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()
        ours, theirs = socket.socketpair()
        console, console_theirs = socket.socketpair()
        try:
            with theirs, console_theirs:
                self._process = self._start(theirs.fileno(), console_theirs.fileno())
        except BaseException:
            ours.close()
            console.close()
            raise
        self.channel = Channel(ours, self.name, self._explain)
        pipe = self._process.stderr
        assert pipe is not None
        words = (
            self._thread("console", lambda: _drain(console.recv, self.console, console.close)),
            self._thread("stderr", lambda: _drain(lambda n: os.read(pipe.fileno(), n), self.errors, pipe.close)),
        )
        self._thread("exit", lambda: self._watch(words))

    def _start(self, channel: int, console: int) -> subprocess.Popen[bytes]:
        alive, self._lifeline = os.pipe()
        try:
            return subprocess.Popen(
                [str(self.spec.guard), "guard", *self.spec.arguments(channel, console)],
                stdin=alive,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[channel, console, *self.spec.descriptors()],
                # Ctrl-C at our terminal is for us; we end the machine in our own time.
                start_new_session=True,
            )
        except OSError as error:
            self._cut()
            raise LaunchError(f"cannot start {self.name}: {error}") from error
        finally:
            os.close(alive)

    def _thread(self, what: str, run: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=run, name=f"lev-{self.name}-{what}", daemon=True)
        thread.start()
        return thread

    def _watch(self, words: Sequence[threading.Thread]) -> None:
        self._process.wait()
        for reader in words:
            reader.join(1)
        self._cut()
        self._over.set()
        self.channel.close(self._explain(""))
        if not self._stopping and self._on_exit:
            self._on_exit(self)

    def _explain(self, reason: str) -> str:
        """Why the channel is gone: mostly because QEMU is, which is known a moment later."""
        if self._over.wait(END_SECONDS):
            return f"lab machine {self.name} was stopped" if self._stopping else self.obituary()
        return f"{reason}; {self.obituary()}"

    def _cut(self) -> None:
        with self._lock:
            lifeline, self._lifeline = self._lifeline, None
        if lifeline is not None:
            os.close(lifeline)

    @property
    def pid(self) -> int:
        """Process id of the guard, QEMU's parent."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether QEMU runs."""
        return self._process.poll() is None

    def obituary(self) -> str:
        """How the machine ended, with its last words."""
        code = self._process.poll()
        # The guard's own death shows as a negative code, QEMU's as the guard's exit code.
        killed = 0 if code is None else -code if code < 0 else code - 128
        how = "is running" if code is None else f"was killed (signal {killed})" if killed > 0 else f"ended ({code})"
        said = [line for line in self.errors.lines() if _QUIET not in line]
        parts = [f"lab machine {self.name} {how}"]
        parts += ["QEMU said:", *said] if said else []
        console = self.console.lines()
        parts += ["last lines of its console:", *console] if console else ["its console is empty"]
        return "\n  ".join(parts)

    def stop(self) -> None:
        """Ends the machine at once; it has no state to lose."""
        self._stopping = True
        self._cut()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            # The kernel ends QEMU with its guard.
            self._process.kill()
            self._process.wait()
        self.channel.close(f"lab machine {self.name} was stopped")
        self.console.close()


def _drain(read: Callable[[int], bytes], tail: Tail, close: Callable[[], None]) -> None:
    # A socket whose other end is gone reads as an error; a log on a full disk must not stop the machine's console.
    with contextlib.suppress(OSError, ValueError):
        while data := read(1 << 16):
            with contextlib.suppress(OSError):
                tail.add(data)
    close()
