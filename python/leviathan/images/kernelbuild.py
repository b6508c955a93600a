"""Guest kernels from the user's own tree: configuration checked and merged, built (crosswise, too), ready to boot."""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from leviathan.errors import StartError, UsageError
from leviathan.images.kernel import Progress, cache_dir
from leviathan.images.kernelconfig import ARCHITECTURES, Symbol, merged, read_config, unmet, wanted

__all__ = ["BuildError", "Built", "Order", "build", "configure"]

PREFIXES = {"arm64": "aarch64-linux-gnu-", "x86_64": "x86_64-linux-gnu-"}
PACKAGES = {"arm64": "gcc-aarch64-linux-gnu", "x86_64": "gcc-x86-64-linux-gnu"}
IMAGES = {"arm64": "arch/arm64/boot/Image", "x86_64": "arch/x86/boot/bzImage"}
TOOLS = {"make": "make", "gcc": "gcc", "flex": "flex", "bison": "bison", "bc": "bc", "perl": "perl", "ld": "binutils"}
BASES = ("defconfig", "tinyconfig", "allnoconfig")
TOLD_SECONDS = 10.0
ERROR_LINES = 8
_OBJECT = re.compile(r"^\s+([A-Z][A-Z0-9+]*)(?:\s+\[M\])?\s+(\S+)")
_FAILED = re.compile(r"\berror:|\*\*\*|undefined reference|No such file|not found")


class BuildError(StartError):
    """A kernel that cannot be configured or built."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to build."""

    tree: Path
    """Sources; not changed, unless they hold a ``.config``: then they are built in place, as their owner does."""
    architecture: str = "x86_64"
    cxl: bool = False
    base: str = "defconfig"
    """One of ``BASES``, or a configuration file; a ``.config`` that is there goes before the default."""
    out: Path | None = None
    """Where objects and results go; ``None``: a folder in the user's cache."""
    jobs: int = 0
    """At once; 0: as many as there are CPUs."""

    @property
    def objects(self) -> Path:
        """Folder in which make works."""
        if (self.tree / ".config").exists():
            return self.tree
        return self.out or cache_dir() / "built" / f"{self.tree.resolve().name}-{self.architecture}"

    @property
    def results(self) -> Path:
        """Folder laid out like a root, with ``boot`` and ``lib/modules``."""
        return (self.out or cache_dir() / "built" / f"{self.tree.resolve().name}-{self.architecture}") / "root"


@dataclass(frozen=True, slots=True)
class Built:
    """A kernel that is ready to boot."""

    vmlinuz: Path
    """For ``lev run --kernel``; its modules and configuration lie where they are looked for."""
    release: str
    left_out: tuple[Symbol, ...]
    """Symbols that would be useful, but that this kernel does not have."""
    objects: int
    """Files that were compiled or linked."""


def configure(order: Order, progress: Progress) -> tuple[Symbol, ...]:
    """Makes the configuration and checks it; returns what could not be had but is not needed. Raises ``BuildError``."""
    _check_tree(order)
    _check_tools(order)
    order.objects.mkdir(parents=True, exist_ok=True)
    file = order.objects / ".config"
    if order.base not in BASES:
        base = Path(order.base)
        if not base.is_file():
            raise UsageError(f"--config {order.base}: no such file", hint=f"or one of {', '.join(BASES)}")
        file.write_bytes(base.read_bytes())
    elif not file.exists():
        progress(f"configuring: {order.base}")
        _make(order, order.base)
    symbols = wanted(order.architecture, cxl=order.cxl)
    # A symbol may come within reach only after another one is on.
    for _ in range(3):
        missing = unmet(read_config(file), symbols)
        if not missing:
            return ()
        progress(f"configuring: {len(missing)} symbols of {len(symbols)} to turn on")
        file.write_text(merged(file.read_text(encoding="utf-8", errors="replace"), symbols), encoding="utf-8")
        _make(order, "olddefconfig")
        if unmet(read_config(file), symbols) == missing:
            break
    left = unmet(read_config(file), symbols)
    if needed := [symbol for symbol in left if symbol.needed]:
        raise BuildError(_explain(order, needed), hint="`make menuconfig` there shows what each depends on")
    return tuple(left)


def build(order: Order, progress: Progress) -> Built:
    """Configures, builds and lays out. ``progress`` gets a line per step and every ten seconds of compiling."""
    left_out = configure(order, progress)
    config = read_config(order.objects / ".config")
    modules = config.get("MODULES") == "y"
    targets = [Path(IMAGES[order.architecture]).name, *(["modules"] if modules else [])]
    progress(f"building {' and '.join(targets)} for {order.architecture}")
    objects = _compile(order, targets, progress)
    release = (order.objects / "include/config/kernel.release").read_text().strip()
    progress("installing")
    place = order.results / "lib/modules" / release
    shutil.rmtree(place, ignore_errors=True)
    if modules:
        _make(order, "modules_install", f"INSTALL_MOD_PATH={order.results}", "INSTALL_MOD_STRIP=1", "DEPMOD=true")
    (place / "kernel").mkdir(parents=True, exist_ok=True)
    if not modules and (order.objects / "modules.builtin").exists():
        shutil.copy(order.objects / "modules.builtin", place)
    boot = order.results / "boot"
    boot.mkdir(exist_ok=True)
    vmlinuz = boot / f"vmlinuz-{release}"
    shutil.copy(order.objects / IMAGES[order.architecture], vmlinuz)
    shutil.copy(order.objects / ".config", boot / f"config-{release}")
    return Built(vmlinuz, release, left_out, objects)


def _check_tree(order: Order) -> None:
    if order.architecture not in ARCHITECTURES:
        raise UsageError(f"--arch {order.architecture}: known are {', '.join(ARCHITECTURES)}")
    tree = order.tree
    if not ((tree / "Kconfig").is_file() and (tree / "Makefile").is_file() and (tree / "kernel").is_dir()):
        raise UsageError(f"{tree} is no Linux source tree: it has no Kconfig, Makefile and kernel/ at its top")
    if order.objects != tree and (tree / "include/config").is_dir():
        raise BuildError(
            f"{tree} holds objects of an earlier build in place, but no .config",
            hint=f"clean it: make -C {tree} mrproper",
        )


def _check_tools(order: Order) -> None:
    """Names all that is missing at once, with the command that installs it."""
    tools = dict(TOOLS)
    if _prefix(order):
        tools[f"{_prefix(order)}gcc"] = PACKAGES[order.architecture]
    missing = [package for tool, package in tools.items() if shutil.which(tool) is None]
    if missing:
        raise BuildError(
            f"building a kernel needs {', '.join(t for t in tools if shutil.which(t) is None)}",
            hint=f"run: sudo apt-get install {' '.join(missing)}",
        )


def _prefix(order: Order) -> str:
    """Of the cross compiler; empty on a machine of the same architecture."""
    own = {"aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return "" if own == order.architecture else PREFIXES[order.architecture]


def _command(order: Order, *targets: str) -> list[str]:
    place = [] if order.objects == order.tree else [f"O={order.objects.resolve()}"]
    cross = [f"CROSS_COMPILE={_prefix(order)}"] if _prefix(order) else []
    return ["make", "-C", str(order.tree), *place, f"ARCH={order.architecture}", *cross, *targets]


def _environment() -> dict[str, str]:
    """Without variables by which make would take other sources, options or a flavour of language."""
    dropped = ("MAKEFLAGS", "MFLAGS", "ARCH", "CROSS_COMPILE", "KBUILD_OUTPUT", "KCONFIG_CONFIG", "O")
    return {name: value for name, value in os.environ.items() if name not in dropped} | {"LC_ALL": "C"}


def _make(order: Order, *targets: str) -> None:
    done = subprocess.run(
        _command(order, *targets), capture_output=True, text=True, errors="replace", check=False, env=_environment()
    )
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()[-ERROR_LINES:]
        raise BuildError(f"make {targets[0]} failed in {order.tree}:\n" + "\n".join(f"  | {line}" for line in lines))


def _compile(order: Order, targets: Sequence[str], progress: Callable[[str], None]) -> int:
    """Runs make with its output in ``build.log``; returns how many files it made."""
    log = order.results.parent / "build.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    jobs = order.jobs or os.cpu_count() or 1
    count, told, failed = 0, time.monotonic(), list[str]()
    began = told
    with (
        log.open("w", encoding="utf-8") as out,
        subprocess.Popen(
            _command(order, f"-j{jobs}", *targets),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=_environment(),
            start_new_session=True,
        ) as make,
    ):
        assert make.stdout is not None
        try:
            for line in make.stdout:
                out.write(line)
                match = _OBJECT.match(line)
                count += match is not None
                if _FAILED.search(line) and len(failed) < ERROR_LINES:
                    failed.append(line.rstrip())
                now = time.monotonic()
                if match is not None and now - told >= TOLD_SECONDS:
                    told = now
                    progress(f"{count} files after {now - began:.0f} s: {match[2]}")
        except BaseException:
            # Make's own children, too.
            os.killpg(make.pid, signal.SIGTERM)
            raise
    if make.returncode:
        said = "\n".join(f"  | {line}" for line in failed) or "  | (no line of it says why)"
        raise BuildError(f"the kernel does not build; make said:\n{said}", hint=f"everything it said is in {log}")
    return count


def _explain(order: Order, needed: Sequence[Symbol]) -> str:
    """Each symbol that could not be turned on, and whether the tree has it at all."""
    known = _defined(order.tree)
    lines = [f"{order.tree} cannot be configured as needed:"]
    for symbol in needed:
        reason = "something that it depends on is off" if symbol.name in known else "this kernel has no such symbol"
        lines.append(f"  CONFIG_{symbol.name} ({symbol.why}): {reason}")
    return "\n".join(lines)


def _defined(tree: Path) -> set[str]:
    """All symbols that the tree's Kconfig files define."""
    names: set[str] = set()
    for path in tree.rglob("Kconfig*"):
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            names.update(re.findall(r"^\s*(?:menu)?config (\w+)", text, re.MULTILINE))
    return names
