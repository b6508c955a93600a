"""What happened in one run, as ``--json`` writes it. The layout is versioned: ``schema``."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from leviathan import __version__
from leviathan.errors import LeviathanError, UsageError
from leviathan.model.machine import Machine
from leviathan.vm.mailbox import Event
from leviathan.vm.prepare import Boot
from leviathan.vm.progress import Step

__all__ = ["Record"]

SCHEMA = 1
MAX_EVENTS = 1000


@dataclass(slots=True)
class Record:
    """Collected while a VM lives."""

    machine: Machine
    boot: Boot | None = None
    where: dict[str, Any] = field(default_factory=dict)
    nodes: list[dict[str, Any]] = field(default_factory=list)
    qemu_command: list[str] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    report: dict[str, Any] | None = None
    guest_ready_uptime: float | None = None
    """Seconds since the guest's kernel started, by its own clock, when its init was up."""
    exit_code: int | None = None
    error: dict[str, Any] | None = None

    def event(self, event: Event) -> None:
        """Keeps an event; a flood is cut off."""
        if len(self.events) < MAX_EVENTS:
            self.events.append({"source": event.source, "event": event.kind, **event.data})

    def failed(self, error: LeviathanError) -> None:
        """The run ended with an error of ours."""
        self.exit_code = error.exit_code
        self.error = {"kind": type(error).__name__, "message": error.message, "hint": error.hint}

    def as_json(self, steps: list[Step]) -> dict[str, Any]:
        """The whole, ready for ``json.dumps``; there is no secret in it."""
        boot = self.boot
        return {
            "schema": SCHEMA,
            "leviathan": __version__,
            "machine": self.machine.model_dump(mode="json", by_alias=True),
            "where": self.where,
            "nodes": self.nodes,
            "qemu": None
            if boot is None
            else {
                "path": boot.qemu.path,
                "version": boot.qemu.version_text,
                "banner": boot.qemu.banner,
                "sha256": boot.qemu.sha256,
                "command": self.qemu_command,
            },
            "kernel": None
            if boot is None or boot.kernel is None
            else {"path": str(boot.kernel), "release": boot.kernel_release},
            "steps": [asdict(step) for step in steps],
            "guest_ready_uptime": self.guest_ready_uptime,
            "report": self.report,
            "events": self.events,
            "exit_code": self.exit_code,
            "error": self.error,
        }

    def write(self, path: Path, steps: list[Step]) -> None:
        """Writes the file whole or not at all."""
        new = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            new.write_text(json.dumps(self.as_json(steps), indent=2) + "\n", encoding="utf-8")
            new.replace(path)
        except OSError as error:
            new.unlink(missing_ok=True)
            raise UsageError(f"--json: cannot write {path}: {error.strerror}") from error
