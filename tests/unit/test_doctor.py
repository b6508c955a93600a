"""The doctor: results, remedies, exit codes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from leviathan.doctor import Finding, examine, print_findings
from leviathan.launch.host import HostFacts
from leviathan.launch.local import LocalHost

CHECKS = ["system", "package", "lev-node", "liblev_facade.so", "lev-agent", "lev-guest", "QEMU", "firmware"]
CHECKS += ["busybox", "kernel", "KVM", "userfaultfd", "memory", "loopback", "/tmp"]


def facts(kvm: str | None, userfaultfd: str | None) -> HostFacts:
    return HostFacts(kvm, userfaultfd, 2, 1 << 33, 2_000_000, "GenuineIntel", "6.1")


def programs(folder: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    for name in ("lev-node", "lev-agent", "lev-guest", "liblev_facade.so"):
        (folder / name).write_text(f"#!/bin/sh\necho {name} {version}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("LEVIATHAN_BIN", str(folder))


def by_check(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


def test_every_check_answers_with_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from leviathan import __version__

    programs(tmp_path, monkeypatch, __version__)
    monkeypatch.setattr(LocalHost, "facts", lambda self: facts(None, None))
    found = by_check(examine())
    assert [name for name in CHECKS if name not in found] == []
    assert all(finding.reason for finding in found.values())
    assert found["KVM"].result == found["userfaultfd"].result == "ok"
    assert all(finding.remedy for finding in found.values() if finding.result == "fail")


def test_no_kvm_is_no_failure_because_there_is_the_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(tmp_path, monkeypatch, "0.0.1")
    monkeypatch.setattr(LocalHost, "facts", lambda self: facts("no /dev/kvm", "not permitted"))
    found = by_check(examine())
    assert (found["KVM"].result, found["KVM"].reason) == ("note", "no /dev/kvm")
    assert "lab" in found["KVM"].remedy
    assert found["userfaultfd"].result == "note"
    assert found["versions"].result == "fail"
    assert "lev-node is 0.0.1" in found["versions"].reason


def test_what_is_missing_fails_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEVIATHAN_BIN", str(tmp_path))
    found = by_check(examine("/nowhere/qemu"))
    assert found["lev-node"].result == found["QEMU"].result == found["KVM"].result == "fail"
    assert "make build" in found["lev-node"].remedy
    assert "apt-get install" in found["QEMU"].remedy
    assert "firmware" not in found


def test_the_exit_code_says_whether_something_failed() -> None:
    good, note = Finding("a", "ok", "fine"), Finding("bb", "note", "slow", "do this")
    bad = Finding("ccc", "fail", "broken", "do that")
    out = io.StringIO()
    assert print_findings([good, note], out) == 0
    assert out.getvalue().splitlines() == ["ok    a   fine", "note  bb  slow", "          -> do this", "all is well"]
    out = io.StringIO()
    assert print_findings([good, bad], out) == 1
    assert "-> do that" in out.getvalue()
    assert out.getvalue().endswith("1 of 2 checks failed\n")


def test_the_json_form_holds_the_same() -> None:
    out = io.StringIO()
    assert print_findings([Finding("a", "fail", "r", "m")], out, as_json=True) == 1
    table = json.loads(out.getvalue())
    assert table == {
        "schema": 1,
        "ok": False,
        "checks": [{"check": "a", "result": "fail", "reason": "r", "remedy": "m"}],
    }
