"""Signals that ask us to stop become an exception in the main thread, so that every ``with`` cleans up."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from leviathan.errors import Interrupted

__all__ = ["stop_signals"]

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "a closed terminal (SIGHUP)"}


@contextmanager
def stop_signals() -> Iterator[None]:
    """While the block runs, Ctrl-C, SIGTERM and SIGHUP raise ``Interrupted`` once; later ones are ignored.

    Only the first one raises, because the clean-up that it starts must not be interrupted; that has its own limits.
    Outside the main thread nothing changes, as Python delivers signals there only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: FrameType | None) -> None:
        for each in NAMES:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number, NAMES[signal.Signals(number)])

    # nohup and background jobs of a shell have some of them ignored on purpose: leave those so.
    before = {number: signal.getsignal(number) for number in NAMES}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
