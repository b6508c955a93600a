"""Options of one QEMU command: words cut into options and values by QEMU's own rules.

``-opt`` and ``--opt`` are the same, an option takes the next word as its value whatever that begins with, and a word
that belongs to no option is a disk image, the same as ``-hda``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from leviathan.cmdline.table import ALIASES, FLAGS, REMOVED, VALUED, names
from leviathan.errors import UsageError

__all__ = ["CommandLine", "Option", "awaits_value", "parse_words"]

_QEMU = re.compile(r"(?:qemu-system-(?P<arch>[\w]+)|qemu-kvm|kvm|qemu)")
_IPV4 = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}")


@dataclass(frozen=True, slots=True)
class Option:
    """One option. ``name`` has no dashes and no alias; ``value`` is ``None`` for a switch."""

    name: str
    value: str | None = None

    @property
    def words(self) -> list[str]:
        """As QEMU takes it."""
        return [f"-{self.name}"] if self.value is None else [f"-{self.name}", self.value]

    def __str__(self) -> str:
        return " ".join(self.words)


@dataclass(slots=True)
class CommandLine:
    """One QEMU command."""

    program: str
    """As it stood there; empty if only arguments were given."""
    options: list[Option] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def architecture(self) -> str | None:
        """Of the guest, by the program's name: ``x86_64``, ``aarch64`` and so on."""
        match = _QEMU.fullmatch(self.program.rpartition("/")[2])
        return None if match is None else match["arch"] or "x86_64"

    def values(self, name: str) -> list[str]:
        """Values of an option, in order."""
        return [option.value for option in self.options if option.name == name and option.value is not None]

    def has(self, name: str) -> bool:
        """Whether an option is there."""
        return any(option.name == name for option in self.options)


def is_qemu(program: str) -> bool:
    """Whether a program's name is that of a QEMU system emulator."""
    return _QEMU.fullmatch(program.rpartition("/")[2]) is not None


def awaits_value(word: str) -> bool:
    """Whether a word is an option that takes the next one as its value."""
    if not word.startswith("-"):
        return False
    name = _plain(word)
    return name in VALUED or (name in REMOVED and REMOVED[name].valued)


def parse_words(words: Sequence[str]) -> CommandLine:
    """Cuts words into options. Raises ``UsageError`` for what no QEMU would take."""
    rest = list(words)
    program = rest.pop(0) if rest and not rest[0].startswith("-") and (is_qemu(rest[0]) or "/" in rest[0]) else ""
    if program and not is_qemu(program):
        # A path that is no QEMU is a disk image: `lev import disk.qcow2 -m 1G`.
        rest.insert(0, program)
        program = ""
    line = CommandLine(program)
    while rest:
        word = rest.pop(0)
        if word in ("", "\\"):
            line.notes.append("an empty word was left out: a backslash with a space behind it does not join lines")
        elif not word.startswith("-") or word == "-":
            _positional(line, word)
        else:
            _option(line, word, rest)
    return line


def _option(line: CommandLine, word: str, rest: list[str]) -> None:
    name = _plain(word)
    removed = REMOVED.get(name)
    if name in VALUED or (removed is not None and removed.valued):
        if not rest:
            raise UsageError(f"{word} stands at the end without its value", hint=f"add it: {word} VALUE")
        value = rest.pop(0)
        if re.fullmatch(r"--?[a-z][\w-]*", value) and _plain(value) in names():
            raise UsageError(
                f"{word} has no value: the next word is the option {value}", hint=f"add it: {word} VALUE {value}"
            )
        line.options.append(Option(name, value))
    elif name in FLAGS or removed is not None:
        line.options.append(Option(name))
    else:
        _unknown(line, word, name, rest)


def _unknown(line: CommandLine, word: str, name: str, rest: list[str]) -> None:
    if "=" in name and (known := name.partition("=")[0]) in names():
        raise UsageError(
            f"{word}: QEMU takes the value as a word of its own", hint=f"write -{known} {name.partition('=')[2]}"
        )
    glued = next((each for each in ("m", "smp", "hda", "vnc") if re.fullmatch(rf"{each}:?\d.*", name)), None)
    if glued:
        raise UsageError(f"{word}: a space is missing", hint=f"write -{glued} {name.removeprefix(glued)}")
    if close := difflib.get_close_matches(name, names(), 1, 0.75):
        raise UsageError(f"{word}: QEMU has no such option", hint=f"did you mean -{close[0]}?")
    value = rest.pop(0) if rest and not rest[0].startswith("-") else None
    line.notes.append(f"{word} is no option of a QEMU that Leviathan knows; it is passed on as it is")
    line.options.append(Option(name, value))


def _positional(line: CommandLine, word: str) -> None:
    last = line.options[-1] if line.options else None
    if last is not None and last.name == "local-cpu" and _IPV4.fullmatch(word.rstrip('"')):
        line.notes.append(f'-local-cpu: {word} belongs to the list of addresses; quote it: iplist="… {word}"')
        line.options[-1] = Option("local-cpu", f"{last.value} {word}")
        return
    if last is not None and last.value is None and last.name in FLAGS and word in ("on", "off", "yes", "no"):
        raise UsageError(f"-{last.name} {word}: -{last.name} is a switch and takes no value", hint=f"remove {word}")
    if "=" in word and "," in word and not re.search(r"[./]\w+$", word.partition(",")[0].partition("=")[0]):
        before = f"-{last.name} {last.value or ''}".strip() if last else "the beginning"
        raise UsageError(
            f"{word!r} stands alone after {before}: QEMU would take it for a disk image",
            hint="a list of properties is one word: no spaces around commas and equals signs, or quotes around it",
        )
    line.options.append(Option("hda", word))


def _plain(word: str) -> str:
    name = word[2:] if word.startswith("--") else word[1:]
    return ALIASES.get(name, name)
