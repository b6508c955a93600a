"""Commands that stand around QEMU's in people's notes: what they were for, and what does it here."""

from __future__ import annotations

from collections.abc import Sequence

from leviathan.cmdline.shell import Command

__all__ = ["advice", "remark"]

KNOWN = {
    "qemu-img": "makes or converts an image: run it as it is; `lev disk create` puts a system on one, too",
    "vncviewer": "shows the screen: run it as it is, once the machine runs",
    "git": "fetches sources: a giant VM needs no kernel or QEMU of its own",
    "configure": "prepares a build: QEMU as the distribution ships it will do (a giant VM needs none of its own)",
    "update-grub": "makes the host boot another kernel: not needed",
    "reboot": "starts the host with another kernel: not needed",
    "uname": "shows the host's kernel, which may be any",
}
ARCHITECTURES = {"arm64": "arm64", "x86_64": "x86_64", "x86": "x86_64"}


def remark(command: Command) -> str:
    """What a command that is not QEMU is for."""
    if command.program != "make":
        return KNOWN.get(command.program, "is not QEMU: left out")
    if (build := _guest_kernel(command)) is not None:
        return f"builds a guest's kernel: `{build}` does it in one go"
    return "builds something: run it as it is (a giant VM needs no kernel of its own on its hosts)"


def advice(commands: Sequence[Command]) -> str:
    """For a text that has no QEMU command at all: what to do in place of what it says."""
    builds = [build for command in commands if command.program == "make" and (build := _guest_kernel(command))]
    if builds:
        return f"run {builds[0]} (nothing of this machine is changed), and give what it prints to `lev run --kernel`"
    if any("dsm" in word.lower() for command in commands for word in command.words):
        return "leave all of it out: a giant VM runs on the installed kernel and QEMU; `lev doctor` checks them"
    return "a command begins with qemu-system-x86_64 or qemu-system-aarch64, or with an option"


def _guest_kernel(command: Command) -> str | None:
    """The `lev` command for a `make` that names an architecture: that of a guest's kernel, built crosswise."""
    given = next((word.partition("=")[2] for word in command.words if word.startswith("ARCH=")), None)
    if given not in ARCHITECTURES:
        return None
    return f"lev kernel build TREE --arch {ARCHITECTURES[given]} --cxl"
