"""The cluster file: everything that the head must know of one run, in the layout of ``crates/wire/src/cluster.rs``."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from leviathan.model.layout import homes, vcpus
from leviathan.model.machine import Machine

__all__ = ["Identity", "cluster_file", "masked", "secret_file"]

SCHEMA = 1
MASK = "*" * 64
LAB_HOLD_US = 1000
"""How long a granted page stays in the lab at least. Its processor is emulated: from the grant to the instruction that
needs the page it takes some 20 times as long as on a real one, and a page that leaves before comes in vain."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Names one run and holds the key of its node channels; never printed, never on a command line."""

    run_id: str
    secret: str

    @classmethod
    def new(cls) -> Identity:
        """A fresh one, from the system's random source."""
        return cls(secrets.token_hex(16), secrets.token_hex(32))

    def __repr__(self) -> str:
        return f"Identity(run_id={self.run_id!r}, secret=…)"


def cluster_file(
    machine: Machine,
    identity: Identity,
    workers: Sequence[str],
    *,
    pooled: bool,
    lab: bool = False,
    events: str,
    report: str,
    kept: Sequence[str] = (),
    trace: str | None = None,
) -> dict[str, Any]:
    """The description as a table.

    ``workers`` are the addresses at which nodes 1, 2, … listen; ``pooled``: they have a pool for hot pages, which the
    head makes unless it has a path. ``lab``: their processors are emulated. ``kept``: files on the head's host whose
    contents are guest memory that outlives the VM. ``trace``: where the head writes its trace when somebody wants one.
    """
    addresses = [None, *workers]
    nodes = [
        {"name": share.name, "address": address, "vcpus": list(cpus)}
        for share, address, cpus in zip(machine.shares(), addresses, vcpus(machine), strict=True)
    ]
    pool = {"path": machine.pool.path, "len": machine.pool.size} if pooled else None
    described = {
        "schema": SCHEMA,
        "run_id": identity.run_id,
        "secret": identity.secret,
        "nodes": nodes,
        "memory": [asdict(home) for home in homes(machine)],
        "pool": pool,
        "encrypt": machine.encrypt,
        "engine": _engine(machine, lab),
        "events": events,
        "report": report,
    }
    return described | ({"kept": list(kept)} if kept else {}) | ({"trace": trace} if trace else {})


def _engine(machine: Machine, lab: bool) -> dict[str, int]:
    """What differs from the engine's defaults."""
    options = machine.engine.model_dump() | {"node_memory": machine.node_memory}
    if lab and options["hold_us"] is None:
        options["hold_us"] = LAB_HOLD_US
    return {name: value for name, value in options.items() if value is not None}


def secret_file(identity: Identity, node: int) -> bytes:
    """What a worker reads from its ``--secret-file``."""
    return json.dumps({"run_id": identity.run_id, "secret": identity.secret, "node": node}).encode()


def masked(cluster: dict[str, Any]) -> dict[str, Any]:
    """The description as it may be shown."""
    return cluster | {"secret": MASK}
