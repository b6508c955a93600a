"""One line of the doctor's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, TextIO

__all__ = ["Finding", "print_findings"]

SCHEMA = 1
MARKS = {"ok": "ok  ", "note": "note", "fail": "FAIL"}
COLOURS = {"ok": "\033[32m", "note": "\033[33m", "fail": "\033[1;31m"}


@dataclass(frozen=True, slots=True)
class Finding:
    """A check and how it came out: ``note`` means that things work, but not in the best way."""

    check: str
    result: Literal["ok", "note", "fail"]
    reason: str
    remedy: str = ""


def print_findings(findings: Sequence[Finding], out: TextIO, *, as_json: bool = False) -> int:
    """Writes the findings; returns the exit code: 0 if nothing failed, else 1."""
    failed = [finding for finding in findings if finding.result == "fail"]
    if as_json:
        table = {"schema": SCHEMA, "ok": not failed, "checks": [asdict(finding) for finding in findings]}
        out.write(json.dumps(table, indent=2) + "\n")
        return 1 if failed else 0
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        mark = MARKS[finding.result]
        if out.isatty():
            mark = f"{COLOURS[finding.result]}{mark}\033[0m"
        out.write(f"{mark}  {finding.check:<{width}}  {finding.reason}\n")
        if finding.remedy and finding.result != "ok":
            out.write(f"{'':6}{'':<{width}}  -> {finding.remedy}\n")
    out.write("all is well\n" if not failed else f"{len(failed)} of {len(findings)} checks failed\n")
    return 1 if failed else 0
