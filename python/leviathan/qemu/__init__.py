"""QEMU as found on the system: which one, which command line, and talking to it."""

from leviathan.qemu.binary import QemuBinary, find_firmware, probe_binary
from leviathan.qemu.command import HeadCommand, head_command, head_environment

__all__ = ["HeadCommand", "QemuBinary", "find_firmware", "head_command", "head_environment", "probe_binary"]
