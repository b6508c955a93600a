"""The pool of hot pages in memory that all nodes' machines share: a file, or a DAX device of a CXL region."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from leviathan.errors import ConfigError, UsageError
from leviathan.model.machine import Machine
from leviathan.model.sizes import format_size

__all__ = ["POOL_IN_LAB", "check_pool"]

PAGE = 4096
POOL_IN_LAB = (
    "pool.path: nodes in lab machines have no pool of their own choice: TCG does not see code that another QEMU "
    "process writes into shared memory, and would go on running what it translated before"
)
"""Why a pool is refused there (docs/design/0006-lab.md)."""


def check_pool(machine: Machine, *, lab: bool, devices: Path = Path("/sys/dev/char")) -> None:
    """Checks ``pool.path`` as far as this machine can see it; the others check for themselves when they start.

    Raises ``UsageError`` in a lab, ``ConfigError`` for a pool that cannot be used. ``devices``: where the kernel
    describes its character devices.
    """
    pool = machine.pool
    if pool.path is None or machine.stock:
        return
    if not pool.enabled:
        raise ConfigError("pool.path: the pool is switched off", hint="leave path out, or enabled = false")
    if lab:
        raise UsageError(POOL_IN_LAB, hint="leave it out: one lab machine has a pool of its own, several take turns")
    try:
        found = os.stat(pool.path)
    except OSError as error:
        raise ConfigError(
            f"pool.path: {pool.path}: {error.strerror}",
            hint="a CXL region becomes a DAX device by: ndctl create-namespace -m devdax -M mem --align 4096 -r REGION",
        ) from error
    size = found.st_size
    if stat.S_ISCHR(found.st_mode):
        size = _dax_size(pool.path, devices / f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}")
    elif not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"pool.path: {pool.path} is neither a file nor a DAX device")
    if size < pool.size:
        raise ConfigError(
            f"pool.path: {pool.path} has {format_size(size)}, and pool.size is {format_size(pool.size)}",
            hint=f'set pool.size = "{format_size(size)}"' if size >= PAGE * len(machine.shares()) else None,
        )


def _dax_size(path: str, device: Path) -> int:
    """Bytes of a DAX device, by /sys (Documentation/ABI/testing/sysfs-bus-dax)."""
    try:
        size, align = (int((device / name).read_text()) for name in ("size", "align"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"pool.path: {path} is neither a file nor a DAX device") from error
    if align != PAGE:
        raise ConfigError(
            f"pool.path: {path} is mapped in units of {align} bytes, and pages of {PAGE} are needed one by one",
            hint=f"make it anew: ndctl create-namespace -f -e NAMESPACE -m devdax -M mem --align {PAGE}, "
            f"or daxctl create-device --align {PAGE}",
        )
    return size
