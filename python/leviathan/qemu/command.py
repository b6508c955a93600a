"""The giant VM's QEMU command line.

One machine for every case, so that figures compare: with the facade (``nodes`` >= 1) and as baseline under the
kernel's own KVM (``nodes = 0``), which differ in the preloaded library, the interrupt controllers and the paravirtual
CPU features only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from leviathan.model.complete import complete
from leviathan.model.layout import vcpus
from leviathan.model.machine import Machine
from leviathan.model.sizes import format_size
from leviathan.qemu.cxl import cxl_arguments
from leviathan.qemu.devices import device_arguments
from leviathan.qemu.facts import QemuFacts

__all__ = [
    "HANDED_WORDS",
    "PORTS",
    "HeadCommand",
    "cpu_model",
    "head_command",
    "head_environment",
    "kernel_words",
    "port_arguments",
    "port_path",
]

PORTS = ("stdout", "stderr", "status", "control")
"""Guest ports ``org.leviathan.NAME``: a command's two streams, the init's reports, and commands to the init."""

PARAVIRTUAL = (
    "kvmclock",
    "kvm-asyncpf",
    "kvm-asyncpf-int",
    "kvm-pv-eoi",
    "kvm-steal-time",
    "kvm-pv-ipi",
    "kvm-pv-unhalt",
    "kvm-pv-tlb-flush",
    "kvm-pv-sched-yield",
)
"""Features by which a guest shares memory with one kernel's KVM: meaningless when several kernels run its CPUs."""

NOT_EMULATED = ("clwb", "erms", "fsrm")
"""Features that are left out where KVM emulates instructions on CXL memory: it knows no ``clwb``, and with fast strings
Linux copies byte by byte, an exit for each."""

BARE = ("smm", "vmport", "sata", "smbus", "i8042", "hpet")
"""Devices that a headless guest only probes: each probe is an exit, and together they were a tenth of a boot's."""


HANDED_WORDS = "leviathan.kernel="
"""What begins the SMBIOS string (type 11) that hands kernel words to a guest which boots from its own disk: its boot
loader may add them to its own, as that of disks from `lev disk create --install` does."""


PATIENT = ("systemd.default_timeout_start_sec=900", "udev.event_timeout=900")
"""For guests with a system of their own, whose limits are those of fast memory: a slow boot is no failed service."""


@dataclass(frozen=True, slots=True)
class HeadCommand:
    """What the builder must know beyond the machine; all paths are those on the head's host."""

    qemu: str
    kernel: str
    """Empty if the guest boots from disk, as the next one, which may also be empty with a kernel."""
    initrd: str
    folder: str
    """Where the pipes of the ports are."""
    tsc_khz: int = 0
    """Rate of the time-stamp counter; 0 leaves its calibration to the guest."""
    tick_hz: int = 0
    """The guest kernel's CONFIG_HZ; 0: unknown."""
    restart_on_reboot: bool = False
    """False: a reboot (a kernel panic is one) ends QEMU."""
    init_words: str = ""
    """Kernel command line words meant for our init."""
    late_cpus: bool = False
    """The kernel starts the head's CPUs only, our init the others when all else is done, because CPUs of several nodes
    slow each other's boot down (docs/design/0008-turns.md)."""
    facts: QemuFacts | None = None
    """What this QEMU can do; needed for a machine with CXL."""
    hide_hypervisor: bool = False
    """The guest's CPU shows no hypervisor: from Linux 6.2 on CXL regions are made only so."""


def cpu_model(*, facade: bool, hidden: Sequence[str] = ()) -> str:
    """The guest's CPU, without the ``hidden`` features. The baseline keeps everything that KVM offers."""
    if not facade:
        return "host"
    # No TSC deadline timer: our local APICs serve one-shot and periodic counts.
    return ",".join(["host", *(f"{name}=off" for name in (*PARAVIRTUAL, "tsc-deadline", *hidden))])


def kernel_words(machine: Machine, head: HeadCommand) -> str:
    """The kernel's command line."""
    words = ["console=ttyS0", "panic=-1", "quiet", *_machine_words(machine, head)]
    return " ".join([*words, *head.init_words.split(), *machine.append.split()])


def _machine_words(machine: Machine, head: HeadCommand) -> list[str]:
    """What the machine asks of every kernel.

    Without kvmclock the guest would calibrate its TSC by tens of thousands of port reads and fall back to the HPET
    (an exit per tick) once it distrusts it: so the rate is given, and the TSCs are in step by our doing.
    """
    # Without lastbus the kernel looks for forgotten PCI buses: 16,000 port accesses, four fifths of a boot's exits.
    # A system's udev loads drivers of ciphers, whose tests take minutes in a lab machine.
    words = ["pci=lastbus=0", "cryptomgr.notests"]
    if not machine.stock:
        # Without nokaslr the kernel may land in another node's memory, and every boot differs by thousands of faults.
        words += ["tsc=reliable", "clocksource=tsc", "no_timer_check", "nokaslr"]
        if len(machine.shares()) > 1:
            # Pages move to who uses them; the kernel would take page tables apart to do it once more.
            words.append("numa_balancing=disable")
        if head.tsc_khz:
            words.append(f"tsc_early_khz={head.tsc_khz}")
            if head.tick_hz:
                # Else each CPU of another node times its delay loop by the first one's ticks, a fault for each.
                words.append(f"lpj={head.tsc_khz * 1000 // head.tick_hz}")
    if head.late_cpus:
        # A kernel that boots on one CPU would take its lock prefixes out, and put them back for the second one.
        words += ["noreplace-smp", f"maxcpus={len(vcpus(machine)[0])}", "lev.cpus=late"]
    return words


def port_path(folder: str, port: str) -> str:
    """The pipe chardev's path: QEMU reads ``PATH.in`` and writes ``PATH.out``."""
    return f"{folder}/{port}"


def port_arguments(folder: str, bus: str | None = None) -> list[str]:
    """Console on standard input and output, the guest's ports, and the monitor; pipes for both lie in a folder."""
    argv = ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
    argv += ["-device", ",".join(["virtio-serial-pci,id=ports,max_ports=8", *([f"bus={bus}"] if bus else [])])]
    for number, port in enumerate(PORTS, start=1):
        argv += ["-chardev", f"pipe,id={port},path={port_path(folder, port)}"]
        argv += ["-device", f"virtserialport,bus=ports.0,nr={number},chardev={port},name=org.leviathan.{port}"]
    return [*argv, "-chardev", f"pipe,id=qmp,path={port_path(folder, 'qmp')}", "-mon", "chardev=qmp,mode=control"]


def head_command(machine: Machine, head: HeadCommand) -> list[str]:
    """The whole command. The console is QEMU's own standard input and output."""
    facade = not machine.stock
    whole = complete(machine)
    argv = [head.qemu, "-name", machine.name, "-nodefaults", "-no-user-config"]
    irqchip = ",kernel-irqchip=split" if facade else ""
    cxl = ",cxl=on" if whole.cxl is not None else ""
    hidden = (*(NOT_EMULATED if cxl else ()), *(("hypervisor",) if cxl and head.hide_hypervisor else ()))
    argv += ["-machine", f"q35,accel=kvm{irqchip},{_bare(whole)}{cxl}", "-cpu", cpu_model(facade=facade, hidden=hidden)]
    # One socket per CPU: KVM's vCPU ids are APIC ids, and only so do they count 0, 1, 2… for any number of CPUs.
    argv += ["-smp", f"{machine.cpus},sockets={machine.cpus},cores=1,threads=1", "-m", format_size(machine.memory)]
    if facade:
        argv += _numa(machine)
    # Beside CXL host bridges QEMU may choose one of their buses.
    argv += port_arguments(head.folder, "pcie.0" if cxl else None)
    if not head.restart_on_reboot:
        argv.append("-no-reboot")
    if whole.cxl is not None:
        assert head.facts is not None
        argv += cxl_arguments(whole.cxl, head.facts)
    argv += device_arguments(whole)
    if whole.boot == "kernel":
        initrd = ["-initrd", head.initrd] if head.initrd else []
        argv += ["-kernel", head.kernel, *initrd, "-append", kernel_words(machine, head)]
    else:
        if facade:
            words = [*_machine_words(machine, head), *PATIENT]
            argv += ["-smbios", f"type=11,value={HANDED_WORDS}{' '.join(words)}"]
        if machine.firmware is not None:
            argv += ["-bios", str(machine.firmware)]
    return [*argv, *machine.qemu_args]


def _bare(machine: Machine) -> str:
    """What is switched off; a disk on ide and a screen's keyboard need theirs."""
    needed = {"sata"} if any(disk.interface == "ide" for disk in machine.disks) else set()
    needed |= {"i8042"} if machine.display.adapter != "none" else set()
    return ",".join(f"{name}=off" for name in BARE if name not in needed)


def _numa(machine: Machine) -> list[str]:
    argv: list[str] = []
    shares = machine.shares()
    for node, (share, cpus) in enumerate(zip(shares, vcpus(machine), strict=True)):
        argv += ["-object", f"memory-backend-ram,id=mem{node},size={format_size(share.memory)}"]
        span = f"{cpus[0]}-{cpus[-1]}" if len(cpus) > 1 else f"{cpus[0]}"
        argv += ["-numa", f"node,nodeid={node},memdev=mem{node},cpus={span}"]
    for node in range(len(shares)):
        for other in range(node + 1, len(shares)):
            argv += ["-numa", f"dist,src={node},dst={other},val={machine.numa_distance}"]
    return argv


def head_environment(machine: Machine, bin_dir: str, cluster_file: str) -> Mapping[str, str]:
    """What QEMU's environment adds: the preloaded facade and where the cluster's description is."""
    if machine.stock:
        return {}
    facade = f"{bin_dir}/liblev_facade.so"
    # A QEMU of `lev images` is started by a script, through a loader of its own: the script passes LEV_FACADE on.
    return {"LD_PRELOAD": facade, "LEV_FACADE": facade, "LEV_CLUSTER": cluster_file}
