"""What depends on the QEMU at hand and the accelerator, as they answered for themselves."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from leviathan.qemu.facts import QemuFacts
from leviathan.rules.finding import Finding, error, warning
from leviathan.rules.subject import Subject

__all__ = ["accelerator", "architecture", "cpu_model", "cxl_support", "device_kinds", "network_models", "speed"]

NETWORK_CARDS = ("virtio-net-pci", "e1000", "e1000e", "igb", "rtl8139", "vmxnet3", "pcnet", "ne2k_pci", "i82559er")
CXL_SINCE = {"q35": "7.2", "virt": "10.2"}


def _newer(arch: str, suite: str = "sid") -> str:
    option = "" if arch == "x86_64" else " --arch arm64"
    return f"`lev images get qemu --suite {suite}{option}` fetches one: give its path as qemu"


def _name(qemu: QemuFacts) -> str:
    return f"QEMU {qemu.binary.version_text}"


def architecture(subject: Subject) -> Iterator[Finding]:
    """The program is for one architecture."""
    qemu = subject.qemu
    if qemu is not None and qemu.arch != subject.machine.arch:
        problem = f"{qemu.binary.path} is for {qemu.arch}, the machine is {subject.machine.arch}"
        yield error("architecture", "qemu", problem, f"use qemu-system-{subject.machine.arch}, or leave it out")


def cxl_support(subject: Subject) -> Iterator[Finding]:
    """``virt`` has CXL from QEMU 10.2 on; asked of the machine, not of the version."""
    qemu, machine = subject.qemu, subject.machine
    if qemu is None or machine.cxl is None or qemu.arch != machine.arch or machine.machine_type == "pc":
        return
    if not qemu.cxl(machine.machine_type):
        since = CXL_SINCE.get(machine.machine_type, "11.1")
        problem = f"{_name(qemu)} has no CXL for {machine.machine_type!r}; QEMU {since} and newer do"
        yield error("cxl-support", "cxl", problem, _newer(machine.arch))


def device_kinds(subject: Subject) -> Iterator[Finding]:
    """QEMU 7.2 knows persistent memory only: ``Property 'cxl-type3.volatile-memdev' not found``."""
    qemu = subject.qemu
    if qemu is None or not qemu.cxl(subject.machine.machine_type):
        return
    wanted = {"volatile": "volatile-memdev", "dynamic": "volatile-dc-memdev"}
    for path, _, field, _ in subject.backings():
        if field in wanted and not qemu.has("cxl-type3", wanted[field]):
            problem = f"{_name(qemu)} has no {field} CXL memory"
            yield error(
                "device-kind", path, problem, f"use persistent memory, or a newer QEMU: {_newer(qemu.arch, 'trixie')}"
            )
    for number, switch in enumerate(subject.cxl.switches):
        if "cxl-upstream" not in qemu.devices:
            yield error(
                "device-kind", f"cxl.switches.{number}", f"{_name(qemu)} has no CXL switches", _newer(qemu.arch)
            )
        elif switch.serial is not None and not qemu.has("cxl-upstream", "sn"):
            problem = f"switches of {_name(qemu)} have no serial number"
            yield error("device-kind", f"cxl.switches.{number}.serial", problem, "leave it out")
    for number, bridge in enumerate(subject.bridges):
        if bridge.hdm_for_passthrough and not qemu.has("pxb-cxl", "hdm_for_passthrough"):
            problem = f"host bridges of {_name(qemu)} cannot be told to; it is left out"
            remedy = "give the bridge 2 root ports: it then has decoders"
            yield warning("device-kind", f"cxl.host_bridges.{number}.hdm_for_passthrough", problem, remedy)


def accelerator(subject: Subject) -> Iterator[Finding]:
    """KVM where it runs guests of this architecture."""
    machine, qemu = subject.machine, subject.qemu
    if qemu is None:
        return
    if machine.accel == "kvm" and qemu.kvm is not None:
        problem = f"KVM does not run such guests here: {qemu.kvm}"
        yield error("accelerator", "accel", problem, "use 'tcg', or leave it out")
    elif machine.accel != "auto" and qemu.accelerators and machine.accel not in qemu.accelerators:
        problem = f"{_name(qemu)} was built without {machine.accel}"
        yield error("accelerator", "accel", problem, "leave it out")


def cpu_model(subject: Subject) -> Iterator[Finding]:
    """QEMU: ``unable to find CPU model 'x'``; ``host`` needs KVM."""
    qemu, model = subject.qemu, subject.machine.cpu.model
    if qemu is None or model is None or not qemu.cpu_models:
        return
    if model == "host":
        if subject.accel == "tcg":
            yield error("cpu-model", "cpu.model", "'host' needs KVM, and this machine runs under TCG", "use 'max'")
    elif model not in qemu.cpu_models:
        near = difflib.get_close_matches(model, qemu.cpu_models, 3)
        remedy = f"perhaps {' or '.join(near)}" if near else "see qemu-system-… -cpu help"
        yield error("cpu-model", "cpu.model", f"{_name(qemu)} has no CPU model {model!r}", remedy)


def network_models(subject: Subject) -> Iterator[Finding]:
    """QEMU: ``'x' is not a valid device model name``."""
    qemu = subject.qemu
    for number, network in enumerate(subject.machine.networks):
        if qemu is not None and qemu.lacks(network.model):
            near = difflib.get_close_matches(network.model, NETWORK_CARDS, 1)
            remedy = f"perhaps {near[0]}" if near else f"leave it out, for {NETWORK_CARDS[0]}"
            problem = f"{_name(qemu)} has no network card {network.model!r}"
            yield error("network-model", f"networks.{number}.model", problem, remedy)


def speed(subject: Subject) -> Iterator[Finding]:
    """Where a window is not RAM, each access and each instruction fetched from it walks the decoders."""
    qemu = subject.qemu
    volatile = any(field == "volatile" for _, _, field, _ in subject.backings())
    if qemu is None or not volatile or not qemu.cxl(subject.machine.machine_type):
        return
    if subject.interleaved:
        field, why = "cxl.windows", "an interleaved window is emulated, access by access"
        better = "a window with one target (QEMU 11.1 and newer map it as RAM)"
    elif not qemu.windows_as_ram:
        field, why = "cxl.memory", f"{_name(qemu)} emulates CXL memory, access by access"
        better = f"QEMU 11.1 or newer, which maps it as RAM: {_newer(qemu.arch)}"
    else:
        return
    if subject.accel == "kvm":
        problem = f"{why}: programs that run from it under KVM die (illegal instruction)"
        remedy = f"use accel = 'tcg', or the memory for data only (devdax), or {better}"
        yield warning("speed", field, problem, remedy)
    else:
        problem = f"{why}: 10 to 50 times slower than RAM"
        yield warning("speed", field, problem, f"if speed matters, use {better}")
