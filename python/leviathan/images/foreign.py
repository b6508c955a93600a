"""Whether programs of another architecture run here, as they do once ``qemu-user-static`` is installed."""

from __future__ import annotations

import struct
import subprocess
import tempfile
from pathlib import Path

__all__ = ["runs"]

EXITS = {
    # mov x0, #0; mov x8, #93 (exit); svc #0
    "arm64": (183, struct.pack("<3I", 0xD280_0000, 0xD280_0BA8, 0xD400_0001)),
    # xor edi, edi; mov eax, 60 (exit); syscall
    "amd64": (62, bytes.fromhex("31ff b83c000000 0f05")),
}
"""Per architecture: its number in ELF, and the machine code of a program that does nothing but succeed."""
BASE = 0x40_0000
HEADERS = 64 + 56
ANSWER_SECONDS = 10.0


def runs(architecture: str) -> bool:
    """Runs the smallest program of that architecture: there are many ways to make it run, and this tells for all."""
    with tempfile.TemporaryDirectory(prefix="lev-") as folder:
        path = Path(folder, "exit")
        # Written by another process: a fork elsewhere in this one could hold the file open, and it would be "busy".
        path.touch(mode=0o700)
        subprocess.run(["tee", path], input=_program(architecture), stdout=subprocess.DEVNULL, check=True)
        try:
            return subprocess.run([path], check=False, timeout=ANSWER_SECONDS).returncode == 0
        except (OSError, subprocess.TimeoutExpired):
            return False


def _program(architecture: str) -> bytes:
    """An ELF file for 64 bits, little endian, with one segment that holds all of it."""
    number, code = EXITS[architecture]
    size = HEADERS + len(code)
    identity = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header = struct.pack("<HHIQQQIHHHHHH", 2, number, 1, BASE + HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, BASE, BASE, size, size, 0x1000)
    return identity + header + segment + code
