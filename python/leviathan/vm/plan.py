"""What would be started: commands as a shell would take them, and the cluster file without its secret."""

from __future__ import annotations

import json
import shlex
import sys
from typing import Any, TextIO

from leviathan.errors import LeviathanError
from leviathan.launch.local import LocalHost
from leviathan.model.layout import vcpus
from leviathan.model.machine import Machine
from leviathan.model.sizes import format_size
from leviathan.qemu.binary import probe_binary
from leviathan.qemu.command import PORTS, HeadCommand, head_command, head_environment
from leviathan.qemu.facts import facts_for
from leviathan.qemu.render import Launch, render
from leviathan.rules import enforce, kernel_facts
from leviathan.vm.backing import data_directory, files_of, with_own_files
from leviathan.vm.cluster import Identity, cluster_file, masked
from leviathan.vm.direct import is_direct, plan_direct, with_our_init
from leviathan.vm.head import HeadFiles
from leviathan.vm.inside import inside_lab
from leviathan.vm.place import (
    GUEST_FIRMWARE,
    GUEST_INITRD,
    GUEST_KERNEL,
    NO_POOL,
    Choice,
    choose,
    has_late_cpus,
    lab_cpus,
    lab_size,
    pooled,
)
from leviathan.vm.pool import POOL_IN_LAB
from leviathan.vm.prepare import hides_hypervisor
from leviathan.vm.trace import trace_path
from leviathan.vm.workers import worker_command

__all__ = ["make_plan", "plan_direct_machine", "print_plan"]

FOLDER = "/tmp/lev-RUN"  # noqa: S108 (a name to show)


def plan_direct_machine(machine: Machine, source: str = "machine") -> dict[str, Any]:
    """The plan of a plain machine. Raises ``ConfigError`` for broken rules, ``StartError`` without QEMU.

    The command is whole: its console is the terminal. A kernel and initramfs that are only found or built by a run
    stand in capitals.
    """
    facts, directory = facts_for(machine), data_directory(machine.name)
    guest = kernel_facts(machine.kernel.name, machine.kernel) if machine.kernel else None
    # An image's name need not tell its release; its configuration does, where there is one.
    known = guest if guest is not None and guest.version > (0, 0) else None
    warnings = enforce(machine, qemu=facts, guest_kernel=known, directory=directory, source=source)
    direct = plan_direct(machine, facts, directory)
    launch = Launch(
        kernel=None if machine.kernel else "KERNEL", initrd="INITRD" if with_our_init(direct.machine) else None
    )
    return {
        "where": {"lab": False, "reason": direct.reason},
        "nodes": [{"name": machine.name, "host": "here", "vcpus": list(range(machine.cpus)), "memory": machine.memory}],
        "warnings": [f"{source}: {finding}" for finding in warnings],
        "qemu": render(machine, facts, directory, launch),
    }


def make_plan(machine: Machine, source: str = "machine") -> dict[str, Any]:
    """The plan as a table. What is only known at run time stands in capitals.

    Raises ``ConfigError`` for broken rules, ``StartError`` without QEMU.
    """
    facts = None if machine.cxl is None else facts_for(machine)
    guest = kernel_facts(machine.kernel.name, machine.kernel) if machine.kernel else None
    known = guest if guest is not None and guest.version > (0, 0) else None
    warnings = enforce(machine, qemu=facts, guest_kernel=known, directory=data_directory(machine.name), source=source)
    machine = with_own_files(machine)
    local = LocalHost()
    qemu = probe_binary(machine.qemu)
    choice = _choose(machine, local)
    shares = machine.shares()
    count = machine.lab.machines if choice.lab else 1
    hosts = [f"lab{node * count // len(shares)}" if choice.lab else local.name for node in range(len(shares))]
    bin_dir = "/usr/lib/leviathan" if choice.lab else local.bin_dir
    command = HeadCommand(
        qemu=qemu.path,
        kernel=GUEST_KERNEL if choice.lab else str(machine.kernel or "KERNEL"),
        initrd=GUEST_INITRD if choice.lab else f"{FOLDER}/initrd",
        folder=FOLDER,
        tsc_khz=0,
        late_cpus=has_late_cpus(machine),
        facts=facts,
        hide_hypervisor=hides_hypervisor(known.release if known else ""),
    )
    host = LocalHost(hosts[0])
    host.bin_dir = bin_dir
    workers = [
        worker_command(host, share.name or "", FOLDER, "127.0.0.1" if count == 1 else "ADDRESS") for share in shares[1:]
    ]
    files = HeadFiles(FOLDER)
    there = inside_lab(machine, GUEST_FIRMWARE) if choice.lab else machine
    cluster = None
    if not machine.stock:
        addresses = [f"ADDRESS{node}:PORT" for node in range(1, len(shares))]
        whole = cluster_file(
            machine,
            Identity("0" * 32, ""),
            addresses,
            pooled=pooled(machine, choice),
            lab=choice.lab,
            events=files.events,
            report=files.report,
            kept=[str(file) for file in files_of(there)],
            trace=trace_path(FOLDER, shares[0].name or ""),
        )
        cluster = masked(whole) | {"run_id": "RUN"}
    cpus, memory = lab_size(machine)
    own_cpus: list[range] = (lab_cpus(machine, cpus) if choice.lab and count == 1 else None) or [range(0)] * len(shares)
    return {
        "where": {"lab": choice.lab, "reason": choice.reason},
        "lab_machines": [{"name": f"lab{n}", "cpus": cpus, "memory": memory} for n in range(count)]
        if choice.lab
        else [],
        "nodes": [
            {"name": share.name, "host": name, "vcpus": list(own), "memory": share.memory}
            | ({"node_memory": machine.node_memory} if machine.node_memory else {})
            | ({"host_cpus": list(there)} if there else {})
            for share, name, own, there in zip(shares, hosts, vcpus(machine), own_cpus, strict=True)
        ],
        "workers": workers,
        "pipes": [f"{FOLDER}/{port}" for port in (*PORTS, "qmp", "events")],
        "cluster_file": {"path": files.cluster, "mode": "0600", "contents": cluster} if cluster else None,
        "environment": dict(head_environment(machine, bin_dir, files.cluster)),
        "warnings": [f"{source}: {finding}" for finding in warnings]
        + ([POOL_IN_LAB] if choice.lab and machine.pool.path else [])
        + ([NO_POOL] if machine.pool.enabled and not pooled(machine, choice) else []),
        "qemu": head_command(there, command),
    }


def print_plan(machine: Machine, out: TextIO, *, as_json: bool = False, source: str = "machine") -> None:
    """Writes the plan for people, every command ready for a shell, or as JSON; warnings go to standard error.

    Raises ``ConfigError`` for a machine that breaks a rule, with ``source`` as the place where it was read.
    """
    plan = plan_direct_machine(machine, source) if is_direct(machine) else make_plan(machine, source)
    for text in plan["warnings"]:
        print(f"warning: {text}", file=sys.stderr)
    if as_json:
        out.write(json.dumps(plan, indent=2) + "\n")
        return
    if is_direct(machine):
        out.write(f"# a plain QEMU on this machine: {plan['where']['reason']}\n{shlex.join(plan['qemu'])}\n")
        return
    out.write(f"# {'in lab machines' if plan['where']['lab'] else 'on this machine'}: {plan['where']['reason']}\n")
    for lab in plan["lab_machines"]:
        out.write(f"# {lab['name']}: a lab machine with {lab['cpus']} CPUs and {format_size(lab['memory'])}\n")
    for node in plan["nodes"]:
        cpus = ", ".join(map(str, node["vcpus"]))
        limit = f", keeps at most {format_size(node['node_memory'])}" if "node_memory" in node else ""
        out.write(f"# {node['name']} on {node['host']}: CPUs {cpus}; {format_size(node['memory'])}{limit}\n")
    for worker in plan["workers"]:
        out.write(shlex.join(worker) + "\n")
    if plan["cluster_file"]:
        contents = json.dumps(plan["cluster_file"]["contents"], indent=2)
        out.write(f"cat > {plan['cluster_file']['path']} <<'END'\n{contents}\nEND\n")
    out.write("mkfifo -m 600 " + " ".join(f"{pipe}.in {pipe}.out" for pipe in plan["pipes"]) + "\n")
    environment = [f"{name}={value}" for name, value in plan["environment"].items()]
    out.write(shlex.join(["env", *environment, *plan["qemu"]] if environment else plan["qemu"]) + "\n")


def _choose(machine: Machine, local: LocalHost) -> Choice:
    """Where it would run; a plan is useful even where a run would fail."""
    try:
        return choose(machine, local)
    except LeviathanError as error:
        return Choice(lab=machine.on != "native", reason=error.message)
