"""A lab: one or several lab machines with a network and shared memory between them."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from leviathan.errors import LaunchError, StartError
from leviathan.images import kernel as kernels
from leviathan.images import labimage
from leviathan.images.kernel import Kernel
from leviathan.lab.channel import ChannelLost, Reply
from leviathan.lab.host import LabHost
from leviathan.lab.machine import LabMachine, MachineSpec, Nic
from leviathan.launch.programs import bin_dir, program

__all__ = ["Lab", "LabOptions"]

DEFAULT_QEMU = Path("/usr/bin/qemu-system-x86_64")
NETWORK = "10.87.0"
MAX_MACHINES = 16
MIN_POOL = 4096


@dataclass(frozen=True, slots=True)
class LabOptions:
    """What lab machines are made of and hold."""

    qemu: Path = DEFAULT_QEMU
    """Runs the lab machines."""
    inner_qemu: Path | None = DEFAULT_QEMU
    """Goes into the lab machines with its libraries and firmware."""
    kernel: Kernel | None = None
    """Kernel of the lab machines; ``None``: an installed one, or the distribution's, fetched."""
    bin_dir: Path | None = None
    """Folder of ``lev-node`` and ``liblev_facade.so``; ``None``: this installation's."""
    agent: Path | None = None
    files: Mapping[str, bytes | Path] = field(default_factory=dict)
    """Files by their absolute path in every machine (guest kernel and image, for instance)."""
    programs: tuple[Path, ...] = ()
    """Programs of this system to bring along, with their libraries."""
    module_parameters: Mapping[str, str] = field(default_factory=lambda: {"kvm_amd": "npt=1"})
    modules: Sequence[str] = ()
    """More drivers of the lab machines' kernel, loaded at their start."""
    kernel_arguments: str = ""
    one_thread: bool = False
    """Run all CPUs of a machine in turn on one thread of ours. With a thread each, TCG's nested paging now and then
    shuts guests down, or crashes the lab machine's own kernel, when vCPUs interrupt each other often; stock QEMU, which
    kicks its vCPUs less, hung in machines of one thread. Never with shared memory: one thread does locked instructions
    in pieces, which another machine sees."""
    qemu_arguments: Sequence[str] = ()
    console_log: Path | None = None
    """Folder for the consoles, one file per machine; ``None``: only the last lines are kept."""
    boot_seconds: float = 120.0
    """Limit for a machine's agent to answer."""


class Lab:
    """A context manager: lab machines boot on entry and are gone on exit, without a trace.

    ``on_exit(name, obituary)`` is called from a thread as soon as a machine ends unasked.
    """

    def __init__(
        self,
        machines: int = 1,
        *,
        cpus: int = 2,
        memory: int = 2 << 30,
        shared_pool_bytes: int = 0,
        options: LabOptions | None = None,
        progress: Callable[[str], None] = lambda step: None,
        on_exit: Callable[[str, str], None] | None = None,
    ) -> None:
        if not 1 <= machines <= MAX_MACHINES:
            raise StartError(f"{machines} lab machines; there can be 1 to {MAX_MACHINES}")
        if shared_pool_bytes and (shared_pool_bytes < MIN_POOL or shared_pool_bytes & (shared_pool_bytes - 1)):
            raise StartError(
                f"a shared pool of {shared_pool_bytes} bytes; it must be a power of two, {MIN_POOL} or more"
            )
        self.options = options or LabOptions()
        self.hosts: list[LabHost] = []
        self.boot_seconds: dict[str, float] = {}
        """Per machine: from the start of QEMU to the agent's answer."""
        self._count, self._cpus, self._memory = machines, cpus, memory
        self._pool_bytes = shared_pool_bytes
        self._progress = progress
        self._on_exit = on_exit
        self._machines: list[LabMachine] = []

    def __enter__(self) -> Self:
        try:
            self._boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends every machine at once."""
        machines, self._machines = self._machines, []
        for machine in machines:
            machine.stop()

    def _boot(self) -> None:
        options = self.options
        agent = options.agent or program("lev-agent")
        if not options.qemu.exists():
            raise StartError(f"{options.qemu} is missing", hint="run: sudo apt-get install qemu-system-x86")
        kernel = options.kernel or kernels.find(self._progress, ["kvm_amd", "virtio_console"])
        self._progress("building the lab image")
        built = labimage.build(
            kernel,
            labimage.LabImage(
                agent=agent,
                bin_dir=options.bin_dir or bin_dir(),
                qemu=options.inner_qemu,
                module_parameters=options.module_parameters,
                files=options.files,
                programs=options.programs,
                modules=options.modules,
            ),
        )
        with contextlib.ExitStack() as stack:
            image = _memory_file(stack, "lab-image")
            with os.fdopen(os.dup(image), "wb") as file:
                file.writelines(built.archive.chunks())
            pool = None
            if self._pool_bytes:
                pool = (_memory_file(stack, "lab-pool"), self._pool_bytes)
                os.ftruncate(*pool)
            nics = self._network(stack)
            self._progress(f"booting {self._count} lab machine{'s' * (self._count > 1)}")
            waiting: list[tuple[LabHost, Future[Reply]]] = []
            for index in range(self._count):
                spec = MachineSpec(
                    name=f"lab{index}",
                    qemu=options.qemu,
                    guard=agent,
                    kernel=kernel.vmlinuz,
                    image=image,
                    cpus=self._cpus,
                    memory=self._memory,
                    nics=nics[index],
                    pool=pool,
                    kernel_arguments=options.kernel_arguments,
                    one_thread=options.one_thread,
                    extra=options.qemu_arguments,
                )
                log = options.console_log / f"{spec.name}.console" if options.console_log else None
                machine = LabMachine(spec, self._ended, log)
                self._machines.append(machine)
                host = LabHost(machine, f"{NETWORK}.{index + 1}" if self._count > 1 else "127.0.0.1", built.qemu)
                waiting.append((host, machine.channel.begin("info", {})[1]))
            # Every machine has its own copies of the descriptors by now, or opens them before its agent answers.
            for host, reply in waiting:
                self._await(host, reply)

    def _await(self, host: LabHost, reply: Future[Reply]) -> None:
        machine = host.machine
        left = machine.started + self.options.boot_seconds - time.monotonic()
        try:
            machine.channel.finish("its first call", reply, max(left, 0.0))
        except ChannelLost:
            raise
        except LaunchError as error:
            seconds = self.options.boot_seconds
            text = f"the agent of {host.name} did not answer within {seconds:.0f} s; {machine.obituary()}"
            raise LaunchError(text, hint="a busy machine needs more time: raise the limit for the lab") from error
        took = time.monotonic() - machine.started
        self.boot_seconds[host.name] = took
        self._progress(f"{host.name} is up ({took:.1f} s)")
        self.hosts.append(host)

    def _ended(self, machine: LabMachine) -> None:
        if self._on_exit:
            self._on_exit(machine.name, machine.obituary())

    def _network(self, stack: contextlib.ExitStack) -> list[list[Nic]]:
        """A cable between every two machines."""
        nics: list[list[Nic]] = [[] for _ in range(self._count)]
        for one, other in itertools.combinations(range(self._count), 2):
            ends = socket.socketpair()
            for index, peer, end in ((one, other, ends[0]), (other, one, ends[1])):
                stack.enter_context(end)
                nics[index].append(Nic(index + 1, peer + 1, end.fileno()))
        return nics


def _memory_file(stack: contextlib.ExitStack, name: str) -> int:
    descriptor = os.memfd_create(name)
    stack.callback(os.close, descriptor)
    return descriptor
