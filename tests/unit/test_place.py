"""Which machines have a pool for hot pages, and which start their workers' CPUs late."""

from __future__ import annotations

from pathlib import Path

import pytest

from leviathan.model.machine import LabOptions, Machine, Pool
from leviathan.vm.place import Choice, has_late_cpus, pooled

LAB, NATIVE = Choice(lab=True, reason=""), Choice(lab=False, reason="")
TWO = Machine(nodes=2, cpus=2)


@pytest.mark.parametrize(
    ("machine", "choice", "expected"),
    [
        (TWO, LAB, True),
        (TWO, NATIVE, True),
        (TWO.model_copy(update={"lab": LabOptions(machines=2)}), LAB, False),
        (TWO.model_copy(update={"pool": Pool(enabled=False)}), NATIVE, False),
    ],
)
def test_lab_machines_share_no_pool(machine: Machine, choice: Choice, expected: bool) -> None:
    assert pooled(machine, choice) is expected
    assert has_late_cpus(machine)


def test_only_our_init_starts_cpus_late() -> None:
    off = {"pool": Pool(enabled=False)}
    assert has_late_cpus(TWO.model_copy(update=off))
    assert not has_late_cpus(TWO.model_copy(update=off | {"initrd": Path("/other")}))
    assert not has_late_cpus(Machine(nodes=1).model_copy(update=off))
    assert not has_late_cpus(Machine(nodes=0).model_copy(update=off))
