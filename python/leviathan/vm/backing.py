"""Files of a machine's own that outlive its runs: where they are, and that no two machines use them at once."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from leviathan.errors import StartError
from leviathan.model.complete import complete_cxl
from leviathan.model.cxl import CxlMemory
from leviathan.model.machine import Machine

__all__ = ["data_directory", "files_of", "held", "lasting_files", "with_own_files"]


def data_directory(name: str) -> Path:
    """``$XDG_STATE_HOME/leviathan/machines/NAME``: what a machine of this name stores for its next run. Not made."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(base, "leviathan/machines", name)


def lasting_files(machine: Machine) -> list[tuple[Path, int]]:
    """Files of persistent memory and labels of a completed machine, with their sizes in bytes."""
    found = []
    for device in machine.cxl.memory if machine.cxl else []:
        for field, backing in device.backings():
            if field in ("persistent", "labels") and backing.kind == "file" and backing.file is not None:
                found.append((backing.file, backing.size))
    return found


def with_own_files(machine: Machine) -> Machine:
    """A giant VM with the CXL part filled in, its files in the VM's own directory; others as they are."""
    if machine.stock or machine.cxl is None:
        return machine
    cxl = complete_cxl(machine.cxl, data_directory(machine.name))
    return machine.model_copy(update={"cxl": cxl.model_copy(update={"memory": [_private(d) for d in cxl.memory]})})


def _private(device: CxlMemory) -> CxlMemory:
    """Memory without a file is nobody else's: private, like the rest of a giant VM's."""
    changes = {
        name: each.model_copy(update={"shared": False}) for name, each in device.backings() if each.kind == "ram"
    }
    return device.model_copy(update=changes)


def files_of(machine: Machine) -> Iterator[Path]:
    """All files behind CXL devices of a completed machine, in the order of the devices."""
    for device in machine.cxl.memory if machine.cxl else []:
        for _, backing in device.backings():
            if backing.kind == "file" and backing.file is not None:
                yield backing.file


@contextmanager
def held(machine: Machine, directory: Path) -> Iterator[None]:
    """Makes the lasting files that are missing and keeps other machines of ours from them while the block runs.

    QEMU itself locks disk images, but not the files of memory: two machines would overwrite each other's data.
    """
    with ExitStack() as stack:
        if any(file.parent == directory for file in files_of(machine)):
            try:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise StartError(f"cannot make {directory}: {error.strerror}", hint="set XDG_STATE_HOME") from error
        for file, size in lasting_files(machine):
            try:
                descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise StartError(f"cannot open {file}: {error.strerror}") from error
            stack.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StartError(
                    f"{file} is in use by another machine that runs",
                    hint="stop that one, or give this one a name of its own: --set name=NAME",
                ) from error
            if os.fstat(descriptor).st_size == 0:
                # Sparse: takes room as the guest writes.
                os.ftruncate(descriptor, size)
        yield
