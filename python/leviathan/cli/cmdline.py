"""``lev import``: QEMU command lines into machine files."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leviathan.cli.options import Settings, Timeout
from leviathan.errors import UsageError

if TYPE_CHECKING:
    from leviathan.cmdline.describe import Imported
    from leviathan.cmdline.sources import Source
__all__ = ["QEMU_WORDS", "import_command", "qemu_command", "read_sources", "screen_here"]

QEMU_WORDS = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "allow_interspersed_args": False,
    # -h begins -hda.
    "help_option_names": ["--help"],
}
"""Context settings of commands whose arguments are QEMU's: ours come first and are long ones only."""


def import_command(
    context: typer.Context,
    sources: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="FILE", help="Read command lines from FILE; - is standard input. Repeatable."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="Write the machine file here.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine and remarks as JSON.")] = False,
) -> None:
    """Turn a QEMU command line into a machine file: `lev import -- qemu-system-x86_64 -m 4G …`, `lev import FILE`.

    Old spellings are translated, what has no field of its own goes to qemu_args, and rules that the machine breaks are
    named: each on a line of standard error.
    """
    from leviathan.cmdline.sources import import_sources
    from leviathan.model.dump import machine_toml, written_fields

    imported = import_sources(read_sources(context.args, sources or []), screen=screen_here())
    if as_json:
        notes = [
            {"kind": note.kind, "what": note.what, "why": note.why, "into": note.into} for note in imported.notes.notes
        ]
        text = json.dumps({"machine": written_fields(imported.machine), "notes": notes}, indent=2) + "\n"
    else:
        text = machine_toml(imported.machine)
        show_notes(imported)
        show_findings(imported)
    if output is None:
        sys.stdout.write(text)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--output: cannot write {output}: {error.strerror}") from error


def qemu_command(
    context: typer.Context,
    sources: Annotated[
        list[str] | None, typer.Option("--from", metavar="FILE", help="Read the command line from FILE.")
    ] = None,
    qemu: Annotated[
        str | None, typer.Option("--qemu", metavar="PATH", help="Run this QEMU, not the one that the line names.")
    ] = None,
    settings: Settings = None,
    secret: Annotated[
        Path | None,
        typer.Option(
            "--secret-file", metavar="FILE", help="Common secret of nodes on several machines: 64 hex digits."
        ),
    ] = None,
    timeout: Timeout = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on standard error.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be run; start nothing.")] = False,
) -> None:
    """Run what a QEMU command line means: `lev qemu -- qemu-system-x86_64 -m 4G -hda disk.qcow2 …`.

    With GiantVM's -local-cpu it is one node of a VM: start each node in a terminal of its own, in any order.
    """
    found = read_sources(context.args, sources or [])
    if len(found) > 1:
        names = ", ".join(source.name for source in found)
        raise UsageError(f"{len(found)} commands: {names}", hint="give one; each node has a terminal of its own")
    from leviathan.cmdline.sources import import_sources
    from leviathan.model.load import change_machine, parse_settings

    imported = import_sources(found, screen=screen_here())
    changes = parse_settings(settings or []) | ({"qemu": qemu} if qemu is not None else {})
    if changes:
        imported.machine = change_machine(imported.data, changes, source=found[0].name)
    if not quiet:
        show_notes(imported)
    from leviathan.cmdline.spelling import spelled
    from leviathan.rules import enforce

    # Before any QEMU is asked what it can do; what depends on that is checked when it is known.
    enforce(imported.machine, source=found[0].name, spelled=lambda field: spelled(imported.machine, field))
    machine = imported.machine
    if imported.part is None:
        from leviathan.cmdline.fit import fit_host

        def say(text: str) -> None:
            if not quiet:
                print(text, file=sys.stderr)

        machine = fit_host(machine, say)
    if dry_run:
        from leviathan.vm.plan import print_plan

        print_plan(machine, sys.stdout)
        return
    if imported.part is None:
        from leviathan.cli.run import run_console

        raise typer.Exit(run_console(machine, timeout=timeout, quiet=quiet))
    from leviathan.cli.terminal import run_terminal

    raise typer.Exit(run_terminal(machine, imported.part, secret=secret, timeout=timeout, quiet=quiet))


def show_notes(imported: Imported) -> None:
    """What was read otherwise, on standard error."""
    for line in imported.notes.lines():
        print(line, file=sys.stderr)


def show_findings(imported: Imported) -> None:
    """What is wrong with the machine, or may be, as far as that can be told without its QEMU."""
    from leviathan.rules import check

    for finding in check(imported.machine):
        print(f"{'wrong' if finding.severity == 'error' else 'warning'}: {finding}", file=sys.stderr)


def screen_here() -> bool:
    """Whether a window can open on this machine."""
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def read_sources(words: list[str], names: list[str]) -> list[Source]:
    """Commands from arguments, from files named by ``--from`` or as arguments, else from standard input."""
    from leviathan.cmdline.sources import Source, files_in, from_text

    if words and names:
        raise UsageError("--from and a command line: give one of them")
    if not words and not names:
        if sys.stdin.isatty():
            raise UsageError(
                "there is no command line", hint="give it behind --: lev import -- qemu-system-x86_64 -m 4G …"
            )
        names = ["-"]
    files = files_in(words)
    if words and files is None:
        return [Source("command line", words)]
    found: list[Source] = []
    for name in names or [str(path) for path in files or []]:
        found += from_text(_read(name), "standard input" if name == "-" else name)
    return found


def _read(name: str) -> str:
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is not a text file: {error.reason} at byte {error.start}") from error
