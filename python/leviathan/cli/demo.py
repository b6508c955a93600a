"""``lev demo``: one VM over two nodes, checked from inside, with a table of what each node did."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from leviathan.cli.run import run_command
from leviathan.cli.tables import node_table, print_table, step_table
from leviathan.errors import GuestDied
from leviathan.launch.streams import Lines
from leviathan.model import Machine

__all__ = ["run_demo"]

DEMO_SECONDS = 900.0


class Checks:
    """Reads the reports of ``lev-guest demo``: JSON lines ``{"check": NAME, "ok": BOOL, …}`` and a last ``result``."""

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []
        self.result = ""

    def line(self, text: str) -> None:
        """Takes one line; shows a check as soon as it is through."""
        try:
            report = json.loads(text)
        except ValueError:
            report = None
        if not isinstance(report, dict):
            print(text, file=sys.stderr)
            return
        if "check" in report:
            self.reports.append(report)
            print(describe(report), flush=True)
        self.result = str(report.get("result", self.result))

    @property
    def passed(self) -> bool:
        """Every check passed, and the last line says so: silence is no success."""
        return self.result == "pass" and bool(self.reports) and all(report.get("ok") is True for report in self.reports)


def describe(report: dict[str, Any]) -> str:
    """A check in one line."""
    mark = "ok  " if report.get("ok") is True else "FAIL"
    words = [f"{key}={_value(value)}" for key, value in report.items() if key not in ("check", "ok", "failures")]
    lines = [f"{mark}  {report['check']:<12} {'  '.join(words)}"]
    return "\n".join([*lines, *(f"        {failure}" for failure in report.get("failures", []))])


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + " ".join(f"{key}:{_value(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + " ".join(map(_value, value)) + "]"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def run_demo(machine: Machine, *, timeout: float | None, json_file: Path | None) -> int:
    """Runs it; returns 0 only if every check inside the guest passed."""
    checks = Checks()
    nodes = len(machine.shares())
    command = f"exec lev-guest demo --json --expect-cpus {machine.cpus} --expect-nodes {nodes}"
    code, life = run_command(
        machine, command, timeout=timeout or DEMO_SECONDS, json_file=json_file, stdout=Lines(checks.line)
    )
    print()
    if life.record.report is not None:
        print_table(node_table(life.record.report), sys.stdout)
    elif not machine.stock:
        print("the head left no report", file=sys.stderr)
    print_table(step_table(life.progress.steps), sys.stdout)
    if code != 0 or not checks.passed:
        failed = [str(report["check"]) for report in checks.reports if report.get("ok") is not True]
        raise GuestDied(
            f"the demo failed: {', '.join(failed) or f'lev-guest ended with {code}'}",
            hint="its reasons are above; `lev doctor` checks this machine",
        )
    print(f"passed: {len(checks.reports)} checks on one machine of {machine.cpus} CPUs over {nodes} nodes")
    return 0
