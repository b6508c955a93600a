"""Architecture, machine type, CPU, memory and NUMA nodes."""

from __future__ import annotations

from collections.abc import Iterator

from leviathan.model.platform import cpu_numbers
from leviathan.model.sizes import format_size
from leviathan.rules.finding import Finding, error, warning
from leviathan.rules.subject import Subject

__all__ = [
    "acpi",
    "cpu_topology",
    "cxl_machine",
    "gic",
    "hypervisor_bit",
    "machine_type",
    "memory_max",
    "numa_cpus",
    "numa_distances",
    "numa_memory",
    "numa_reference",
    "warm_reset",
]

TYPES = {"x86_64": ("q35", "pc"), "aarch64": ("virt",)}
INVALIDATION_CHECK = (6, 2)
"""From this kernel on, x86 refuses regions where it sees a hypervisor."""


def machine_type(subject: Subject) -> Iterator[Finding]:
    """q35 and pc are x86 machines, virt is an Arm machine."""
    machine = subject.machine
    if machine.machine_type not in TYPES[machine.arch]:
        problem = f"{machine.arch} has no machine {machine.machine_type!r}"
        remedy = f"use {TYPES[machine.arch][0]!r}, or leave it out"
        yield error("machine-type", "machine_type", problem, remedy)


def cxl_machine(subject: Subject) -> Iterator[Finding]:
    """``pc,cxl=on`` is accepted, but pc has no PCI Express and CXL stands on it."""
    if subject.machine.cxl is not None and subject.machine.machine_type == "pc":
        problem = "pc has no PCI Express, so the guest would find no CXL"
        yield error("cxl-machine", "machine_type", problem, "use 'q35', or leave it out")


def acpi(subject: Subject) -> Iterator[Finding]:
    """CXL is announced by the ACPI tables CEDT and DSDT: ``cxl list`` then says ``no matching devices found``."""
    if subject.machine.cxl is not None and not subject.machine.acpi:
        yield error("acpi", "acpi", "without ACPI tables the guest finds no CXL", "leave it out, or set it to true")
    words = subject.machine.append.split()
    if subject.machine.cxl is not None and "acpi=off" in words:
        yield error("acpi", "append", "with acpi=off the guest finds no CXL", "take acpi=off out")


def hypervisor_bit(subject: Subject) -> Iterator[Finding]:
    """With the bit, x86 kernels fail ``create-region``: ``Failed to synchronize CPU cache state``."""
    machine = subject.machine
    shown = machine.cpu.features.get("hypervisor") in (True, "on", "true", "yes")
    if machine.cxl is None or machine.arch != "x86_64" or not shown:
        return
    problem = "a CPU that shows a hypervisor: `cxl create-region` fails (Failed to synchronize CPU cache state)"
    remedy = "leave it out: it is false for machines with CXL"
    if subject.kernel is None:
        yield warning("hypervisor-bit", "cpu.features.hypervisor", f"{problem} from kernel 6.2 on", remedy)
    elif subject.kernel.version >= INVALIDATION_CHECK and not _invalidation_test(subject):
        yield error("hypervisor-bit", "cpu.features.hypervisor", f"{problem} with {subject.kernel.release}", remedy)


def _invalidation_test(subject: Subject) -> bool:
    config = subject.kernel.config if subject.kernel else None
    return config is not None and config.get("CXL_REGION_INVALIDATION_TEST") == "y"


def warm_reset(subject: Subject) -> Iterator[Finding]:
    """After a reset inside one QEMU, devices keep their decoders: ``endpoint2 failed probe``, no memory devices."""
    if subject.machine.cxl is not None and subject.machine.reboot == "warm":
        problem = "after a warm reset CXL devices keep old state and the guest loses them (endpoint failed probe)"
        yield warning("warm-reset", "reboot", problem, "leave it out: a reboot then starts QEMU anew")


def gic(subject: Subject) -> Iterator[Finding]:
    """Only ``virt`` has an Arm interrupt controller."""
    if subject.given.gic_version != "auto" and subject.machine.machine_type != "virt":
        yield error("gic", "gic_version", f"{subject.machine.machine_type} has no GIC", "leave it out")


def cpu_topology(subject: Subject) -> Iterator[Finding]:
    """QEMU: ``product of the hierarchy must match maxcpus``."""
    cpu, cpus = subject.machine.cpu, subject.machine.cpus
    given = [number for number in (cpu.sockets, cpu.cores, cpu.threads) if number is not None]
    product = 1
    for number in given:
        product *= number
    if given and (cpus % product or (len(given) == 3 and product != cpus)):
        parts = " x ".join(
            f"{number} {name}" for name in ("sockets", "cores", "threads") if (number := getattr(cpu, name)) is not None
        )
        yield error("cpu-topology", "cpu", f"{parts} do not make {cpus} CPUs", "leave some out, or change cpus")


def memory_max(subject: Subject) -> Iterator[Finding]:
    """QEMU: ``maximum memory size must be at least the initial memory size``; without slots the room is of no use."""
    machine = subject.machine
    if machine.memory_max is None:
        if machine.memory_slots:
            remedy = "give memory_max, or leave memory_slots out"
            yield error("memory-max", "memory_slots", "slots without room for memory", remedy)
    elif machine.memory_max < machine.memory:
        problem = f"{format_size(machine.memory_max)} is less than memory = {format_size(machine.memory)}"
        yield error("memory-max", "memory_max", problem, "use more, or leave it out: CXL does not need it")
    elif not machine.memory_slots:
        remedy = "give memory_slots, or leave memory_max out"
        yield error("memory-max", "memory_max", "room for memory without slots to plug it into", remedy)


def numa_cpus(subject: Subject) -> Iterator[Finding]:
    """Every CPU belongs to one node."""
    nodes = subject.machine.numa
    if not nodes:
        return
    owner: dict[int, int] = {}
    for number, node in enumerate(nodes):
        for cpu in cpu_numbers(node.cpus):
            if cpu >= subject.machine.cpus:
                problem = f"there is no CPU {cpu}: the machine has {subject.machine.cpus}"
                yield error("numa-cpus", f"numa.{number}.cpus", problem, f"count from 0 to {subject.machine.cpus - 1}")
                break
            if cpu in owner:
                problem = f"CPU {cpu} is already in node {owner[cpu]}"
                yield error("numa-cpus", f"numa.{number}.cpus", problem, "give each CPU to one node")
                break
            owner[cpu] = number
    missing = sorted(set(range(subject.machine.cpus)) - owner.keys())
    if missing and all(cpu < subject.machine.cpus for cpu in owner):
        shown = ", ".join(map(str, missing))
        yield error("numa-cpus", "numa", f"no node has CPU {shown}", "give each CPU to one node")


def numa_memory(subject: Subject) -> Iterator[Finding]:
    """QEMU: ``total memory for NUMA nodes should equal RAM size``."""
    nodes, memory = subject.machine.numa, subject.machine.memory
    total = sum(node.memory or 0 for node in nodes)
    if nodes and total != memory:
        problem = f"the nodes have {format_size(total) if total else 'no memory'}, the machine {format_size(memory)}"
        yield error("numa-memory", "numa", problem, "make them equal")


def numa_distances(subject: Subject) -> Iterator[Finding]:
    """10 to itself, more to others, one number for each node."""
    nodes = subject.machine.numa
    given = [number for number, node in enumerate(nodes) if node.distances]
    for number in given:
        distances, field = nodes[number].distances, f"numa.{number}.distances"
        if len(distances) != len(nodes):
            problem = f"{len(distances)} distances for {len(nodes)} nodes"
            yield error("numa-distances", field, problem, "give one for each node, in their order")
        elif distances[number] != 10:
            yield error("numa-distances", field, f"{distances[number]} from a node to itself", "that is always 10")
        elif any(distance <= 10 for index, distance in enumerate(distances) if index != number):
            yield error("numa-distances", field, "10 from a node to another one", "use 11 to 255")
    if given and len(given) < len(nodes):
        missing = next(number for number in range(len(nodes)) if number not in given)
        problem = "left out, while other nodes have them"
        yield error("numa-distances", f"numa.{missing}.distances", problem, "give them to all nodes or none")


def numa_reference(subject: Subject) -> Iterator[Finding]:
    """A host bridge near a node that is not there."""
    for number, bridge in enumerate(subject.bridges):
        if bridge.numa_node is not None and bridge.numa_node >= len(subject.machine.numa):
            problem = f"there is no NUMA node {bridge.numa_node}"
            remedy = "describe it under numa, or leave it out"
            yield error("numa-reference", f"cxl.host_bridges.{number}.numa_node", problem, remedy)
