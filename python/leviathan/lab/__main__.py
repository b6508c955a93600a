"""For developers: boots a lab, runs a command in its first machine, passes its output and exit code on.

``python -m leviathan.lab [options] -- sh -c '…'``; without a command: a shell in the machine. The machine holds a
guest to boot in ``/guest/vmlinuz`` and ``/guest/initrd``, and QEMU, ``lev-node`` and the facade.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from leviathan.errors import LeviathanError
from leviathan.images import guest, kernel
from leviathan.lab.host import LabHost
from leviathan.lab.lab import DEFAULT_QEMU, Lab, LabOptions
from leviathan.launch.host import Sink
from leviathan.launch.programs import bin_dir

LEAVE = b"\x1d"
"""Ctrl-]"""


def parser() -> argparse.ArgumentParser:
    """The options."""
    new = argparse.ArgumentParser(prog="python -m leviathan.lab", description=__doc__)
    add = new.add_argument
    add("--machines", type=int, default=1, metavar="K", help="lab machines")
    add("--cpus", type=int, default=2, help="CPUs of each")
    add("--memory", type=int, default=2048, metavar="MIB", help="memory of each")
    add("--pool", type=int, default=0, metavar="MIB", help="memory shared between them, a power of two")
    add("--on", type=int, default=0, metavar="N", help="machine in which the command runs, from 0")
    add("--all", action="store_true", help="run the command in every machine at once")
    add("--qemu", type=Path, default=DEFAULT_QEMU, help="QEMU that runs the lab machines")
    add("--inner-qemu", type=Path, default=DEFAULT_QEMU, help="QEMU inside them")
    add("--bin-dir", type=Path, help="folder of lev-node, liblev_facade.so, lev-agent (and lev-guest)")
    add("--agent", type=Path, help="lev-agent, if elsewhere")
    add("--npt", choices=("0", "1"), default="1", help="nested paging in the lab's KVM")
    add("--param", action="append", default=[], metavar="MODULE=TEXT", help="parameters of a kernel module")
    add("--append", default="", help="more kernel arguments for the lab machines")
    add("--qemu-arg", action="append", default=[], help="one more argument for the QEMU of the lab machines")
    add("--put", action="append", default=[], metavar="FILE:PATH", help="a file for the machines (--put a.so:/a.so)")
    add("--program", action="append", default=[], type=Path, help="a program of this system, with its libraries")
    add("--get", action="append", default=[], metavar="PATH:FILE", help="a file to fetch when the command ended")
    add("--guest-exec", metavar="CMD", help="what the guest image runs (default: a shell on its console)")
    add("--guest-add", action="append", default=[], type=Path, metavar="DIR", help="files for the guest's root")
    add("--guest-program", action="append", default=[], type=Path, help="a program for the guest, with its libraries")
    add("--env", action="append", default=[], metavar="NAME=VALUE", help="environment of the command")
    add("--timeout", type=float, default=600, help="seconds for the command")
    add("--console-log", type=Path, metavar="DIR", help="keep the machines' consoles")
    add("--verbose", "-v", action="store_true", help="show the last console lines at the end")
    add("command", nargs=argparse.REMAINDER, help="-- PROGRAM [ARGUMENT...]")
    return new


def options(arguments: argparse.Namespace) -> LabOptions:
    """The lab's options as the command line says."""
    programs = arguments.bin_dir or bin_dir()
    found = kernel.find(_say, ["kvm_amd", "virtio_console"])
    lev_guest = programs / "lev-guest"
    image = guest.Guest(
        command=arguments.guest_exec,
        add=arguments.guest_add,
        programs=arguments.guest_program,
        guest_program=lev_guest if lev_guest.exists() else None,
    )
    files: dict[str, bytes | Path] = {"/guest/vmlinuz": found.vmlinuz, "/guest/initrd": guest.build(found, image)}
    for pair in arguments.put:
        source, target = pair.rsplit(":", 1)
        files[target] = Path(source)
    parameters = {"kvm_amd": f"npt={arguments.npt}"}
    for pair in arguments.param:
        module, text = pair.split("=", 1)
        parameters[module] = text
    return LabOptions(
        qemu=arguments.qemu,
        inner_qemu=arguments.inner_qemu,
        kernel=found,
        bin_dir=programs,
        agent=arguments.agent or programs / "lev-agent",
        files=files,
        programs=tuple(arguments.program),
        module_parameters=parameters,
        kernel_arguments=arguments.append,
        qemu_arguments=arguments.qemu_arg,
        console_log=arguments.console_log,
    )


def run(host: LabHost, arguments: argparse.Namespace, command: list[str]) -> int:
    """Runs the command in one machine."""
    process = host.spawn(command, env=dict(pair.split("=", 1) for pair in arguments.env), stdout=_to(1), stderr=_to(2))
    code = process.wait(arguments.timeout)
    if code is None:
        _say(f"{host.name}: the command did not end within {arguments.timeout:.0f} s")
        _say(host.machine.obituary())
        return 124
    for pair in arguments.get:
        path, target = pair.rsplit(":", 1)
        Path(target).write_bytes(host.get(path))
    return code if code >= 0 else 128 - code


def shell(host: LabHost) -> int:
    """An interactive shell in one machine. Ctrl-] leaves."""
    size = shutil.get_terminal_size()
    process = host.spawn(
        ["sh", "-l"], env={"TERM": os.environ.get("TERM", "linux")}, stdout=_to(1), pty=(size.lines, size.columns)
    )

    def forward() -> None:
        while (data := os.read(0, 4096)) and data != LEAVE:
            process.write(data)
        process.signal(signal.SIGHUP)

    with _raw_terminal():
        threading.Thread(target=forward, daemon=True).start()
        code = process.wait()
    return code if code is not None and code >= 0 else 0


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    if not os.isatty(0):
        yield
        return
    saved = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, saved)


def _to(descriptor: int) -> Sink:
    def sink(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]

    return sink


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run_everywhere(hosts: list[LabHost], arguments: argparse.Namespace, command: list[str]) -> int:
    """Runs the command in these machines at once; the largest exit code."""
    pool = ThreadPoolExecutor(len(hosts))
    try:
        return max(pool.map(lambda host: run(host, arguments, command), hosts))
    finally:
        # On Ctrl-C the threads end with their machines, later.
        pool.shutdown(wait=False)


def in_lab(arguments: argparse.Namespace, command: list[str]) -> int:
    """Boots the lab and runs the command or a shell in it."""
    began = time.monotonic()

    def progress(step: str) -> None:
        _say(f"[{time.monotonic() - began:6.2f}] {step}")

    lab = Lab(
        arguments.machines,
        cpus=arguments.cpus,
        memory=arguments.memory << 20,
        shared_pool_bytes=arguments.pool << 20,
        options=options(arguments),
        progress=progress,
    )
    with lab:
        if not command:
            return shell(lab.hosts[arguments.on])
        hosts = lab.hosts if arguments.all else [lab.hosts[arguments.on]]
        code = run_everywhere(hosts, arguments, command)
        progress(f"exit code {code}")
        if arguments.verbose:
            for host in hosts:
                _say(host.machine.obituary())
        return code


def main() -> int:
    """Entry point."""
    arguments = parser().parse_args()
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    # A terminal that is closed, or a `timeout`, must end the lab as Ctrl-C does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    try:
        return in_lab(arguments, command)
    except KeyboardInterrupt:
        return 130
    except LeviathanError as error:
        _say(f"error: {error}")
        if error.hint:
            _say(f"hint: {error.hint}")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
