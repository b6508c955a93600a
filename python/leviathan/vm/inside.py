"""A giant VM's disks and screen when its head runs in a lab machine.

Disk images stay on this machine: the lab machine has them as its own disks, and the guest's QEMU there uses those. The
screen is served in the lab machine; each viewer's connection is passed on to it.
"""

from __future__ import annotations

import re
import socket
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from leviathan.errors import LeviathanError, StartError, UsageError
from leviathan.launch.host import Host, Process
from leviathan.model.complete import complete
from leviathan.model.cxl import Cxl
from leviathan.model.machine import Machine
from leviathan.vm.backing import files_of

__all__ = ["VncRelay", "disk_arguments", "inside_lab", "vnc_place"]

FIRST_PORT = 5900
LETTERS = "abcdefghijklmnop"
_VNC = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[^:]*):(?P<number>\d{1,5})(?P<options>,.*)?")


def disk_arguments(machine: Machine) -> list[str]:
    """What the lab machine's QEMU needs to have a machine's disks and files of CXL memory, as disks, too.

    Raises ``UsageError`` if it cannot.
    """
    disks = complete(machine).disks
    files = list(files_of(machine))
    if (disks or files) and machine.lab.machines > 1:
        what = "disks" if disks else "files of CXL memory"
        raise UsageError(
            f"{what} are in one lab machine, and here nodes are in several", hint="leave --lab-machines out, or them"
        )
    if len(disks) + len(files) > len(LETTERS):
        raise UsageError(f"{len(disks)} disks and {len(files)} files: a lab machine has at most {len(LETTERS)}")
    argv: list[str] = []
    for number, disk in enumerate(disks):
        words = [f"file={str(disk.file.absolute()).replace(',', ',,')}", "if=none", f"id=guest{number}"]
        words += [f"format={disk.format}"] if disk.format != "auto" else []
        words += ["readonly=on"] if disk.readonly else []
        words += ["snapshot=on"] if disk.snapshot else []
        argv += ["-drive", ",".join(words), "-device", f"virtio-blk-pci,drive=guest{number}"]
    for number, file in enumerate(files):
        words = [f"file={str(file.absolute()).replace(',', ',,')}", "if=none", f"id=memory{number}", "format=raw"]
        argv += ["-drive", ",".join(words), "-device", f"virtio-blk-pci,drive=memory{number}"]
    return argv


def _cxl_inside(machine: Machine) -> Cxl | None:
    """The CXL part with its files as disks of the lab machine, behind those of the guest."""
    if machine.cxl is None:
        return None
    letters = iter(LETTERS[len(complete(machine).disks) :])
    memory = []
    for device in machine.cxl.memory:
        places = {
            field: backing.model_copy(update={"file": Path(f"/dev/vd{next(letters)}")})
            for field, backing in device.backings()
            if backing.kind == "file"
        }
        memory.append(device.model_copy(update=places))
    return machine.cxl.model_copy(update={"memory": memory})


def inside_lab(machine: Machine, firmware: str) -> Machine:
    """The description with the places that things have in the lab machine."""
    changes: dict[str, Any] = {
        "cxl": _cxl_inside(machine),
        "disks": [
            # The lab machine's own disk has the image's format and fate already.
            disk.model_copy(
                update={"file": Path(f"/dev/vd{letter}"), "format": "raw", "snapshot": False, "drive_options": {}}
            )
            for letter, disk in zip(LETTERS, complete(machine).disks, strict=False)
        ],
    }
    if machine.firmware is not None:
        changes["firmware"] = Path(firmware)
    if machine.display.window != "none":
        raise UsageError(
            f"display.window = {machine.display.window!r}: a guest in a lab machine opens no window here",
            hint='use vnc = ":0" and a viewer',
        )
    if machine.display.vnc is not None:
        _, number, options = vnc_place(machine.display.vnc)
        place = f"127.0.0.1:{number}{options}"
        changes["display"] = machine.display.model_copy(update={"vnc": place})
    return machine.model_copy(update=changes)


def vnc_place(text: str) -> tuple[str, int, str]:
    """Address, display number and options of ``ADDRESS:NUMBER,…``. Raises ``UsageError`` for other places."""
    match = _VNC.fullmatch(text)
    if match is None or int(match["number"]) + FIRST_PORT > 65535:
        raise UsageError(
            f"display.vnc = {text!r}: a guest in a lab machine is shown on a TCP port", hint='write ":0" (port 5900)'
        )
    return match["host"].strip("[]"), int(match["number"]), match["options"] or ""


class VncRelay:
    """A context manager: listens here and passes every connection on to the VNC server on a host."""

    def __init__(self, host: Host, inside: str, outside: str) -> None:
        self._host = host
        _, number, _ = vnc_place(inside)
        self._port = FIRST_PORT + number
        address, number, _ = vnc_place(outside)
        self._place = (address, FIRST_PORT + number)
        self._ended = False

    def __enter__(self) -> Self:
        try:
            if self._place[0]:
                family = socket.AF_INET6 if ":" in self._place[0] else socket.AF_INET
                self._server = socket.create_server(self._place, family=family)
            else:
                self._server = socket.create_server(self._place)
        except OSError as error:
            raise StartError(
                f"cannot show the guest's screen on port {self._place[1]}: {error.strerror or error}",
                hint="another VNC server may run there: use -vnc :1, for example",
            ) from error
        threading.Thread(target=self._accept, name="lev-vnc", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        while not self._ended:
            try:
                viewer, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(viewer,), name="lev-viewer", daemon=True).start()

    def _pass_on(self, viewer: socket.socket) -> None:
        def to_viewer(data: bytes) -> None:
            with suppress(OSError):
                viewer.sendall(data)

        with viewer:
            command = ["/lev/busybox", "nc", "127.0.0.1", str(self._port)]
            with suppress(OSError, LeviathanError):
                process: Process = self._host.spawn(command, stdout=to_viewer, stdin=True)
                threading.Thread(target=_end_with, args=(process, viewer), name="lev-viewer-end", daemon=True).start()
                while data := viewer.recv(1 << 16):
                    process.write(data)
                process.close_stdin()
                process.signal(15)


def _end_with(process: Process, viewer: socket.socket) -> None:
    """The server hung up: so do we."""
    with suppress(OSError, LeviathanError):
        process.wait()
    with suppress(OSError):
        viewer.shutdown(socket.SHUT_RDWR)
