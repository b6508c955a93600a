"""A picture of the guest's screen: QEMU's screendump is a PPM file, what people want is a PNG."""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

from leviathan.errors import LeviathanError

__all__ = ["Picture", "ScreenError", "from_ppm", "png"]

_HEADER = re.compile(rb"P6\s+(?:#[^\n]*\n\s*)*(\d+)\s+(\d+)\s+(\d+)\s")


class ScreenError(LeviathanError):
    """The guest has no screen, or QEMU wrote no picture of it."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image, 8 bits each of red, green and blue, row by row."""

    width: int
    height: int
    pixels: bytes


def from_ppm(data: bytes) -> Picture:
    """Reads a binary PPM. Raises ``ScreenError``."""
    header = _HEADER.match(data)
    if header is None:
        raise ScreenError("QEMU's screendump is no PPM picture")
    width, height, depth = (int(number) for number in header.groups())
    pixels = data[header.end() :]
    if depth != 255 or len(pixels) != width * height * 3:
        raise ScreenError(f"QEMU's screendump of {width} x {height} holds {len(pixels)} bytes of depth {depth}")
    return Picture(width, height, pixels)


def png(picture: Picture) -> bytes:
    """The picture as a PNG file."""
    stride = picture.width * 3
    # Each row begins with its filter's number: none.
    rows = b"".join(b"\0" + picture.pixels[at : at + stride] for at in range(0, len(picture.pixels), stride))
    header = struct.pack(">IIBBBBB", picture.width, picture.height, 8, 2, 0, 0, 0)
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", _chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(rows)), _chunk(b"IEND", b"")]
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
