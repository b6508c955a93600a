"""Every CXL example under every QEMU that was unpacked from other suites (`lev images get qemu`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from qemu_takes import examples, take

from leviathan.images.suite import listed

pytestmark = pytest.mark.vm


def pairs() -> list[Any]:
    """Examples and the QEMUs for their architectures."""
    found = []
    for one in listed():
        arch = {"amd64": "x86_64", "arm64": "aarch64"}.get(one.architecture, "")
        if one.kind == "qemu" and one.path.is_file():
            name = f"{one.suite}-{one.version}"
            found += [pytest.param(path, str(one.path), id=f"{path.stem}-{name}") for path in examples(arch)]
    return found


@pytest.mark.skipif(not pairs(), reason="no other QEMU: lev images get qemu --suite trixie")
@pytest.mark.parametrize(("example", "qemu"), pairs())
def test_other_qemus_take_every_example_that_the_rules_let_through(example: Path, qemu: str, tmp_path: Path) -> None:
    take(example, qemu, tmp_path)
