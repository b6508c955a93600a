"""Every error that a user can meet: a message, a hint at what to do about it, and the exit code of ``lev``.

Exit codes above 121 say that the infrastructure failed, not the command in the guest, whose own code is passed on.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "GuestDied",
    "Interrupted",
    "LaunchError",
    "LeviathanError",
    "NodeLost",
    "StartError",
    "TimeOver",
    "UsageError",
]


class LeviathanError(Exception):
    """Base of all errors raised on purpose. ``str(error)`` is the message alone."""

    exit_code: int = 125

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        """What the user can do about it, one line, or ``None``."""


class UsageError(LeviathanError):
    """The command line asks for something that cannot be."""

    exit_code = 2


class ConfigError(UsageError):
    """A machine description is wrong; the message names file and field."""


class StartError(LeviathanError):
    """The VM could not be started: a bad environment, a missing program, a node that refused."""

    exit_code = 125


class LaunchError(StartError):
    """A program could not be started on a node."""


class TimeOver(LeviathanError):
    """A wait reached its limit; the message says what was waited for."""

    exit_code = 124


class NodeLost(LeviathanError):
    """A node died or was cut off while the VM ran; the message names it."""

    exit_code = 123


class GuestDied(LeviathanError):
    """The guest or QEMU ended before the work was done."""

    exit_code = 122


class Interrupted(LeviathanError):
    """A signal asked to stop; everything has been cleaned up."""

    def __init__(self, signal_number: int, name: str) -> None:
        super().__init__(f"stopped by {name}")
        self.exit_code = 128 + signal_number
