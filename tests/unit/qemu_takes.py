"""Starts machines of the examples under a real QEMU: paused, without a guest, for as long as it takes to ask it."""

from __future__ import annotations

import json
import shlex
import subprocess
from functools import cache
from pathlib import Path

import pytest

from leviathan.model import Machine, load_machine
from leviathan.model.complete import complete
from leviathan.qemu import Launch, QemuFacts, probe_binary, probe_facts, render
from leviathan.rules import check

__all__ = ["examples", "take", "take_machine"]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def examples(arch: str) -> list[Path]:
    """CXL machines of an architecture."""
    return [path for path in sorted(EXAMPLES.glob("cxl-*.toml")) if load_machine(path).arch == arch]


@cache
def _facts(qemu: str) -> QemuFacts:
    return probe_facts(probe_binary(qemu))


def take(example: Path, qemu: str, folder: Path) -> None:
    """QEMU starts the machine without a word and has its host bridges; skips where the rules refuse it."""
    take_machine(load_machine(example, {"qemu": qemu}), folder)


def take_machine(described: Machine, folder: Path) -> None:
    """As ``take``, for a machine that is described already."""
    facts = _facts(described.qemu)
    errors = [finding for finding in check(described, qemu=facts, directory=folder) if finding.severity == "error"]
    if errors:
        pytest.skip(f"refused: {errors[0]}")
    # Without a guest, without KVM, and without ports that another program may have.
    changes = {"kernel": None, "initrd": None, "networks": [], "accel": "tcg"}
    described = complete(described.model_copy(update=changes), folder)
    argv = render(described, facts, folder, Launch(arguments=["-qmp", "stdio"], console=True, paused=True))
    commands = [{"execute": name} for name in ("qmp_capabilities", "query-pci", "quit")]
    text = "".join(json.dumps(command) + "\n" for command in commands)
    run = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=50, check=False)
    assert (run.returncode, run.stderr) == (0, ""), shlex.join(argv)
    devices = {
        device["qdev_id"]
        for line in run.stdout.splitlines()
        for bus in (json.loads(line).get("return") or [])
        for device in bus["devices"]
    }
    assert described.cxl is not None
    assert {bridge.name for bridge in described.cxl.host_bridges or []} <= devices
