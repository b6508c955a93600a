"""What a node's terminal says of its part of the machine, and whether the head's agrees."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from leviathan import __version__
from leviathan.cmdline.giant import Part, agree
from leviathan.errors import UsageError

__all__ = ["Hello"]


@dataclass(frozen=True, slots=True)
class Hello:
    """One node's view of the machine."""

    part: Part
    memory: int
    """Bytes of ``-m``."""
    pid: int
    version: str = __version__

    @classmethod
    def mine(cls, part: Part, memory: int) -> Hello:
        """Of this process."""
        return cls(part, memory, os.getpid())

    def as_message(self) -> dict[str, Any]:
        """Ready to be sent."""
        return {
            "version": self.version,
            "cpus": self.part.cpus,
            "start": self.part.start,
            "addresses": list(self.part.addresses),
            "memory": self.memory,
            "pid": self.pid,
        }

    @classmethod
    def read(cls, message: dict[str, Any]) -> Hello:
        """From the other end. Raises ``UsageError`` for what is none."""
        try:
            part = Part(int(message["cpus"]), int(message["start"]), tuple(str(each) for each in message["addresses"]))
            hello = cls(part, int(message["memory"]), int(message["pid"]), str(message["version"]))
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"a terminal said something else than which node it is: {error}") from None
        if part.cpus < 1 or not 0 <= part.node < part.nodes:
            raise UsageError(f"a terminal says that it is node {part.start} / {part.cpus} of {part.nodes}")
        return hello

    def check(self, other: Hello) -> None:
        """Whether another node belongs to the same machine. Raises ``UsageError`` that names the difference."""
        if other.version != self.version:
            raise UsageError(
                f"node {self.part.node} runs leviathan {self.version}, node {other.part.node} {other.version}",
                hint="use the same installation in all terminals",
            )
        agree(
            [
                (f"node {hello.part.node} (start={hello.part.start})", hello.part, hello.memory)
                for hello in (self, other)
            ]
        )
