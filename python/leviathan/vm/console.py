"""The guest's console in this terminal: raw keys in, bytes out, Ctrl-] or Ctrl-A X to leave."""

from __future__ import annotations

import os
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

__all__ = ["LEAVE_HINT", "Escape", "attach", "write_out"]

LEAVE = 0x1D
PREFIX = 0x01
LEAVE_HINT = "Ctrl-] or Ctrl-A X leaves (and ends the VM)"


class Escape:
    """Finds the keys that leave the console. Ctrl-A twice sends one Ctrl-A to the guest."""

    def __init__(self) -> None:
        self._prefixed = False

    def feed(self, keys: bytes) -> tuple[bytes, bool]:
        """What goes to the guest, and whether the user wants to leave."""
        out = bytearray()
        for key in keys:
            if self._prefixed:
                self._prefixed = False
                if key in b"xX":
                    return bytes(out), True
                out += bytes([PREFIX]) if key == PREFIX else bytes([PREFIX, key])
            elif key == LEAVE:
                return bytes(out), True
            elif key == PREFIX:
                self._prefixed = True
            else:
                out.append(key)
        return bytes(out), False


def write_out(data: bytes) -> None:
    """A sink that writes to standard output at once."""
    while data:
        data = data[os.write(sys.stdout.fileno(), data) :]


@contextmanager
def attach(send: Callable[[bytes], None], leave: Callable[[], None]) -> Iterator[None]:
    """While the block runs, keys go to ``send``; ``leave`` is called, from a thread, when the user wants to go.

    A terminal is put into raw mode and back. Without a terminal standard input is passed on until its end.
    """
    descriptor = sys.stdin.fileno()
    terminal = os.isatty(descriptor)
    wake_read, wake_write = os.pipe()

    def pump() -> None:
        import select

        escape = Escape()
        while True:
            readable, _, _ = select.select([descriptor, wake_read], [], [])
            if wake_read in readable:
                return
            try:
                keys = os.read(descriptor, 4096)
            except OSError:
                keys = b""
            if not keys:
                if terminal:
                    leave()
                return
            out, left = escape.feed(keys) if terminal else (keys, False)
            if out:
                send(out)
            if left:
                leave()
                return

    thread = threading.Thread(target=pump, name="lev-keys", daemon=True)
    before = termios.tcgetattr(descriptor) if terminal else None
    try:
        if terminal:
            tty.setraw(descriptor)
        thread.start()
        yield
    finally:
        os.write(wake_write, b"x")
        thread.join(2)
        os.close(wake_read)
        os.close(wake_write)
        if before is not None:
            # The terminal may be gone already.
            with suppress(termios.error):
                termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
