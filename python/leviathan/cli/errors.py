"""Errors as users see them: what went wrong, what to do about it, an exit code; no traceback for their mistakes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from leviathan.errors import Interrupted, LeviathanError

__all__ = ["print_error", "report_errors"]


def print_error(error: LeviathanError) -> None:
    """The error and its hint on standard error; colour only on a terminal, and never as the only sign."""
    colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    red, blue, plain = ("\033[1;31m", "\033[1;36m", "\033[0m") if colour else ("", "", "")
    word = "" if isinstance(error, Interrupted) else f"{red}error:{plain} "
    print(f"{word}{error.message}", file=sys.stderr)
    if error.hint:
        print(f"{blue}hint:{plain} {error.hint}", file=sys.stderr)


def report_errors(command: Callable[[], object]) -> int:
    """Runs a command; returns the exit code. Errors that nobody foresaw keep their traceback: they are ours."""
    try:
        command()
    except LeviathanError as error:
        print_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; so shall the rest of it, and Python's own complaint at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0
