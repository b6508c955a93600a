"""The command ``lev``: parse, call, print."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Entry point of the console script."""
    from leviathan.cli.app import app
    from leviathan.cli.errors import report_errors

    sys.exit(report_errors(app))
