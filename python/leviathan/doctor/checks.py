"""The checks. Each asks one question by trying it, and none changes anything."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

from leviathan import __version__
from leviathan.doctor.finding import Finding
from leviathan.errors import LeviathanError
from leviathan.launch.host import HostFacts
from leviathan.launch.local import LocalHost, memory_free
from leviathan.launch.programs import NAMES, program
from leviathan.model.sizes import GIB
from leviathan.qemu.binary import find_firmware, probe_binary

__all__ = ["examine"]

WANTED_MEMORY = 3 * GIB
"""The demo's guest and the lab machine around it."""
RUN_FOLDER = "/tmp"  # noqa: S108 (where a run keeps its private folder)


def examine(qemu: str | None = None) -> list[Finding]:
    """Runs all checks; ``qemu`` is the one to look at, if not the default."""
    groups: list[Callable[[], Iterator[Finding]]] = [
        _system,
        _python,
        _programs,
        lambda: _qemu(qemu or "qemu-system-x86_64"),
        _guest,
        _kvm,
        _resources,
    ]
    findings: list[Finding] = []
    for group in groups:
        findings += group()
    return findings


def _system() -> Iterator[Finding]:
    machine = platform.machine()
    if sys.platform != "linux" or machine != "x86_64":
        yield Finding("system", "fail", f"{sys.platform} on {machine}", "use Linux on x86-64")
    else:
        yield Finding("system", "ok", f"Linux {platform.release()} on x86-64")


def _python() -> Iterator[Finding]:
    from leviathan import _native

    if _native.version() != __version__:
        reason = f"leviathan {__version__}, but its compiled module is {_native.version()}"
        yield Finding("package", "fail", reason, "reinstall it (in a source tree: make build)")
    else:
        yield Finding("package", "ok", f"leviathan {__version__}, Python {platform.python_version()}")


def _programs() -> Iterator[Finding]:
    for name in NAMES:
        try:
            yield Finding(name, "ok", str(program(name)))
        except LeviathanError as error:
            yield Finding(name, "fail", error.message, error.hint or "")
    try:
        run = subprocess.run(
            [program("lev-node"), "--version"], capture_output=True, text=True, timeout=20, check=False
        )
    except (LeviathanError, OSError, subprocess.TimeoutExpired):
        return
    version = run.stdout.strip().rpartition(" ")[2]
    if version != __version__:
        reason = f"lev-node is {version or 'silent'}, this is {__version__}"
        yield Finding("versions", "fail", reason, "reinstall (in a source tree: make build)")


def _qemu(name: str) -> Iterator[Finding]:
    try:
        binary = probe_binary(name)
    except LeviathanError as error:
        yield Finding("QEMU", "fail", error.message, error.hint or "")
        return
    yield Finding("QEMU", "ok", f"{binary.path}: {binary.banner}")
    try:
        yield Finding("firmware", "ok", str(find_firmware(binary)))
    except LeviathanError as error:
        yield Finding("firmware", "fail", error.message, error.hint or "")


class _WouldFetchError(Exception):
    """Ends the search for a kernel before anything is downloaded."""


def _guest() -> Iterator[Finding]:
    from leviathan.images import kernel
    from leviathan.images.base import ImageError, find_busybox

    try:
        yield Finding("busybox", "ok", f"{find_busybox()}, static")
    except ImageError as error:
        yield Finding("busybox", "fail", str(error), error.hint or "")

    def stop(_step: str) -> None:
        raise _WouldFetchError

    try:
        found = kernel.find(stop, ["kvm_amd", "virtio_pci", "virtio_console"])
        yield Finding("kernel", "ok", f"{found.release} ({found.vmlinuz})")
    except _WouldFetchError:
        reason = f"none is installed; the first run fetches {kernel.META_PACKAGE} into {kernel.cache_dir()}"
        yield Finding("kernel", "note", reason, "needs the network once, no root")
    except kernel.KernelError as error:
        yield Finding("kernel", "fail", str(error), error.hint or "")


def _kvm() -> Iterator[Finding]:
    host = LocalHost()
    try:
        facts: HostFacts = host.facts()
    except LeviathanError as error:
        yield Finding("KVM", "fail", error.message, error.hint or "")
        return
    finally:
        host.close()
    if facts.kvm is None:
        yield Finding("KVM", "ok", f"ran 64-bit code; time-stamp counter at {facts.tsc_khz / 1000:.0f} MHz")
    else:
        remedy = "nothing to do: nodes run in lab machines (slower); for native speed make KVM usable"
        yield Finding("KVM", "note", facts.kvm, remedy)
    if facts.userfaultfd is None:
        yield Finding("userfaultfd", "ok", "serves kernel faults")
    else:
        remedy = (
            "only native runs need it: sysctl vm.unprivileged_userfaultfd=1, or access to /dev/userfaultfd"
            if facts.kvm is not None
            else "sysctl vm.unprivileged_userfaultfd=1, or access to /dev/userfaultfd"
        )
        yield Finding("userfaultfd", "note", facts.userfaultfd, remedy)


def _resources() -> Iterator[Finding]:
    free = memory_free()
    reason = f"{free / GIB:.1f} GiB available, {os.cpu_count()} CPUs"
    if free < WANTED_MEMORY:
        yield Finding(
            "memory", "fail", reason, f"the demo wants {WANTED_MEMORY // GIB} GiB; free some, or use --memory"
        )
    else:
        yield Finding("memory", "ok", reason)
    try:
        with socket.create_server(("127.0.0.1", 0)):
            pass
        yield Finding("loopback", "ok", "127.0.0.1 takes connections")
    except OSError as error:
        yield Finding("loopback", "fail", f"cannot listen on 127.0.0.1: {error.strerror}", "ip link set lo up")
    try:
        with tempfile.TemporaryDirectory(prefix="lev-", dir=RUN_FOLDER) as folder:
            os.mkfifo(f"{folder}/pipe")
        yield Finding(RUN_FOLDER, "ok", "named pipes can be made")
    except OSError as error:
        yield Finding(RUN_FOLDER, "fail", f"cannot make a named pipe: {error.strerror}", f"make {RUN_FOLDER} writable")
