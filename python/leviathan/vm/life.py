"""The life of one VM: prepare, place, start, watch, stop, collect."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from leviathan.errors import GuestDied, Interrupted, LaunchError, LeviathanError, NodeLost, StartError, TimeOver
from leviathan.launch.host import Sink
from leviathan.launch.local import LocalHost
from leviathan.launch.streams import Tail
from leviathan.model.complete import complete
from leviathan.model.layout import vcpus
from leviathan.model.machine import Machine
from leviathan.qemu.command import HeadCommand, head_command, head_environment
from leviathan.qemu.qmp import QmpError
from leviathan.rules.kernel_facts import tick_hz
from leviathan.vm.backing import data_directory, files_of, held, with_own_files
from leviathan.vm.blame import explained, how_it_ended, node_lost
from leviathan.vm.cluster import Identity, cluster_file
from leviathan.vm.direct import direct_command, with_our_init
from leviathan.vm.head import Head, HeadFiles, Streams, start_head
from leviathan.vm.mailbox import Event, Mailbox
from leviathan.vm.place import Choice, Placement, choose, has_late_cpus, place, pooled
from leviathan.vm.prepare import Work, hides_hypervisor, prepare
from leviathan.vm.progress import Progress
from leviathan.vm.record import Record
from leviathan.vm.standstill import Standstill
from leviathan.vm.trace import check_trace, fetch, note_trace, save, switch, trace_path
from leviathan.vm.workers import Worker, start_worker, worker_named

__all__ = ["Elsewhere", "Ending", "Life"]

T = TypeVar("T")
LOST_EXIT = 123
BLAME_SECONDS = 5.0
WORKER_STOP_SECONDS = 5.0
QUIT_SECONDS = 10.0
TICK_SECONDS = 1.0


def _drop(_data: bytes) -> None:
    """A sink for output that nobody wants."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How the guest came to its end."""

    exit_code: int
    """The command's; 0 if the guest was switched off from inside."""
    powered_off: bool = False
    """The guest switched itself off before its command's exit code was known."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Workers that somebody else started, on machines of their own."""

    identity: Identity
    addresses: Sequence[str]
    """Of nodes 1, 2…"""


class Life:
    """One VM from start to end; a context manager that leaves nothing behind.

    All methods belong to the thread that made it, except ``mailbox.post``.
    """

    def __init__(
        self,
        machine: Machine,
        work: Work,
        *,
        progress: Progress | None = None,
        stdout: Sink = _drop,
        stderr: Sink = _drop,
        console: Sink = _drop,
        timeout: float | None = None,
        elsewhere: Elsewhere | None = None,
        trace: Path | None = None,
    ) -> None:
        check_trace(machine, trace)
        self.machine = machine = with_own_files(machine)
        self.work = work
        self.progress = progress or Progress()
        self.record = Record(machine)
        self.mailbox = Mailbox()
        self.console = Tail(console)
        self.head: Head | None = None
        self._streams = Streams(stdout, stderr, self.console)
        self._deadline = time.monotonic() + timeout if timeout else None
        self._timeout = timeout
        self._stack = ExitStack()
        self._workers: list[Worker] = []
        self._elsewhere = elsewhere
        self._trace = trace
        self._ready = False
        self._folder, self._initrd, self._boots = "", "", 1
        self._stopping = False
        self._exit: Event | None = None
        """The end of QEMU."""
        self._shutdown_reason = ""
        self._ending: Ending | None = None
        self._standstill = Standstill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, LeviathanError):
            self.record.failed(error)
        try:
            # Where the time went, or what came before the end, is in the nodes' counters.
            told = self._exit is not None or bool(self._standstill) or self._trace is not None
            if isinstance(error, TimeOver) or (isinstance(error, LeviathanError) and told):
                self._quit(QUIT_SECONDS)
        except LeviathanError as later:
            self.progress.note(later.message)
        finally:
            self.close()

    # --- start --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Everything up to the guest's init being up. Raises a ``LeviathanError``."""
        local = LocalHost()
        self._stack.callback(local.close)
        boot = self.record.boot = prepare(self.machine, self.work, self.progress)
        with self.progress.step("checking this machine"):
            choice = (
                choose(self.machine, local) if boot.direct is None else Choice(lab=False, reason=boot.direct.reason)
            )
        if choice.lab and self.machine.on == "auto":
            self.progress.note(f"nodes run in lab machines: {choice.reason}")
        identity = self._elsewhere.identity if self._elsewhere else Identity.new()
        if choice.lab and self._elsewhere:
            raise StartError(f"nodes on several machines need KVM on each: {choice.reason}")
        if boot.direct is not None:
            self._stack.enter_context(held(boot.direct.machine, boot.direct.directory))
        elif not self.machine.stock:
            self._stack.enter_context(held(self.machine, data_directory(self.machine.name)))
        folder = f"/tmp/lev-{identity.run_id[:12]}"  # noqa: S108 (unguessable, and made with mode 0700)
        placement = place(self.machine, boot, choice, local, folder, self._stack, self.progress, self._lab_machine_gone)
        self._folder, self._initrd = folder, placement.initrd
        self.record.where = {
            "lab": choice.lab,
            "reason": choice.reason,
            "hosts": [host.name for host in placement.hosts],
        }
        if boot.direct is not None:
            self.progress.note(f"a plain QEMU on this machine: {choice.reason}")
        self._start_workers(placement, identity, folder)
        self._start_head(placement, identity, folder)
        if with_our_init(complete(self.machine)):
            with self.progress.step("booting the guest"):
                self._wait(self._guest_ready, self.machine.timeouts.boot, "the guest's init", "timeouts.boot")

    def _start_workers(self, placement: Placement, identity: Identity, folder: str) -> None:
        shares = self.machine.shares()
        if len(shares) < 2 or self._elsewhere:
            return
        with self.progress.step(f"starting {len(shares) - 1} worker{'s' if len(shares) > 2 else ''}"):
            for node, (share, host) in enumerate(zip(shares, placement.hosts, strict=True)):
                if node == 0:
                    continue
                listen = "127.0.0.1" if placement.one_host else host.address
                assert share.name is not None
                worker = start_worker(host, node, share.name, identity, folder, listen, self.mailbox)
                self._workers.append(worker)
            for worker in self._workers:
                while worker.address is None:
                    what = f"worker {worker.name} on {worker.host.name} to listen"
                    self._wait(self._anything, self.machine.timeouts.workers, what, "timeouts.workers")

    def _start_head(self, placement: Placement, identity: Identity, folder: str) -> None:
        machine = self.machine
        host = placement.hosts[0]
        files = HeadFiles(folder)
        cluster = None
        if not machine.stock:
            ours = [worker.address or "" for worker in self._workers]
            addresses = list(self._elsewhere.addresses) if self._elsewhere else ours
            cluster = cluster_file(
                machine,
                identity,
                addresses,
                pooled=pooled(machine, placement.choice),
                lab=placement.choice.lab,
                events=files.events,
                report=files.report,
                kept=[str(file) for file in files_of(placement.machine or machine)],
                trace=self._trace_path(0),
            )
            if self._trace is not None:
                switch(host, self._trace_path(0), on=True)
        argv = self.record.qemu_command = self._command(placement, folder)
        self.record.nodes = [
            {"name": share.name, "host": host.name, "vcpus": list(cpus), "memory": share.memory}
            | ({"node_memory": machine.node_memory} if machine.node_memory else {})
            for share, host, cpus in zip(machine.shares(), placement.hosts, vcpus(machine), strict=True)
        ]
        with self.progress.step("starting QEMU"):
            environment = head_environment(machine, host.bin_dir, files.cluster)
            self.head = start_head(host, argv, folder, environment, cluster, self._streams, self.mailbox)
            if not machine.stock:
                what = "the head to connect its workers" if self._workers else "the head"
                self._wait(self._head_ready, machine.timeouts.ready, what, "timeouts.ready")
        self._ready = True

    def _command(self, placement: Placement, folder: str) -> list[str]:
        """QEMU's command line."""
        assert self.record.boot is not None
        boot, restart = self.record.boot, self.work.restart_on_reboot
        if boot.direct is not None:
            return direct_command(boot.direct, folder, boot.kernel, placement.initrd or None, restart_on_reboot=restart)
        command = HeadCommand(
            qemu=placement.qemu,
            kernel=placement.kernel,
            initrd=placement.initrd,
            folder=folder,
            tsc_khz=0 if self.machine.stock else placement.hosts[0].facts().tsc_khz,
            tick_hz=tick_hz(boot.kernel_release, boot.kernel),
            restart_on_reboot=restart,
            late_cpus=has_late_cpus(self.machine),
            facts=boot.facts,
            hide_hypervisor=hides_hypervisor(boot.kernel_release),
        )
        return head_command(placement.machine or self.machine, command)

    def _restart(self) -> bool:
        """Starts QEMU anew for a guest that rebooted, where a reset within QEMU would not do (CXL does not survive it).

        False: the guest may not reboot, or QEMU has reset it by itself.
        """
        assert self.record.boot is not None
        direct = self.record.boot.direct
        if direct is None or direct.machine.reboot != "cold" or not self.work.restart_on_reboot or self._stopping:
            return False
        assert self.head is not None
        self.head.release()
        self.progress.note("the guest reboots: QEMU starts anew")
        self._boots += 1
        self._exit, self._shutdown_reason = None, ""
        folder = f"{self._folder}/boot{self._boots}"
        argv = direct_command(direct, folder, self.record.boot.kernel, self._initrd or None, restart_on_reboot=True)
        self.head = start_head(self.head.host, argv, folder, {}, None, self._streams, self.mailbox)
        return True

    # --- the guest's work ---------------------------------------------------------------------------------------------

    def wait_end(self, timeout: float | None = None) -> Ending:
        """Waits until the guest's command has ended or the guest switched off. Raises a ``LeviathanError``."""
        return self._wait(self._end, timeout, "the guest's command", "--timeout")

    def wait_event(self, accept: Callable[[Event], T | None], timeout: float | None, what: str) -> T:
        """Waits for something of the caller's; failures of the VM are raised meanwhile."""
        return self._wait(accept, timeout, what, "the timeout")

    def type(self, keys: bytes) -> None:
        """Sends keys to the guest's console; lost while there is none."""
        if self.head is not None:
            self.head.process.write(keys)

    def stop(self) -> None:
        """Ends the VM in order: the guest's own power-off, QEMU's quit, then the report. Safe to call again."""
        if self.head is None or self._stopping:
            return
        with self.progress.step("stopping"):
            self._wait_exit(self.machine.timeouts.stop if self._ending else 0)
            self._stopping = True
            self._quit(self.machine.timeouts.stop)
            deadline = time.monotonic() + WORKER_STOP_SECONDS
            for worker in self._workers:
                worker.process.wait(max(deadline - time.monotonic(), 0.01))

    def _quit(self, seconds: float) -> None:
        """Ends QEMU, politely if it still answers, and reads what the facade wrote at its end."""
        if self.head is None:
            return
        try:
            if self._exit is None:
                try:
                    self.head.qmp.execute("quit", timeout=min(seconds, 3))
                except QmpError:
                    self.head.process.signal(signal.SIGTERM)
                self.head.process.wait(seconds)
        except LaunchError:
            # Its host is gone.
            return
        self.record.report = self.head.report()
        if self._trace is not None:
            save(self._trace, self.traces())

    def traces(self) -> bytes:
        """The traces of all nodes, which have ended, joined into one. Raises ``LeviathanError``."""
        assert self.head is not None
        hosts = [self.head.host, *(worker.host for worker in self._workers)]
        return fetch((host, self._trace_path(node)) for node, host in enumerate(hosts))

    def switch_trace(self, *, on: bool) -> None:
        """Has all nodes begin a trace, or end it; the head's event ``trace`` says that they have. From any thread."""
        if self.head is None:
            raise GuestDied("QEMU does not run yet")
        switch(self.head.host, self._trace_path(0), on=on)

    def _trace_path(self, node: int) -> str:
        return trace_path(self._folder, self.machine.shares()[node].name or "")

    def close(self) -> None:
        """Ends every program, lab machine and file of this VM, whatever state it is in."""
        self._stopping = True
        self._stack.close()

    def lose_node(self, number: int, why: str) -> None:
        """Takes a node away, which ends the guest: whoever held it has gone. From any thread."""
        name = self.machine.shares()[number].name or f"node{number}"
        self.mailbox.post(Event("holder", name, {"why": why}))

    # --- waiting ------------------------------------------------------------------------------------------------------

    def _wait(self, accept: Callable[[Event], T | None], seconds: float | None, what: str, limit: str) -> T:
        end = time.monotonic() + seconds if seconds is not None else float("inf")
        while True:
            now = time.monotonic()
            if self._deadline is not None and now >= self._deadline:
                raise self._told(TimeOver(f"time is over ({self._timeout:g} s) while waiting for {what}"))
            if now >= end:
                hint = f"allow more: {limit}" if limit.startswith("-") else f"allow more: --set {limit}=SECONDS"
                raise self._told(TimeOver(f"waited {seconds:g} s for {what}", hint=hint))
            event = self.mailbox.take(min(now + TICK_SECONDS, end, self._deadline or end))
            self.progress.tick()
            if error := self._standstill.over(self.machine.timeouts.room):
                raise self._told(error)
            if event is None:
                continue
            if self._handle(event):
                continue
            result = accept(event)
            if result is not None:
                return result

    def _wait_exit(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while self._exit is None and time.monotonic() < end:
            event = self.mailbox.take(end)
            if event is not None:
                self._note(event)

    def _lab_machine_gone(self, name: str, why: str) -> None:
        self.mailbox.post(Event("lab", name, {"why": why}))

    @staticmethod
    def _anything(_event: Event) -> bool:
        return True

    @staticmethod
    def _head_ready(event: Event) -> bool | None:
        return True if (event.source, event.kind) == ("head", "ready") else None

    def _guest_ready(self, event: Event) -> bool | None:
        if (event.source, event.kind) != ("guest", "ready"):
            return None
        try:
            self.record.guest_ready_uptime = float(event.text("uptime"))
        except ValueError:
            self.record.guest_ready_uptime = None
        return True

    def _end(self, event: Event) -> Ending | None:
        if (event.source, event.kind) == ("guest", "exit"):
            self._ending = Ending(int(event.data["code"]))
        elif (event.source, event.kind) == ("exit", "head"):
            self._ending = Ending(0, powered_off=True)
        return self._ending

    def _handle(self, event: Event) -> bool:
        """Notes an event; raises if it means that the VM cannot go on. True: it is dealt with, and nobody else's."""
        self.record.event(event)
        match event.source, event.kind:
            case "exit", _:
                self._note_exit(event)
                if event.kind == "head":
                    return self._head_ended()
                self._worker_ended(event)
            case "qemu", "SHUTDOWN":
                self._shutdown_reason = event.text("reason")
            case "head", "node-lost":
                raise self._told(node_lost(event, self._workers, self.mailbox, self._note))
            case "head", "error":
                raise self._told(self._failure(event.text("message"), event.text("hint")))
            case "head", "out-of-room" | "room-again":
                self.progress.note(self._standstill.note(event))
            case "lab", name:
                raise self._host_gone(name, event.text("why"))
            case "holder", name:
                raise self._told(NodeLost(f"{name} was lost: {event.text('why')}"))
            case "output", "closed":
                raise Interrupted(signal.SIGPIPE, "whoever read the output")
            case "guest" | "qemu" | "head", _:
                note_trace(event, self.progress)
            case name, kind:
                self._from_worker(name, kind, event)
        return False

    def _from_worker(self, name: str, kind: str, event: Event) -> None:
        worker = worker_named(self._workers, name)
        if worker is None:
            return
        if kind == "listening":
            worker.address = event.text("address")
        elif kind == "lost":
            worker.last_words = event.text("message")
        elif kind == "error":
            raise self._told(self._failure(f"{name}: {event.text('message')}", event.text("hint")), worker.log)

    def _failure(self, message: str, hint: str) -> LeviathanError:
        return (GuestDied if self._ready else StartError)(message, hint=hint or None)

    def _note(self, event: Event) -> None:
        """Only notes an event, whatever it means."""
        self.record.event(event)
        if event.source == "exit":
            self._note_exit(event)

    def _note_exit(self, event: Event) -> None:
        if event.kind == "head":
            self._exit = event
        for worker in self._workers:
            worker.gone |= worker.name == event.kind

    def _host_gone(self, host: str, why: str) -> LeviathanError:
        names = [node["name"] for node in self.record.nodes if node["host"] == host]
        message = f"{' and '.join(names) or 'a node'} lost: {why}"
        return self._told(NodeLost(message) if self._ready else StartError(message))

    def _worker_ended(self, event: Event) -> None:
        """A worker ended while the VM runs. The head notices, too, and knows more: it has a moment to say so."""
        if event.data.get("code") == 0 and self.head is not None:
            # The head said goodbye to it: QEMU is about to end.
            return
        worker = worker_named(self._workers, event.kind)
        assert worker is not None
        end = time.monotonic() + (BLAME_SECONDS if self.head is not None else 0)
        while time.monotonic() < end:
            later = self.mailbox.take(end)
            # Other workers follow the first one into death; only the head can tell us more.
            if later is not None and later.source in ("head", "lab"):
                self._handle(later)
            elif later is not None and (later.source, later.kind) == ("exit", "head"):
                self._note_exit(later)
                break
        if event.data.get("code") is None:
            raise self._host_gone(worker.host.name, event.text("why"))
        how = how_it_ended(event.data["code"])
        error = NodeLost(f"{worker.name} was lost: its program on {worker.host.name} {how}")
        raise self._told(error if self._ready else StartError(error.message), worker.log)

    def _head_ended(self) -> bool:
        """QEMU ended: in order, or to be started anew (true), or raises."""
        assert self.head is not None
        assert self._exit is not None
        code = self._exit.data.get("code")
        if code is None:
            raise self._host_gone(self.head.host.name, self._exit.text("why"))
        if code == 0 and self._shutdown_reason in ("guest-shutdown", "host-qmp-quit"):
            return False
        if code == LOST_EXIT:
            raise self._told(NodeLost("a node was lost; the head did not say which"), self.head.log)
        if code == 0 and self._shutdown_reason == "guest-reset":
            if self._restart():
                return True
            raise self._told(
                GuestDied("the guest rebooted (a kernel panic reboots, too)", hint="--reboot lets it boot again")
            )
        message = f"QEMU {how_it_ended(code)}"
        raise self._told((GuestDied if self._ready else StartError)(message), self.head.log)

    def _told(self, error: LeviathanError, log: Tail | None = None) -> LeviathanError:
        """The error with the last lines that explain it."""
        logs = {"it said": log.lines() if log else []}
        if log is None and self.head is not None:
            logs["QEMU said"] = self.head.log.lines()
        logs["the console's last lines"] = self.console.lines()
        return explained(error, logs)
