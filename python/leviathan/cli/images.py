"""``lev images``: QEMU, kernels and guest tools of other suites, in the user's cache."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(
    name="images",
    help="QEMU, kernels and guest tools of any suite of the distribution, without touching the system.",
    no_args_is_help=True,
)

WIDTHS = {"kind": 6, "suite": 18, "arch": 5, "version": 24}
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]


@app.command("list")
def list_images(as_json: AsJson = False) -> None:
    """What is unpacked, with the paths to give to `lev run`."""
    from leviathan.images.suite import listed

    rows = [
        {
            "kind": one.kind,
            "suite": one.suite,
            "arch": one.architecture,
            "version": one.version,
            "path": str(one.path),
        }
        for one in listed()
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    if not rows:
        print("nothing yet; for example: lev images get qemu --suite trixie", file=sys.stderr)
        return
    for row in rows:
        print("  ".join(row[name].ljust(width) for name, width in WIDTHS.items()), row["path"])


@app.command()
def get(
    kind: Annotated[str, typer.Argument(metavar="qemu|kernel|tools|workloads", help="What to fetch.")],
    suite: Annotated[
        str | None, typer.Option("--suite", metavar="NAME", help="Such as trixie, sid; default: the system's own.")
    ] = None,
    arch: Annotated[
        str | None, typer.Option("--arch", metavar="amd64|arm64", help="Of the guest; default: this machine's.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch packages by apt and unpack them into the cache; print the path to give to `lev run`.

    The system is not touched and no root is needed: apt works on lists and folders of its own, with the system's
    mirror and the distribution's keyring.
    """
    from leviathan.images.suite import get as fetch

    found = fetch(kind, suite, arch, lambda step: print(step, file=sys.stderr, flush=True))
    if as_json:
        print(json.dumps({"kind": found.kind, "version": found.version, "path": str(found.path)}))
    else:
        print(found.path)


@app.command()
def initramfs(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it; gzip if the name ends so.")],
    kernel: Annotated[
        Path | None, typer.Option("--kernel", metavar="K", help="Of which kernel the drivers are; default: Debian's.")
    ] = None,
    arch: Annotated[
        str | None, typer.Option("--arch", metavar="amd64|arm64", help="Of the guest; default: this machine's.")
    ] = None,
    cxl: Annotated[bool, typer.Option("--cxl", help="With CXL's drivers, and cxl, ndctl, daxctl and numactl.")] = False,
    add: Annotated[
        Path | None, typer.Option("--add", metavar="DIR", help="Put the files of DIR into the guest's root.")
    ] = None,
) -> None:
    """Write the initramfs of our guests into a file, for a QEMU that you start yourself: a root shell on its console.

    Drivers and tools go with one kernel: its path is printed, for -kernel.
    """
    import gzip

    from leviathan.errors import UsageError
    from leviathan.images.suite import QEMU, host_architecture
    from leviathan.model import Cxl, Machine
    from leviathan.vm.prepare import Work, guest_kernel
    from leviathan.vm.prepare import initramfs as build
    from leviathan.vm.progress import Progress

    arch = arch or host_architecture()
    if arch not in QEMU:
        raise UsageError(f"--arch {arch}: known are {', '.join(QEMU)}")
    machine = Machine(
        arch="aarch64" if arch == "arm64" else "x86_64", nodes=0, kernel=kernel, add=add, cxl=Cxl() if cxl else None
    )
    progress = Progress(sys.stderr)
    found = guest_kernel(machine, None, progress)
    image = build(machine, Work(), found, progress)
    try:
        file.write_bytes(gzip.compress(image, 6, mtime=0) if file.suffix == ".gz" else image)
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}") from error
    print(found.vmlinuz)


@app.command()
def remove(
    kind: Annotated[str, typer.Argument(metavar="qemu|kernel|tools|workloads", help="What to delete.")],
    suite: Annotated[str, typer.Option("--suite", metavar="NAME", help="Of which suite.")],
    arch: Annotated[str, typer.Option("--arch", metavar="amd64|arm64", help="For guests of which kind.")] = "amd64",
) -> None:
    """Delete what was unpacked, all versions of it."""
    from leviathan.errors import UsageError
    from leviathan.images import suite as suites

    found = [one for one in suites.listed() if (one.kind, one.suite, one.architecture) == (kind, suite, arch)]
    if not found:
        raise UsageError(f"no {kind} of {suite} for {arch} is unpacked", hint="`lev images list` shows what is")
    for one in found:
        suites.remove(one)
        print(f"removed {one.folder}", file=sys.stderr)
