"""A named VM over ``leviathan.vm.life``."""

from __future__ import annotations

import queue
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from leviathan.errors import GuestDied, LeviathanError, TimeOver, UsageError
from leviathan.model.complete import complete
from leviathan.model.machine import Machine
from leviathan.named.backend import EventSink
from leviathan.named.consolehub import ConsoleHub
from leviathan.named.guestloop import LOOP, CommandPort
from leviathan.named.leftovers import start_time
from leviathan.qemu.qmp import QmpError
from leviathan.vm.backing import data_directory
from leviathan.vm.direct import is_direct, with_our_init
from leviathan.vm.life import Life
from leviathan.vm.mailbox import Event
from leviathan.vm.prepare import Work
from leviathan.vm.progress import Progress
from leviathan.vm.trace import check_trace, save

__all__ = ["LifeBackend"]


POWERDOWN_SECONDS = 5.0
TRACE_SECONDS = 60.0
"""All nodes have written what they have."""


def _boots_our_init(machine: Machine) -> bool:
    """Whether the guest takes commands: it boots our initramfs."""
    if not is_direct(machine):
        return machine.initrd is None
    return with_our_init(complete(machine, data_directory(machine.name)))


class LifeBackend:
    """See ``Backend``."""

    def __init__(
        self, machine: Machine, console: ConsoleHub, port: CommandPort, progress: Progress, on_event: EventSink
    ) -> None:
        self._console = console
        self._port = port
        self._on_event = on_event
        self._ours = _boots_our_init(machine)
        self._tracing = threading.Lock()
        self._traces: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._life = Life(
            machine,
            Work(LOOP if self._ours else None, restart_on_reboot=True),
            progress=progress,
            stdout=port.stdout,
            stderr=port.stderr,
            console=console,
        )

    def start(self) -> None:
        """The guest's init is up afterwards, if it is ours."""
        self._console.write = self._life.type
        self._life.start()
        if self._ours:
            self._port.open(self._write_control)

    def _write_control(self, data: bytes) -> None:
        # Another head after a cold restart.
        if self._life.head is not None:
            self._life.head.control.write(data)

    def wait(self) -> int:
        """Until the guest switches off, or somebody wants it to."""
        stop = self._life.wait_event(self._watch, None, "the VM's end")
        if stop == "stop":
            if self._ours:
                self._port.quit()
            else:
                with suppress(QmpError):
                    self.qmp("system_powerdown", {}, POWERDOWN_SECONDS)
            # A guest that does not power off in its time is ended by QEMU's quit, in `stop`.
            with suppress(TimeOver):
                self._life.wait_end(self._life.machine.timeouts.stop)
        self._life.stop()
        self._life.record.exit_code = 0
        return 0

    def _watch(self, event: Event) -> str | None:
        match event.source, event.kind:
            case "qemu", name:
                self._on_event(name, event.data)
            case "guest", "ready":
                self._port.fail(GuestDied("the guest rebooted while the command ran"), for_good=False)
            case "head", "trace":
                self._traces.put(event)
            case "user", how:
                return how
            case ("exit", "head") | ("guest", "exit"):
                return "ended"
        return None

    def stop(self, *, now: bool) -> None:
        """In order, or at once."""
        self._life.mailbox.post(Event("user", "now" if now else "stop"))

    def close(self) -> None:
        """Whatever state it is in."""
        self._life.close()

    def qmp(self, command: str, arguments: dict[str, Any], timeout: float) -> Any:
        """On the monitor of the head's QEMU."""
        head = self._life.head
        if head is None:
            raise QmpError("QEMU does not run yet")
        return head.qmp.execute(command, timeout, **arguments)

    def read_file(self, path: str) -> bytes:
        """From the head's host, which may be a lab machine."""
        head = self._life.head
        if head is None:
            raise GuestDied("QEMU does not run yet")
        return head.host.get(path)

    def scratch(self, name: str) -> str:
        """In the folder of the run."""
        head = self._life.head
        if head is None:
            raise GuestDied("QEMU does not run yet")
        return f"{head.files.folder}/{name}"

    def trace(self, path: Path, seconds: float) -> None:
        """One at a time."""
        check_trace(self._life.machine, path)
        if not self._tracing.acquire(blocking=False):
            raise UsageError("a trace of this VM is being recorded already")
        try:
            while not self._traces.empty():
                self._traces.get()
            try:
                self._life.switch_trace(on=True)
                self._await_trace("on")
                time.sleep(seconds)
            finally:
                self._life.switch_trace(on=False)
            self._await_trace("off")
            save(path, self._life.traces())
        finally:
            self._tracing.release()

    def _await_trace(self, state: str) -> None:
        try:
            event = self._traces.get(timeout=TRACE_SECONDS)
        except queue.Empty:
            raise TimeOver(f"the head did not say within {TRACE_SECONDS:g} s that the trace is {state}") from None
        if event.text("state") != state:
            raise LeviathanError(f"there is no trace: {event.text('message') or event.text('state')}")

    def facts(self) -> dict[str, Any]:
        """As far as they are known."""
        record = self._life.record
        return {
            "where": record.where,
            "display": self._life.machine.display.vnc,
            "takes_commands": self._ours,
            "nodes": record.nodes,
            "qemu": None if record.boot is None else record.boot.qemu.path,
            "qemu_version": None if record.boot is None else record.boot.qemu.version_text,
            "kernel": None if record.boot is None else record.boot.kernel_release,
        }

    def leftovers(self) -> dict[str, Any]:
        """Programs end with us by the kernel's doing; folders do not."""
        head = self._life.head
        if head is None:
            return {}
        started = start_time(head.process.pid) if head.host.name == "here" else None
        return {"folders": [head.files.folder], "processes": [[head.process.pid, started]]}

    def record(self) -> dict[str, Any]:
        """The life's record."""
        return self._life.record.as_json(self._life.progress.steps)
