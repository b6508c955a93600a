"""The console of a machine that `lev` runs, read and typed as a user does at a terminal."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from lev_run import lev


class Console:
    """A `lev` in the foreground; its progress goes into a file, the guest's console is ours."""

    def __init__(self, folder: Path, *words: str, name: str = "console", env: Mapping[str, str] | None = None) -> None:
        self._said = folder / f"{name}.err"
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                [lev(), *words],
                cwd=folder,
                env=os.environ | dict(env or {}),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
            )
        self.seen = b""

    def said(self) -> str:
        """Progress and errors so far."""
        return self._said.read_text(errors="replace")

    def told(self) -> str:
        """Everything needed to understand a failure."""
        return f"{self.seen[-4000:].decode(errors='replace')}\nstandard error:\n{self.said()[-4000:]}"

    def until(self, pattern: str, seconds: float, start: int = 0) -> re.Match[bytes]:
        """Reads until a pattern has come behind a place in all that was read."""
        assert self.process.stdout is not None
        end = time.monotonic() + seconds
        while (match := re.compile(pattern.encode()).search(self.seen, start)) is None:
            left = end - time.monotonic()
            assert left > 0, f"no {pattern!r} within {seconds} s:\n{self.told()}"
            if select.select([self.process.stdout], [], [], left)[0]:
                data = os.read(self.process.stdout.fileno(), 65536)
                assert data, f"the console ended without {pattern!r}:\n{self.told()}"
                self.seen += data
        return match

    def type(self, text: str) -> int:
        """Types; returns where the answer begins."""
        assert self.process.stdin is not None
        at = len(self.seen)
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()
        return at

    def end(self, seconds: float) -> int:
        """Reads to the end, so that a guest that talks is not held up; returns the exit code."""
        assert self.process.stdout is not None
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([self.process.stdout], [], [], left)[0]:
                data = os.read(self.process.stdout.fileno(), 65536)
                if not data:
                    return self.process.wait(max(end - time.monotonic(), 1))
                self.seen += data
        raise AssertionError(f"no end within {seconds} s:\n{self.told()}")

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            # In order, so that what it started ends, too.
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
