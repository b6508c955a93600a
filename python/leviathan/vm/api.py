"""The library's front: ``with leviathan.run(Machine(…)) as vm: vm.run("nproc")``."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from leviathan.errors import GuestDied, LeviathanError, TimeOver
from leviathan.model.machine import Machine
from leviathan.vm.commands import LOOP, Collector, Request, quit_line
from leviathan.vm.life import Life
from leviathan.vm.mailbox import Event
from leviathan.vm.prepare import Work
from leviathan.vm.progress import Progress

__all__ = ["VM", "CommandFailed", "Result", "run"]


@dataclass(frozen=True, slots=True)
class Result:
    """How a command in the guest ended."""

    command: str
    exit_code: int
    stdout_bytes: bytes
    stderr_bytes: bytes

    @property
    def stdout(self) -> str:
        """Standard output as text."""
        return self.stdout_bytes.decode(errors="replace")

    @property
    def stderr(self) -> str:
        """Standard error as text."""
        return self.stderr_bytes.decode(errors="replace")


class CommandFailed(LeviathanError):
    """A command in the guest ended with an exit code other than 0, and ``check`` was asked for."""

    def __init__(self, result: Result) -> None:
        super().__init__(
            f"`{result.command}` ended with {result.exit_code} in the guest: {result.stderr[-400:].strip()}"
        )
        self.exit_code = result.exit_code
        self.result = result


class VM:
    """A running VM; a context manager. Everything it started is gone when the block ends."""

    def __init__(self, machine: Machine, *, progress: Progress | None = None, timeout: float | None = None) -> None:
        self._stdout = Collector(self._stream_done)
        self._stderr = Collector(self._stream_done)
        self._pending: str | None = None
        self._life = Life(
            machine,
            Work(command=LOOP),
            progress=progress,
            stdout=self._stdout,
            stderr=self._stderr,
            timeout=timeout,
        )

    def __enter__(self) -> Self:
        try:
            self._life.start()
        except BaseException as error:
            self._life.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._power_off()
        finally:
            self._life.__exit__(kind, error, trace)

    @property
    def machine(self) -> Machine:
        """What was asked for."""
        return self._life.machine

    def run(self, command: str, *, timeout: float | None = None, check: bool = False) -> Result:
        """Runs a shell command as root in the guest and waits for its end.

        Raises ``TimeOver`` after ``timeout`` seconds (the command goes on, so nothing more can be run),
        ``CommandFailed`` if ``check`` is set and the exit code is not 0; what ends a VM: ``NodeLost``, ``GuestDied``.
        """
        if self._pending is not None:
            raise GuestDied("an earlier command still runs in the guest", hint="give that one more time")
        head = self._life.head
        if head is None:
            raise GuestDied("the VM has not been started", hint="use it in a `with` block")
        request = Request.new(command)
        self._stdout.expect(request)
        self._stderr.expect(request)
        self._pending = request.token
        head.control.write(request.line)
        codes: list[int] = []

        def ended(event: Event) -> int | None:
            if event.source == "guest" and event.kind == "exit":
                raise GuestDied(f"the guest's init ended while `{command}` ran")
            if event.source == "exit" and event.kind == "head":
                raise GuestDied(f"the guest switched off while `{command}` ran")
            if event.source == "command" and event.text("token") == request.token:
                codes.append(int(event.data["code"]))
            # Both streams must be through.
            return codes[0] if len(codes) == 2 else None

        try:
            code = self._life.wait_event(ended, timeout, f"`{command}`")
        except TimeOver:
            raise
        except LeviathanError:
            self._pending = None
            raise
        self._pending = None
        result = Result(command, code, self._stdout.output(), self._stderr.output())
        if check and code != 0:
            raise CommandFailed(result)
        return result

    def report(self) -> dict[str, Any]:
        """What happened so far, as ``lev run --json`` writes it; with the nodes' counters once the block has ended."""
        return self._life.record.as_json(self._life.progress.steps)

    def _power_off(self) -> None:
        if self._life.head is not None and self._pending is None:
            self._life.head.control.write(quit_line())
            self._life.wait_end(self.machine.timeouts.stop)
        self._life.record.exit_code = 0
        self._life.stop()

    def _stream_done(self, token: str, code: int) -> None:
        self._life.mailbox.post(Event("command", "done", {"token": token, "code": code}))


def run(machine: Machine | None = None, *, progress: bool = False, timeout: float | None = None) -> VM:
    """A VM to be used in a ``with`` block; entering it boots the guest.

    ``progress`` prints the steps on standard error; ``timeout`` limits the whole life, seconds.
    """
    return VM(machine or Machine(), progress=Progress.on_stderr() if progress else None, timeout=timeout)
