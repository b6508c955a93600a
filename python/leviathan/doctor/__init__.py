"""Checks of this machine: what `lev run` needs, each with result, reason and remedy."""

from leviathan.doctor.checks import examine
from leviathan.doctor.finding import Finding, print_findings

__all__ = ["Finding", "examine", "print_findings"]
