"""What is going on, on standard error: one line per step with its time. Standard output stays the command's own."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

__all__ = ["Progress", "Step"]

STILL_SECONDS = 15.0


@dataclass(slots=True)
class Step:
    """One step and how long it took."""

    name: str
    seconds: float = 0.0


class Progress:
    """Prints steps as they begin and end; remembers their times. ``stream=None``: remembers only."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._terminal = stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
        self._open: str | None = None
        self._began = 0.0
        self._told = 0.0
        self.steps: list[Step] = []
        """Finished steps, in order."""

    @classmethod
    def on_stderr(cls) -> Progress:
        """The one for command line use."""
        return cls(sys.stderr)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """A named step around a block; an exception leaves it unfinished on the screen, for the error to follow."""
        began = self._began = self._told = time.monotonic()
        self._open = name
        self._write(f"{name} …" if self._terminal else f"{name} …\n")
        try:
            yield
        except BaseException:
            self._break()
            raise
        seconds = time.monotonic() - began
        self.steps.append(Step(name, round(seconds, 3)))
        if self._terminal and self._open is not None:
            self._write(f"\r\033[K{name}  {seconds:.1f} s\n")
        elif seconds >= 1:
            self._write(f"{name}: {seconds:.1f} s\n")
        self._open = None

    def note(self, text: str) -> None:
        """A remark on a line of its own."""
        again = self._open if self._terminal else None
        self._break()
        self._write(text + "\n")
        if again is not None:
            self._open = again
            self._write(f"{again} …")

    def tick(self) -> None:
        """Called while waiting: says from time to time that the step goes on, so that there is no silence."""
        now = time.monotonic()
        if self._open is None or now - self._told < (1 if self._terminal else STILL_SECONDS):
            return
        self._told = now
        elapsed = now - self._began
        self._write(
            f"\r\033[K{self._open} … {elapsed:.0f} s" if self._terminal else f"still {self._open}: {elapsed:.0f} s\n"
        )

    def _break(self) -> None:
        if self._open is not None and self._terminal:
            self._write("\n")
        self._open = None

    def _write(self, text: str) -> None:
        if self._stream is not None:
            self._stream.write(text)
            self._stream.flush()
