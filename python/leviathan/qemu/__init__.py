"""QEMU as found on the system: which one, what it can do, which command line, and talking to it."""

from leviathan.qemu.binary import QemuBinary, find_firmware, probe_binary
from leviathan.qemu.command import HeadCommand, head_command, head_environment
from leviathan.qemu.facts import QemuFacts, facts_for, probe_facts
from leviathan.qemu.render import Launch, render

__all__ = [
    "HeadCommand",
    "Launch",
    "QemuBinary",
    "QemuFacts",
    "facts_for",
    "find_firmware",
    "head_command",
    "head_environment",
    "probe_binary",
    "probe_facts",
    "render",
]
