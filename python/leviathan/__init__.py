"""Leviathan: one virtual machine out of many machines, by stock QEMU on stock Linux.

>>> import leviathan
>>> with leviathan.run(leviathan.Machine(cpus=4, memory="1G", nodes=2)) as vm:  # doctest: +SKIP
...     print(vm.run("nproc").stdout)
4
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from leviathan import _native
from leviathan.errors import LeviathanError

if TYPE_CHECKING:
    from leviathan.model import Machine, NodeShare
    from leviathan.vm.api import VM, Result, run

__all__ = ["VM", "LeviathanError", "Machine", "NodeShare", "Result", "__version__", "run"]

__version__ = _native.version()

_HOMES = {
    "Machine": "leviathan.model",
    "NodeShare": "leviathan.model",
    "VM": "leviathan.vm.api",
    "Result": "leviathan.vm.api",
    "run": "leviathan.vm.api",
}


def __getattr__(name: str) -> Any:
    """Loads the library's names when they are first used: `lev --help` must not wait for them."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(home), name)
