"""CXL examples and command lines under every QEMU that was unpacked from other suites (`lev images get qemu`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qemu_takes import examples, take, take_machine

from leviathan.cmdline.sources import from_text, import_sources
from leviathan.images.suite import listed
from leviathan.model import Machine

pytestmark = pytest.mark.vm
DATA = Path(__file__).resolve().parents[1] / "data"


def imported(path: Path) -> Machine:
    """The machine of a command line."""
    return import_sources(from_text(path.read_text(), path.name), screen=False).machine


def command_lines(arch: str) -> list[Path]:
    """Those with CXL that describe machines of an architecture."""
    paths = [*sorted(DATA.glob("cxl/*.args")), *sorted(DATA.glob("seed/cxl-*.args"))]
    return [path for path in paths if imported(path).arch == arch]


def pairs(machines: Callable[[str], list[Path]]) -> list[Any]:
    """Machines and the QEMUs for their architectures."""
    found = []
    for one in listed():
        arch = {"amd64": "x86_64", "arm64": "aarch64"}.get(one.architecture, "")
        if one.kind == "qemu" and one.path.is_file():
            name = f"{one.suite}-{one.version}"
            found += [pytest.param(path, str(one.path), id=f"{path.stem}-{name}") for path in machines(arch)]
    return found


@pytest.mark.skipif(not pairs(examples), reason="no other QEMU: lev images get qemu --suite trixie")
@pytest.mark.parametrize(("example", "qemu"), pairs(examples))
def test_other_qemus_take_every_example_that_the_rules_let_through(example: Path, qemu: str, tmp_path: Path) -> None:
    take(example, qemu, tmp_path)


@pytest.mark.skipif(not pairs(command_lines), reason="no other QEMU: lev images get qemu --suite trixie")
@pytest.mark.parametrize(("path", "qemu"), pairs(command_lines))
def test_other_qemus_take_what_command_lines_mean(path: Path, qemu: str, tmp_path: Path) -> None:
    machine = imported(path).model_copy(update={"qemu": qemu})
    assert machine.cxl is not None
    # Files that the seed names are not here.
    if machine.firmware is not None:
        machine = machine.model_copy(update={"firmware": None})
    disks = []
    for number, disk in enumerate(machine.disks):
        image = tmp_path / f"{number}.img"
        image.write_bytes(b"\0" * (1 << 20))
        disks.append(disk.model_copy(update={"file": image}))
    backings = [
        device.model_copy(
            update={
                field: backing.model_copy(update={"file": tmp_path / f"{backing.name}.raw"})
                for field, backing in device.backings()
                if backing.file is not None
            }
        )
        for device in machine.cxl.memory
    ]
    changes = {"disks": disks, "cxl": machine.cxl.model_copy(update={"memory": backings})}
    changes |= {"monitor": [], "serial": None, "boot": "kernel", "kernel": None, "initrd": None}
    take_machine(machine.model_copy(update=changes), tmp_path)
