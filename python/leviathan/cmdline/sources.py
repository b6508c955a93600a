"""Where command lines come from: arguments, files, standard input; and which of the commands there is meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from leviathan.cmdline.chores import advice, remark
from leviathan.cmdline.describe import Imported, describe
from leviathan.cmdline.giant import agree
from leviathan.cmdline.notes import Note
from leviathan.cmdline.options import awaits_value, is_qemu
from leviathan.cmdline.shell import Command, split_commands
from leviathan.errors import UsageError

__all__ = ["Source", "files_in", "from_text", "import_sources"]

TEXT_LIMIT = 1 << 20
"""A file that is larger is no list of arguments."""


@dataclass(frozen=True, slots=True)
class Source:
    """One QEMU command, and a name for messages."""

    name: str
    words: list[str]
    remarks: tuple[str, ...] = ()


def files_in(words: Sequence[str]) -> list[Path] | None:
    """The words as files of command lines, if each is one: ``lev import seed.args``. A disk image is none."""
    paths = [Path(word) for word in words]
    return paths if words and all(_is_text(path) for path in paths) else None


def _is_text(path: Path) -> bool:
    try:
        if not path.is_file() or path.stat().st_size > TEXT_LIMIT:
            return False
        data = path.read_bytes()
        data.decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return b"\0" not in data and not data.startswith(b"QFI\xfb")


def from_text(text: str, name: str) -> list[Source]:
    """The QEMU commands of a text; raises ``UsageError`` if there is none."""
    commands = split_commands(text, name, awaits_value=awaits_value)
    qemu = [command for command in commands if not command.program or is_qemu(command.program)]
    others = [command for command in commands if command not in qemu]
    firsts = {command.program: command for command in reversed(others)}
    remarks = [
        f"{name}, line {command.line}: `{command.program}` {remark(command)}"
        for command in others
        if firsts[command.program] is command
    ]
    if not qemu:
        what = f"`{commands[0].program}` and the like" if commands else "nothing"
        raise UsageError(
            "\n".join([f"{name} has no QEMU command: there is {what}", *remarks]),
            hint=advice(others),
        )
    return [_source(name, command, qemu, remarks) for command in qemu]


def _source(name: str, command: Command, all_of_them: list[Command], remarks: list[str]) -> Source:
    label = name if len(all_of_them) == 1 else f"{name}, line {command.line}"
    mine = [*remarks, *command.notes] if command is all_of_them[0] else command.notes
    return Source(label, command.words, tuple(mine))


def import_sources(sources: Sequence[Source], *, screen: bool) -> Imported:
    """The one machine that the commands describe: one command, or the nodes' commands of one giant VM.

    Raises ``UsageError`` if they are not one machine.
    """
    found = [(source, _described(source, screen)) for source in sources]
    if len(found) == 1:
        return found[0][1]
    parts = [(source.name, imported.part, imported.machine.memory) for source, imported in found if imported.part]
    if len(parts) < len(found):
        names = ", ".join(source.name for source, _ in found)
        raise UsageError(
            f"{len(found)} machines: {names}",
            hint="give one at a time; only the nodes of a giant VM (-local-cpu) go together",
        )
    agree([(name, part, memory) for name, part, memory in parts if part is not None])
    head = min((imported for _, imported in found), key=lambda imported: imported.part.node if imported.part else 0)
    for _, imported in found:
        if imported is not head:
            for note in imported.notes.notes:
                if note not in head.notes.notes:
                    head.notes.notes.append(note)
    return head


def _described(source: Source, screen: bool) -> Imported:
    imported = describe(source.words, screen=screen, source=source.name)
    remarks = [Note("warning", "", remark) for remark in source.remarks]
    imported.notes.notes[:0] = remarks
    return imported
