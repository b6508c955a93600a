"""Shared by all tests."""

from __future__ import annotations

import os
import signal

import pytest


def pytest_configure() -> None:
    """Ctrl-C ends what tests start, also where they are a background job: shells start those with SIGINT ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _plain_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages must not depend on the terminal or the user's settings."""
    for name in ("LEVIATHAN_BIN", "FORCE_COLOR", "PY_COLORS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
    """A last line that says what was run and what was left out, and why."""
    counts = {name: len(terminalreporter.stats.get(name, [])) for name in ("passed", "failed", "error", "skipped")}
    words = ", ".join(f"{count} {name}" for name, count in counts.items() if count or name == "passed")
    verdict = "all is well" if exitstatus == 0 else f"exit {int(exitstatus)}"
    terminalreporter.write_line(f"leviathan tests: {words}; {verdict} (CPUs: {os.cpu_count()})")
