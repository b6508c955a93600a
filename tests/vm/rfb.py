"""As much of a VNC viewer as it takes to see what is on a screen (RFC 6143, raw encoding)."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass


@dataclass(frozen=True)
class Screen:
    """What a server shows: its size, and the pixels, 4 bytes each."""

    width: int
    height: int
    pixels: bytes

    def colours(self) -> int:
        """How many different ones there are."""
        return len({self.pixels[at : at + 4] for at in range(0, len(self.pixels), 4)})


def look(port: int, seconds: float = 30.0) -> Screen:
    """Asks the server at a local port for the whole screen once."""
    with socket.create_connection(("127.0.0.1", port), seconds) as connection:
        connection.settimeout(seconds)
        stream = connection.makefile("rb")
        version = stream.read(12)
        assert version.startswith(b"RFB 003."), version
        connection.sendall(b"RFB 003.008\n")
        types = stream.read(stream.read(1)[0])
        assert 1 in types, "a server without a password"
        connection.sendall(b"\x01")
        assert stream.read(4) == b"\0\0\0\0"
        connection.sendall(b"\x01")
        width, height = struct.unpack(">HH", stream.read(4))
        stream.read(16)
        stream.read(*struct.unpack(">I", stream.read(4)))
        # 32 bits a pixel, true colour, little endian; the raw encoding.
        connection.sendall(struct.pack(">B3xBBBBHHHBBB3x", 0, 32, 24, 0, 1, 255, 255, 255, 16, 8, 0))
        connection.sendall(struct.pack(">BxHi", 2, 1, 0))
        connection.sendall(struct.pack(">BBHHHH", 3, 0, 0, 0, width, height))
        return _update(stream.read, width, height)


def _update(read: object, width: int, height: int) -> Screen:
    assert callable(read)
    image = bytearray(width * height * 4)
    kind, count = struct.unpack(">BxH", read(4))
    assert kind == 0, f"message {kind} in place of an update"
    for _ in range(count):
        left, top, wide, high, encoding = struct.unpack(">HHHHi", read(12))
        assert encoding == 0
        for row in range(high):
            line = read(wide * 4)
            at = ((top + row) * width + left) * 4
            image[at : at + len(line)] = line
    return Screen(width, height, bytes(image))
