"""A disk image whose first sector says something on the serial port and the screen: the smallest installed system."""

from __future__ import annotations

from pathlib import Path

SECTOR = 512
ORIGIN = 0x7C00
SIZE = 1 << 20

# 16-bit code. For each byte of a text: wait for the serial port, send it there, then to the screen by the BIOS.
START = bytes.fromhex("fa 31c0 8ed8 be")  # cli; ax = 0; ds = 0; si = the text's address, which follows
LOOP = bytes.fromhex(
    "ac 84c0 74 19"  # al = next byte; leave if 0
    "88c4 ba fd03 ec a820 74fb"  # ah = al; until bit 5 of port 0x3fd is set
    "88e0 ba f803 ee"  # send al to port 0x3f8
    "b40e bb 0700 cd10"  # BIOS: show al
    "eb e2"  # next
)
HALT = bytes.fromhex("f4 ebfd")  # hlt, for ever


def make(path: Path, text: str) -> Path:
    """Writes the image."""
    code = START + (ORIGIN + len(START) + 2 + len(LOOP) + len(HALT)).to_bytes(2, "little") + LOOP + HALT
    assert LOOP[4] == len(LOOP) - 5, "the way out leads behind the loop"
    assert LOOP[-1] == 256 - len(LOOP), "the way back leads to the loop's beginning"
    sector = (code + text.encode("ascii") + b"\0").ljust(SECTOR - 2, b"\0")
    assert len(sector) == SECTOR - 2
    path.write_bytes((sector + b"\x55\xaa").ljust(SIZE, b"\0"))
    return path
