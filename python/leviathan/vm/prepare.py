"""What a run needs before any node starts: QEMU, a kernel, the guest's initramfs."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from leviathan.errors import StartError, UsageError
from leviathan.launch.programs import bin_dir
from leviathan.model.complete import complete
from leviathan.model.machine import Machine
from leviathan.qemu.binary import QemuBinary, find_firmware, probe_binary
from leviathan.qemu.facts import QemuFacts, facts_for
from leviathan.rules import KernelFacts, enforce, kernel_facts
from leviathan.rules.kernel import INVALIDATION
from leviathan.vm.backing import data_directory
from leviathan.vm.direct import Direct, is_direct, plan_direct, with_our_init
from leviathan.vm.progress import Progress

if TYPE_CHECKING:
    from leviathan.images.kernel import Kernel

__all__ = ["Boot", "Work", "guest_kernel", "hides_hypervisor", "initramfs", "prepare"]


@dataclass(frozen=True, slots=True)
class Work:
    """What the guest is started for."""

    command: str | None = None
    """Run as root by our init; ``None``: a shell on the console."""
    restart_on_reboot: bool = False
    """The guest may reboot (its command runs again); otherwise a reboot, which a kernel panic is too, ends it."""


@dataclass(frozen=True, slots=True)
class Boot:
    """Everything found or built on this machine for one run."""

    qemu: QemuBinary
    kernel: Path | None
    """``None``: the machine boots from disk."""
    kernel_release: str
    initrd: bytes | None
    direct: Direct | None = None
    """For a plain machine on this host."""
    facts: QemuFacts | None = None
    """For a giant VM with CXL."""


def prepare(machine: Machine, work: Work, progress: Progress) -> Boot:
    """Finds QEMU and the kernel, builds the initramfs. Raises ``StartError``."""
    if is_direct(machine):
        return _prepare_direct(machine, work, progress)
    facts = None
    if machine.cxl is None:
        enforce(machine)
    else:
        with progress.step("asking QEMU what it can do"):
            facts = facts_for(machine)
    with progress.step("looking for QEMU"):
        qemu = probe_binary(machine.qemu)
        find_firmware(qemu)
    whole = complete(machine)
    if whole.reboot == "cold" and work.restart_on_reboot:
        raise UsageError("--reboot: a giant VM with CXL does not boot again by itself", hint="run it again")
    if not with_our_init(whole) and work.command is not None:
        why = "this one boots from disk" if whole.boot == "firmware" else "leave initrd and root= out"
        raise UsageError(f"--exec runs in a guest that boots our initramfs; {why}")
    if whole.boot == "firmware":
        _enforce_giant(machine, facts, None, progress)
        return Boot(qemu, None, "", None, facts=facts)
    with progress.step("building the guest's initramfs"), _image_errors():
        found = _kernel(machine, qemu, progress)
        _enforce_giant(machine, facts, kernel_facts(found.release, found.vmlinuz), progress)
        ours = with_our_init(whole) or machine.initrd is not None
        initrd = initramfs(machine, work, found, progress) if ours else None
        return Boot(qemu, found.vmlinuz, found.release, initrd, facts=facts)


def hides_hypervisor(release: str) -> bool:
    """Whether a guest with CXL must see no hypervisor; a kernel that is not known counts as new.

    Where it need not (Linux 6.1) it is shown, because with it Linux uses the x2APIC, one exit an access.
    """
    return not (0, 0) < KernelFacts(release).version < INVALIDATION


def _enforce_giant(machine: Machine, facts: QemuFacts | None, kernel: KernelFacts | None, progress: Progress) -> None:
    if facts is not None:
        directory = data_directory(machine.name)
        for finding in enforce(machine, qemu=facts, guest_kernel=kernel, directory=directory):
            progress.note(f"warning: {finding}")


def _prepare_direct(machine: Machine, work: Work, progress: Progress) -> Boot:
    directory = data_directory(machine.name)
    with progress.step("asking QEMU what it can do"):
        direct = plan_direct(machine, facts_for(machine), directory)
    qemu = direct.facts.binary
    if direct.machine.boot == "firmware":
        _enforce(machine, direct, None, progress)
        if work.command is not None:
            raise UsageError("--exec runs in a guest that boots our initramfs; this one boots from disk")
        return Boot(qemu, None, "", None, direct)
    if not with_our_init(direct.machine):
        if work.command is not None:
            raise UsageError("--exec runs in a guest that boots our initramfs; leave initrd and root= out")
        if machine.kernel is not None:
            return _own_system(machine, machine.kernel, direct, progress)
    with progress.step("building the guest's initramfs"), _image_errors():
        found = _kernel(direct.machine, qemu, progress)
        _enforce(machine, direct, kernel_facts(found.release, found.vmlinuz), progress)
        initrd = None
        if with_our_init(direct.machine) or machine.initrd is not None:
            initrd = initramfs(machine, work, found, progress)
        return Boot(qemu, found.vmlinuz, found.release, initrd, direct)


def _own_system(machine: Machine, image: Path, direct: Direct, progress: Progress) -> Boot:
    """A kernel of the user's without any of our files in the guest: nothing needs to be known of it."""
    from leviathan.images import kernel

    try:
        release = kernel.from_path(image).release
    except kernel.KernelError:
        # Not every image says its release in a place that we know: Arm's do not.
        release = ""
    _enforce(machine, direct, kernel_facts(release, image) if release else None, progress)
    initrd = None if machine.initrd is None else _read(machine.initrd)
    return Boot(direct.facts.binary, image, release, initrd, direct)


def _enforce(machine: Machine, direct: Direct, kernel: KernelFacts | None, progress: Progress) -> None:
    """Refuses what cannot work, before QEMU sees it; says what may disappoint."""
    for finding in enforce(machine, qemu=direct.facts, guest_kernel=kernel, directory=direct.directory):
        progress.note(f"warning: {finding}")


@contextmanager
def _image_errors() -> Iterator[None]:
    # Late: unpacking and building images is not needed to print a help page.
    from leviathan.images.base import ImageError
    from leviathan.images.kernel import KernelError

    try:
        yield
    except (ImageError, KernelError) as error:
        raise StartError(str(error), hint=error.hint or None) from error


def _kernel(machine: Machine, qemu: QemuBinary, progress: Progress) -> Kernel:
    from leviathan.images import suite

    # The suite that QEMU was taken from, else the system's own.
    home = suite.home_of(Path(qemu.path))
    return guest_kernel(machine, home.suite if home is not None else None, progress)


def guest_kernel(machine: Machine, suite_name: str | None, progress: Progress) -> Kernel:
    """The machine's kernel, else the distribution's: of another architecture that of a suite (``None``: the system's).

    Raises ``ImageError``, ``KernelError``.
    """
    from leviathan.images import cxl, kernel, suite

    if machine.kernel:
        return kernel.from_path(machine.kernel)
    architecture = ARCHITECTURES[machine.arch]
    if architecture == suite.host_architecture():
        return kernel.find(progress.note, (*GUEST_DRIVERS, *(cxl.NEEDED if machine.cxl else ())))
    return suite.kernel_of(suite.newest("kernel", suite_name, architecture, progress.note))


def initramfs(machine: Machine, work: Work, found: Kernel, progress: Progress) -> bytes:
    """The user's initramfs, or ours for a kernel. Raises ``ImageError``, ``StartError``."""
    from leviathan.images import cxl, guest

    if machine.initrd is not None:
        return _read(machine.initrd)
    architecture = ARCHITECTURES[machine.arch]
    native = machine.arch == platform.machine()
    lev_guest = bin_dir() / "lev-guest"
    tools = None
    if machine.cxl is not None or not native:
        tools = cxl.tools_for(found, architecture, progress.note)
    contents = guest.Guest(
        command=work.command,
        add=[machine.add] if machine.add else [],
        programs=[Path(program) for program in machine.programs],
        guest_program=lev_guest if native and lev_guest.is_file() else None,
        cxl_tools=tools if machine.cxl is not None else None,
        busybox=cxl.busybox_of(tools, architecture) if tools is not None else None,
    )
    return guest.build(found, contents)


GUEST_DRIVERS = ("virtio_pci", "virtio_console")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""QEMU's names of architectures, and the distribution's."""


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StartError(f"cannot read the initramfs {path}: {error.strerror}") from error
