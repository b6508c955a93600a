"""What a guest gains: the same work under stock QEMU, on several nodes, and there without each part of the engine.

Rounds go through all configurations in turn, so that a busy spell of the host touches all alike. A guest does all
workloads one after the other; where one fails, a new guest does the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from leviathan.bench.boot import TIMED_STEPS
from leviathan.bench.guest_work import Figures, Workload, WrongOutput
from leviathan.errors import Interrupted, LeviathanError, UsageError
from leviathan.model import Machine
from leviathan.model.load import change_machine
from leviathan.model.switches import NamedSwitch, switches
from leviathan.vm.api import VM, Result
from leviathan.vm.progress import Progress

__all__ = ["ALL_ON", "STOCK", "Configuration", "GuestBench", "Options", "choose", "configurations"]

STOCK = "stock"
ALL_ON = "all-on"
REASON = 200
"""Most characters of a failure's reason."""


@dataclass(slots=True)
class Configuration:
    """One way to run the guest, and what was seen in each round."""

    name: str
    title: str
    machine: Machine
    switch: NamedSwitch | None = None
    """What is off."""
    figures: dict[int, dict[str, float]] = field(default_factory=dict)
    """By round."""
    failures: dict[int, dict[str, str]] = field(default_factory=dict)
    """By round and workload: the reason."""
    counted: dict[int, dict[str, int]] = field(default_factory=dict)
    """By round in which one guest did everything: the memory counters of all its nodes together."""
    where: dict[str, Any] = field(default_factory=dict)
    """Where the nodes of the last guest ran."""

    def failed_work(self) -> Iterator[tuple[int, str, str]]:
        """Round, workload and reason of each failure."""
        for number, reasons in sorted(self.failures.items()):
            for name, reason in reasons.items():
                yield number, name, reason

    def pairs(self, base: Configuration, figure: str) -> list[tuple[float, float]]:
        """Own value and ``base``'s in each round that has both."""
        return [
            (own[figure], base.figures[number][figure])
            for number, own in self.figures.items()
            if figure in own and figure in base.figures.get(number, {})
        ]


@dataclass(frozen=True, slots=True)
class Options:
    """How much is measured."""

    rounds: int
    seconds: int
    """Of each stressor."""
    limit: float
    """Seconds for each workload, the boot among them."""


def choose(names: Sequence[str] | None, known: Sequence[str], option: str) -> list[str]:
    """The names in an option's lists (``a,b``), in the order of ``known``; all without any. Raises ``UsageError``."""
    if not names:
        return list(known)
    wanted = {word.strip() for text in names for word in text.split(",")}
    if wrong := sorted(wanted - set(known)):
        raise UsageError(f"{option} {wrong[0] or '(empty)'}: there is none of that name", hint=f"{', '.join(known)}")
    return [name for name in known if name in wanted]


def configurations(machine: Machine, only: Sequence[str] | None = None) -> list[Configuration]:
    """Stock, all on, and each switch off in turn; ``only``: names of switches, the first two always are there.

    Raises ``UsageError`` for unknown switches, ``ConfigError``.
    """
    if machine.stock or len(machine.shares()) < 2:
        raise UsageError("what nodes gain shows with two or more", hint="--nodes 2")
    whole = machine.model_dump(by_alias=True, exclude_unset=True)
    known = {switch.name: switch for switch in switches(Machine)}

    def changed(changes: Mapping[str, Any]) -> Machine:
        return change_machine(whole, changes, source="bench")

    stock = {"nodes": 0, "cpus": machine.cpus, "memory": machine.memory, "node_memory": None}
    found = [
        Configuration(STOCK, "stock QEMU, one node", changed(stock)),
        Configuration(ALL_ON, f"{len(machine.shares())} nodes, all on", machine),
    ]
    for name in choose(only, list(known), "--only"):
        switch = known[name]
        value = "off" if isinstance(switch.switch.off, bool) else switch.switch.off
        title = f"{len(machine.shares())} nodes, {name} {value}"
        found.append(Configuration(f"no-{name}", title, changed(switch.changes), switch))
    return found


class GuestBench:
    """Runs guests and collects what they did."""

    def __init__(
        self, kinds: Sequence[Configuration], workloads: Sequence[Workload], options: Options, progress: Progress
    ) -> None:
        self.kinds = kinds
        self.workloads = workloads
        self.options = options
        self._progress = progress

    def run(self) -> None:
        """All rounds. Failures are kept with their configuration; only an interruption ends it."""
        for number in range(1, self.options.rounds + 1):
            for kind in self.kinds:
                self._configuration(kind, number)

    @property
    def failed(self) -> bool:
        """Whether anything failed anywhere."""
        return any(kind.failures for kind in self.kinds)

    def _configuration(self, kind: Configuration, number: int) -> None:
        waiting = list(self.workloads)
        while waiting:
            waiting = self._guest(kind, number, waiting)

    def _guest(self, kind: Configuration, number: int, waiting: list[Workload]) -> list[Workload]:
        """One guest does, or fails, one workload at least; returns those that another guest has to do."""
        title = f"round {number} of {self.options.rounds}, {kind.title}"
        left, booted = list(waiting), False
        vm = VM(change_machine(kind.machine.model_dump(by_alias=True), self._limits, source="bench"))
        try:
            with ExitStack() as stack:
                with self._progress.step(f"{title}: boot"):
                    stack.enter_context(vm)
                booted = True
                while left:
                    self._work(vm, kind, number, left[0], title)
                    left.pop(0)
        except Interrupted:
            raise
        except LeviathanError as error:
            # A command is a whole script, and what the console said last follows on lines of its own.
            reason = re.sub(r"`[^`]*`", "the command", error.message).splitlines()[0]
            if not booted:
                for work in left:
                    self._fail(kind, number, work, f"no guest: {reason}")
                return []
            if not left:
                self._progress.note(f"{title}: after its work, {reason}")
                return []
            self._fail(kind, number, left[0], reason)
            return left[1:]
        kind.where = vm.report()["where"]
        if len(waiting) == len(self.workloads) and number not in kind.failures:
            kind.counted[number] = memory_counters(vm.report()["report"])
        return []

    @property
    def _limits(self) -> dict[str, Any]:
        return {"timeouts": {"boot": self.options.limit}}

    def _work(self, vm: VM, kind: Configuration, number: int, work: Workload, title: str) -> None:
        figures = kind.figures.setdefault(number, {})
        if work.command is None:
            steps = vm.report()["steps"]
            figures["boot"] = sum(step["seconds"] for step in steps if step["name"] in TIMED_STEPS)
            return
        with self._progress.step(f"{title}: {work.name}"):
            result = vm.run(work.command(self.options.seconds), timeout=self.options.limit)
        try:
            figures.update(read(work, result))
        except WrongOutput as error:
            self._fail(kind, number, work, str(error))

    def _fail(self, kind: Configuration, number: int, work: Workload, reason: str) -> None:
        kind.failures.setdefault(number, {})[work.name] = reason[:REASON]
        self._progress.note(f"{kind.title}: {work.name} failed: {reason[:REASON]}")


def read(work: Workload, result: Result) -> Figures:
    """The numbers of a command that has ended. Raises ``WrongOutput``."""
    if result.exit_code:
        words = (result.stderr.strip() or result.stdout.strip()).splitlines()[-1:]
        raise WrongOutput(f"exit code {result.exit_code}{': ' if words else ''}{''.join(words)}")
    return work.read(result.stdout, result.stderr)


def memory_counters(report: Mapping[str, Any] | None) -> dict[str, int]:
    """What all nodes of a report counted of memory, added up; empty without a report."""
    total: dict[str, int] = {}
    for node in (report or {}).get("nodes", []):
        for name, count in node.get("memory", {}).items():
            if isinstance(count, int):
                total[name] = total.get(name, 0) + count
    return total
