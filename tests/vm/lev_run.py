"""Runs `lev run … --exec CMD` as a user does and hands back everything that it left: output, exit code, record."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROUNDS = int(os.environ.get("LEV_TEST_ROUNDS", "100000"))
"""Rounds of a coherence check; the default is the number promised."""


def lev() -> str:
    """The `lev` of the environment that runs the tests."""
    beside = Path(sys.executable).with_name("lev")
    found = str(beside) if beside.exists() else shutil.which("lev")
    if found is None:
        pytest.fail("there is no `lev` beside this Python: run `make build`")
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("qemu-system-x86_64 is not installed")
    return found


@dataclass(frozen=True)
class Run:
    """One `lev run`."""

    arguments: list[str]
    code: int
    stdout: str
    stderr: str
    seconds: float
    record: dict[str, Any]
    checks: list[dict[str, Any]] = field(default_factory=list)
    """Lines that lev-guest printed in the guest, the results of its runs excluded."""
    results: list[str] = field(default_factory=list)
    """`pass` or `fail` of every run of lev-guest."""

    def told(self) -> str:
        """Everything needed to understand a failure."""
        parts = [f"lev run {' '.join(self.arguments)}", f"exit code {self.code} after {self.seconds:.1f} s"]
        parts += [f"stdout:\n{self.stdout[-6000:]}", f"stderr:\n{self.stderr[-6000:]}"]
        return "\n".join(parts)

    def of(self, check: str) -> list[dict[str, Any]]:
        """The reports of one check; there must be some."""
        found = [report for report in self.checks if report["check"] == check]
        assert found, f"no report of {check}\n{self.told()}"
        return found

    def assert_passed(self, runs: int) -> None:
        """The command ended well, and so did each of `runs` runs of lev-guest."""
        failed = [report for report in self.checks if report["ok"] is not True]
        assert not failed, f"{failed}\n{self.told()}"
        assert self.code == 0, self.told()
        assert self.results == ["pass"] * runs, self.told()

    def nodes(self) -> list[dict[str, Any]]:
        """What each node counted, the head first."""
        assert self.record.get("report"), f"no report\n{self.told()}"
        return list(self.record["report"]["nodes"])

    def vcpu(self, number: int) -> dict[str, int]:
        """The counters of one vCPU."""
        found = [vcpu for node in self.nodes() for vcpu in node["vcpus"] if vcpu["id"] == number]
        assert len(found) == 1, f"vCPU {number} is reported {len(found)} times\n{self.told()}"
        return dict(found[0]["counters"])


def lev_run(folder: Path, *arguments: str, command: str, seconds: float = 240) -> Run:
    """Runs `lev run ARGUMENTS --exec COMMAND`; a run that outlives its own limit is ended and fails."""
    json_file = folder / "record.json"
    words = [*arguments, "--timeout", f"{seconds:g}", "--json", str(json_file), "--exec", command]
    begin = time.monotonic()
    done = subprocess.run(
        [lev(), "run", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds + 60,
        check=False,
    )
    record = json.loads(json_file.read_text()) if json_file.exists() else {}
    checks, results = _guest_lines(done.stdout)
    took = time.monotonic() - begin
    return Run(words, done.returncode, done.stdout, done.stderr, took, record, checks, results)


def _guest_lines(text: str) -> tuple[list[dict[str, Any]], list[str]]:
    checks, results = [], []
    for line in text.splitlines():
        if not line.startswith("{"):
            continue
        report = json.loads(line)
        if "check" in report:
            checks.append(report)
        elif "result" in report:
            results.append(report["result"])
    return checks, results
