"""A plain machine on this host: one QEMU without facade, lab or workers, KVM where it runs guests, else TCG."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from leviathan.errors import UsageError
from leviathan.model.complete import complete
from leviathan.model.machine import Machine
from leviathan.qemu.command import port_arguments
from leviathan.qemu.facts import QemuFacts
from leviathan.qemu.render import Launch, render

__all__ = ["Direct", "direct_command", "is_direct", "with_our_init"]

_BASELINE = frozenset(
    {
        *("schema_version", "name", "cpus", "memory", "nodes", "kernel", "initrd", "append", "add", "programs"),
        *("qemu", "qemu_args", "on", "timeouts", "lab", "pool", "engine", "encrypt", "numa_distance"),
    }
)
"""What the baseline of the benchmarks has: CPUs, memory and a guest, like a VM over nodes."""
INIT_WORDS = {
    # With the hypervisor bit hidden, the kernel tests its timer as on real hardware, and panics if this machine was too
    # busy to run QEMU meanwhile.
    "x86_64": "panic=-1 quiet no_timer_check",
    "aarch64": "panic=-1 quiet",
}
"""Kernel words for guests that boot our init, by architecture."""
_TERMINAL = ("stdio", "mon:stdio")


@dataclass(frozen=True, slots=True)
class Direct:
    """What is known of a plain machine before it starts."""

    machine: Machine
    """With everything filled in."""
    facts: QemuFacts
    directory: Path
    """Files of the machine's own, which outlive a run."""

    @property
    def reason(self) -> str:
        """Under what it runs, and why."""
        accel = self.facts.accel(self.machine)
        if self.machine.accel != "auto":
            return f"{accel.upper()}, asked for"
        return "KVM runs guests here" if accel == "kvm" else f"TCG: {self.facts.kvm}"


def is_direct(machine: Machine) -> bool:
    """Whether a machine runs as one plain QEMU on this host.

    With ``nodes = 0`` and nothing but CPUs, memory and a guest it is the baseline of the benchmarks instead, which
    shares its place with VMs over nodes: under KVM, in a lab machine where KVM does not run here.
    """
    if not machine.stock:
        return False
    default = Machine(nodes=0)
    fields = (name for name in type(machine).model_fields if name not in _BASELINE)
    plain = any(getattr(machine, name) != getattr(default, name) for name in fields)
    if plain and machine.on == "lab":
        raise UsageError("a machine with devices of its own runs on this host alone", hint="leave --on lab out")
    return plain


def with_our_init(machine: Machine) -> bool:
    """Whether the guest boots our initramfs, which reports and runs commands."""
    return machine.boot == "kernel" and machine.initrd is None and "root=" not in f" {machine.append}"


def direct_command(
    direct: Direct, folder: str, kernel: Path | None, initrd: str | None, *, restart_on_reboot: bool
) -> list[str]:
    """QEMU's command line; the pipes of console, ports and monitor lie in ``folder``."""
    machine = direct.machine
    bus = "pci.0" if machine.machine_type == "pc" else "pcie.0"
    serial = machine.serial
    if serial and serial[0] in _TERMINAL:
        # The terminal is ours: the console is passed on to it.
        serial = serial[1:] or None
    launch = Launch(
        kernel=None if kernel is None else str(kernel),
        initrd=initrd,
        append=f"{machine.append} {INIT_WORDS[machine.arch]}".strip() if with_our_init(machine) else None,
        arguments=port_arguments(folder, bus),
        console=True,
    )
    argv = render(machine.model_copy(update={"serial": serial}), direct.facts, direct.directory, launch)
    return argv if restart_on_reboot or "-no-reboot" in argv else [*argv, "-no-reboot"]


def plan_direct(machine: Machine, facts: QemuFacts, directory: Path) -> Direct:
    """Fills in what the description leaves out."""
    return Direct(complete(machine, directory), facts, directory)
