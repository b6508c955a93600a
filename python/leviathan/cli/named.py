"""``lev list, stop, logs, console, screenshot, exec, remove``: VMs that have names."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]

Name = Annotated[str, typer.Argument(metavar="NAME", help="The VM's name, as `lev list` shows it.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(name="list")(list_vms)
    app.command()(stop)
    app.command()(logs)
    app.command()(console)
    app.command()(screenshot)
    app.command(name="exec")(execute)
    app.command()(remove)


def list_vms(
    everything: Annotated[bool, typer.Option("--all", "-a", help="Those that have ended, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the VMs that run in the background."""
    from leviathan.named.show import print_list

    print_list(sys.stdout, everything=everything, as_json=as_json)


def stop(
    names: Annotated[list[str], typer.Argument(metavar="NAME…", help="Names, as `lev list` shows them.")],
    now: Annotated[bool, typer.Option("--now", help="Do not let the guest power off: end QEMU.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", metavar="S", min=0.1, help="Seconds for the guest.")] = 60,
) -> None:
    """Power VMs off and wait until they are gone."""
    from leviathan.named.client import Client

    for name in names:
        Client(name).stop(now=now, timeout=timeout)


def logs(
    name: Name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the VM ends.")] = False,
    of: Annotated[
        str, typer.Option("--of", metavar="console|lev", help="What the guest printed, or what lev and QEMU said.")
    ] = "console",
) -> None:
    """Print what the guest's console has shown, also after its end."""
    from leviathan.named.follow import print_log

    print_log(name, of, follow=follow)


def console(name: Name) -> None:
    """Attach this terminal to the guest's console. Ctrl-] leaves; the VM goes on."""
    from leviathan.named.follow import attach_console

    raise typer.Exit(attach_console(name))


def screenshot(
    name: Name,
    out: Annotated[Path, typer.Argument(metavar="OUT.png", help="The file to write.")],
    as_json: AsJson = False,
) -> None:
    """Write a picture of the guest's screen."""
    from leviathan.named.show import write_screenshot

    write_screenshot(name, out, sys.stdout, as_json=as_json)


def execute(
    name: Name,
    command: Annotated[list[str], typer.Argument(metavar="-- CMD…", help="One word: a shell's line.")],
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="S", min=0.1, help="End the command after so many seconds.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print output and exit code as JSON.")] = False,
) -> None:
    """Run a command as root in the guest; its output and exit code are passed on. Ctrl-C ends it there, too."""
    from leviathan.named.follow import run_in

    raise typer.Exit(run_in(name, command, timeout=timeout, as_json=as_json))


def remove(
    names: Annotated[list[str], typer.Argument(metavar="NAME…", help="Names, as `lev list --all` shows them.")],
) -> None:
    """Forget VMs that have ended, logs included. The oldest go by themselves when there are more than 20."""
    from leviathan.named.store import Store

    for name in names:
        Store().remove(name)
