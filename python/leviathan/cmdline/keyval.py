"""QEMU's comma lists: ``q35,cxl=on,path=a,,b``.

Pairs are split at single commas; a doubled comma is one in a value. The first word may stand without its key (``q35``
is ``type=q35``), later bare words are switches (``server`` is ``server=on``, ``nowait`` is ``wait=off``). Order and
repetitions are kept, as QEMU lets the last one win. (``util/keyval.c`` and ``util/qemu-option.c`` describe both forms.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = ["KeyVal", "Pair", "truth"]

_ON, _OFF = ("on", "yes", "true", "y"), ("off", "no", "false", "n")


def truth(value: str) -> bool | None:
    """A switch's value; ``None`` if it is none that QEMU knows."""
    return True if value in _ON else False if value in _OFF else None


@dataclass(frozen=True, slots=True)
class Pair:
    """One entry. ``value`` is ``None`` for a bare word, whose text is ``key``."""

    key: str
    value: str | None

    def __str__(self) -> str:
        return _escape(self.key) if self.value is None else f"{self.key}={_escape(self.value)}"


@dataclass(slots=True)
class KeyVal:
    """A list of pairs that is emptied as its entries are understood: what remains is unknown."""

    first: str | None = None
    """The word without a key at the beginning."""
    pairs: list[Pair] = field(default_factory=list)

    @classmethod
    def parse(cls, text: str, *, implied: bool = True) -> KeyVal:
        """Reads a list; with ``implied`` the first word may stand without its key."""
        pieces = list(_pieces(text))
        first = None
        if implied and pieces and pieces[0].value is None:
            first = pieces.pop(0).key
        return cls(first, pieces)

    def __str__(self) -> str:
        words = [] if self.first is None else [_escape(self.first)]
        return ",".join([*words, *map(str, self.pairs)])

    def __contains__(self, key: str) -> bool:
        return any(pair.key == key for pair in self.pairs)

    def get(self, key: str) -> str | None:
        """The value that QEMU would use: the last one. A bare word counts as ``on``, ``noWORD`` as ``off``."""
        found = None
        for pair in self.pairs:
            if pair.key == key:
                found = "on" if pair.value is None else pair.value
            elif pair.value is None and pair.key == f"no{key}":
                found = "off"
        return found

    def take(self, *keys: str) -> str | None:
        """As ``get``, for a key with several spellings, and removes the entries."""
        found = None
        for key in keys:
            value = self.get(key)
            found = value if value is not None else found
            self.pairs = [p for p in self.pairs if p.key != key and not (p.value is None and p.key == f"no{key}")]
        return found

    def copy(self) -> KeyVal:
        """One that can be emptied without harm to this."""
        return KeyVal(self.first, list(self.pairs))


def _escape(text: str) -> str:
    return text.replace(",", ",,")


def _pieces(text: str) -> Iterator[Pair]:
    at = 0
    while at < len(text):
        value: list[str] = []
        while at < len(text):
            if text[at] == ",":
                if text[at + 1 : at + 2] != ",":
                    break
                at += 1
            value.append(text[at])
            at += 1
        at += 1
        piece = "".join(value)
        key, equals, rest = piece.partition("=")
        # A comma inside the part before "=" ends the key in QEMU's eyes, too: such a word has no key.
        yield Pair(key, rest) if equals and "," not in key else Pair(piece, None)
