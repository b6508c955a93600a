"""Where the nodes of a VM run: on this machine, or in lab machines where KVM does not run here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from leviathan.errors import StartError, UsageError
from leviathan.launch.host import Host
from leviathan.launch.local import LocalHost, memory_free
from leviathan.model.complete import complete
from leviathan.model.layout import vcpus
from leviathan.model.machine import Machine
from leviathan.model.sizes import GIB, format_size
from leviathan.vm.direct import with_our_init
from leviathan.vm.inside import VncRelay, disk_arguments, inside_lab
from leviathan.vm.pool import check_pool
from leviathan.vm.prepare import Boot
from leviathan.vm.progress import Progress

__all__ = ["NO_POOL", "Choice", "Placement", "choose", "has_late_cpus", "lab_cpus", "lab_size", "place", "pooled"]

LAB_QEMU = "/usr/bin/qemu-system-x86_64"
LAB_BASE_MEMORY = GIB
"""For the lab machine itself, which lives in its initramfs."""
NO_POOL = (
    "lab machines share no memory, so there is no pool for hot pages: TCG does not see code that another QEMU process "
    "writes into shared memory"
)
"""Why the VM goes without a pool that was not switched off."""
MOST_LAB_CPUS = 16
"""That a lab machine has if nobody says how many."""
GUEST_KERNEL = "/guest/vmlinuz"
GUEST_INITRD = "/guest/initrd"
GUEST_FIRMWARE = "/guest/firmware"


@dataclass(frozen=True, slots=True)
class Choice:
    """Native or lab, and why."""

    lab: bool
    reason: str


@dataclass(slots=True)
class Placement:
    """A host for every node, in the order of the nodes."""

    choice: Choice
    hosts: list[Host]
    qemu: str
    """Path on the head's host, as the next two."""
    kernel: str
    initrd: str
    machine: Machine | None = None
    """The description as the head's host has to have it, where paths and places differ there."""

    @property
    def one_host(self) -> bool:
        """All nodes are on one host, so that they talk over loopback."""
        return all(host.name == self.hosts[0].name for host in self.hosts)


def choose(machine: Machine, local: LocalHost) -> Choice:
    """Where to run, by the user's word or by what this machine can do. Raises ``LaunchError``."""
    if machine.on == "lab":
        return Choice(lab=True, reason="asked for")
    facts = local.facts()
    if machine.on == "native":
        if facts.kvm is not None:
            raise StartError(f"--on native: KVM does not run guests here: {facts.kvm}", hint="use --on lab")
        return Choice(lab=False, reason="asked for")
    if facts.kvm is not None:
        return Choice(lab=True, reason=f"KVM does not run guests here ({facts.kvm})")
    if not machine.stock and facts.userfaultfd is not None:
        return Choice(lab=True, reason=f"userfaultfd is not allowed here ({facts.userfaultfd})")
    return Choice(lab=False, reason="KVM runs guests here")


def pooled(machine: Machine, choice: Choice) -> bool:
    """Whether the nodes have a pool for hot pages.

    Not between lab machines: when another QEMU process writes code into memory shared with it, TCG keeps running what
    it translated before (docs/design/0006-lab.md).
    """
    return machine.pool.enabled and not (choice.lab and machine.lab.machines > 1)


def has_late_cpus(machine: Machine) -> bool:
    """Whether the guest's init starts the workers' CPUs: a boot on all nodes drags the kernel's pages over all of them.

    Two nodes with a pool boot in half the time so, and without one hardly otherwise. Our init does it; to a guest that
    boots from its own disk it is offered, and who takes the words from the firmware's tables knows them.
    """
    whole = complete(machine)
    willing = with_our_init(whole) or whole.boot != "kernel"
    return willing and not machine.stock and len(machine.shares()) > 1


def place(
    machine: Machine,
    boot: Boot,
    choice: Choice,
    local: LocalHost,
    folder: str,
    stack: ExitStack,
    progress: Progress,
    gone: Callable[[str, str], None],
) -> Placement:
    """Makes the hosts and brings kernel and initramfs to the head's; lab machines boot here.

    What is started ends with the stack. ``gone(name, why)`` is called, from a thread, when a lab machine ends unasked.
    Raises ``StartError``.
    """
    check_pool(machine, lab=choice.lab)
    if choice.lab:
        return _place_in_lab(machine, boot, choice, local.facts().tsc_khz, stack, progress, gone)
    if machine.lab.machines > 1:
        raise UsageError("lab machines are for hosts without KVM", hint="add --on lab, or leave --lab-machines out")
    free = local.facts().memory_free
    if free < machine.memory:
        raise StartError(
            f"the guest's memory is {format_size(machine.memory)}, but {local.name} has {free >> 20} MiB free",
            hint="give it less with --memory",
        )
    initrd = ""
    if boot.initrd is not None:
        initrd = f"{folder}/initrd"
        local.put(initrd, boot.initrd)
    hosts: list[Host] = [local] * len(machine.shares())
    return Placement(choice, hosts, boot.qemu.path, str(boot.kernel or ""), initrd)


def lab_size(machine: Machine) -> tuple[int, int]:
    """CPUs and bytes of memory of each lab machine.

    Memory is taken from this machine only as it is touched, so the bound is generous: a node without a limit may
    come to hold copies of all guest memory.
    """
    count = machine.lab.machines
    copies = 1 if machine.stock or count > 1 else min(len(machine.shares()), 2)
    cxl = sum(device.capacity for device in machine.cxl.memory) if machine.cxl else 0
    guest = copies * (machine.memory + cxl)
    if machine.node_memory:
        # Rounded up: the nodes of one machine.
        nodes = -(-len(machine.shares()) // count)
        guest = min(guest, nodes * machine.node_memory)
    memory = machine.lab.memory or LAB_BASE_MEMORY + guest
    if machine.lab.cpus:
        return machine.lab.cpus, memory
    if count > 1:
        # One CPU each, so that nothing in TCG's nested virtualization can race.
        return 1, memory
    return 2 if machine.stock else min(max(machine.cpus, 2), MOST_LAB_CPUS), memory


def lab_cpus(machine: Machine, cpus: int) -> list[range] | None:
    """The CPUs of the only lab machine that each node has for itself; ``None``: too few of them, or only one node.

    A node's page tables are then used on its own CPUs only, and taking a page away interrupts no others. vCPUs that
    wait for each other never share a CPU if there is one for each.
    """
    own = vcpus(machine)
    if machine.stock or len(own) < 2 or cpus < len(own):
        return None
    if cpus == machine.cpus:
        return [range(node[0], node[-1] + 1) for node in own]
    return [range(node * cpus // len(own), (node + 1) * cpus // len(own)) for node in range(len(own))]


def _place_in_lab(
    machine: Machine,
    boot: Boot,
    choice: Choice,
    tsc_khz: int,
    stack: ExitStack,
    progress: Progress,
    gone: Callable[[str, str], None],
) -> Placement:
    # Late: only lab runs need it.
    from leviathan.images.base import ImageError
    from leviathan.images.kernel import KernelError
    from leviathan.lab import Lab, LabOptions

    count, shares = machine.lab.machines, len(machine.shares())
    if count > shares:
        raise UsageError(f"{count} lab machines for {shares} node{'s' if shares > 1 else ''}: one would be empty")
    cpus, memory = lab_size(machine)
    if (free := memory_free()) < memory * count:
        # It takes what its nodes touch, seldom all of it.
        progress.note(
            f"the nodes may come to hold {format_size(memory * count)}, and this machine has {free >> 20} MiB free: "
            "if that is used up, they are killed; a guest with less memory is safe"
        )
    system = Path(LAB_QEMU)
    if machine.pool.enabled and not pooled(machine, choice):
        progress.note(NO_POOL)
    files: dict[str, bytes | Path] = {} if boot.kernel is None else {GUEST_KERNEL: boot.kernel}
    if boot.initrd is not None:
        files[GUEST_INITRD] = boot.initrd
    if machine.firmware is not None:
        files[GUEST_FIRMWARE] = machine.firmware
    inside = inside_lab(machine, GUEST_FIRMWARE)
    options = LabOptions(
        qemu=system if system.exists() else Path(boot.qemu.path),
        inner_qemu=Path(boot.qemu.program),
        files=files,
        qemu_arguments=disk_arguments(machine),
        boot_seconds=machine.timeouts.lab,
        # TCG shows our counter. A lab machine that gets little time of ours would measure it wrong, and with it the
        # time of its guest: seconds of half the length, in which a system's services do not start.
        kernel_arguments=f"tsc_early_khz={tsc_khz}" if tsc_khz else "",
        one_thread=count == 1 and not machine.stock,
    )
    name = "booting the lab machine" if count == 1 else f"booting {count} lab machines"
    with progress.step(name):
        try:
            lab = Lab(
                count,
                cpus=cpus,
                memory=memory,
                options=options,
                on_exit=gone,
            )
            stack.enter_context(lab)
        except (ImageError, KernelError) as error:
            raise StartError(str(error), hint=error.hint or None) from error
    first = lab.hosts[0]
    if first.qemu is None:
        raise StartError("the lab machine holds no QEMU")
    # Neighbours share a lab machine when there are fewer machines than nodes.
    there = [lab.hosts[node * count // shares] for node in range(shares)]
    own = lab_cpus(machine, cpus) if count == 1 else None
    hosts: list[Host] = [host.on_cpus(cpu) for host, cpu in zip(there, own, strict=True)] if own else [*there]
    if inside.display.vnc is not None and machine.display.vnc is not None:
        stack.enter_context(VncRelay(first, inside.display.vnc, machine.display.vnc))
        progress.note(f"the guest's screen is on VNC {machine.display.vnc} of this machine")
    return Placement(
        choice,
        hosts,
        first.qemu,
        GUEST_KERNEL,
        GUEST_INITRD if boot.initrd is not None else "",
        inside,
    )
