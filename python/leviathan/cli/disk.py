"""``lev disk``: disk images, empty or with a system that boots."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from leviathan.errors import UsageError

__all__ = ["app"]

app = typer.Typer(name="disk", help="Disk images.", no_args_is_help=True)


@app.callback()
def disk() -> None:
    """Disk images."""


@app.command()
def create(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The image, which must not exist yet.")],
    size: Annotated[str, typer.Argument(metavar="SIZE", help="Such as 10G; room is taken as it is used.")],
    disk_format: Annotated[
        str | None,
        typer.Option("--format", metavar="raw|qcow2", help="Left out: by the name's end, else raw."),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option("--install", metavar="SUITE", help="Install this release of Debian: bookworm, trixie…"),
    ] = None,
    package: Annotated[
        list[str] | None, typer.Option("--package", metavar="NAME", help="With --install: one more. Repeatable.")
    ] = None,
    arch: Annotated[
        str | None, typer.Option("--arch", metavar="amd64|arm64", help="With --install: of the guest.")
    ] = None,
    hostname: Annotated[str, typer.Option("--hostname", metavar="NAME", help="With --install.")] = "debian",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.")] = False,
) -> None:
    """Make a disk image; with --install a Debian system on it, unattended, which boots from it.

    The system has root without a password, logged in on the serial console, and asks for an address by DHCP.
    """
    from leviathan.images import disk as disks
    from leviathan.model.sizes import parse_size
    from leviathan.vm.progress import Progress
    from leviathan.vm.signals import stop_signals

    try:
        length = parse_size(size)
    except ValueError as error:
        raise UsageError(f"SIZE: {error}") from error
    kind = disk_format or ("qcow2" if file.suffix == ".qcow2" else "raw")
    if suite is None:
        if package:
            raise UsageError("--package goes with --install")
        if arch:
            raise UsageError("--arch goes with --install: an empty disk suits any guest")
        disks.create(file, length, kind)
        return
    if not hostname.replace("-", "").isalnum():
        raise UsageError(f"--hostname {hostname}: letters, digits and hyphens")
    order = disks.Install(suite, hostname, tuple(package or ()), arch or "amd64")
    with stop_signals():
        disks.install(file, length, order, Progress(None if quiet else sys.stderr), kind)
