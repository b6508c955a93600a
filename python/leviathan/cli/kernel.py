"""``lev kernel``: guest kernels from the user's own tree."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(name="kernel", help="Guest kernels from a source tree of yours.", no_args_is_help=True)


@app.command()
def build(
    tree: Annotated[Path, typer.Argument(metavar="TREE", help="Linux sources.")],
    arch: Annotated[str, typer.Option("--arch", metavar="x86_64|arm64", help="Of the guest.")] = "x86_64",
    cxl: Annotated[bool, typer.Option("--cxl", help="With all that CXL and persistent memory need.")] = False,
    config: Annotated[
        str,
        typer.Option(
            "--config",
            metavar="FILE|defconfig|tinyconfig",
            help="Where to begin. A .config that is there goes before the default.",
        ),
    ] = "defconfig",
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Objects and results.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", metavar="N", min=0, help="At once; 0: all CPUs.")] = 0,
    check: Annotated[bool, typer.Option("--check", help="Make and check the configuration only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Configure and build a guest kernel; print the path to give to `lev run --kernel`.

    What a guest of ours needs is turned on (with --cxl also CXL, regions, pmem, DAX), and each symbol that cannot be
    had is named with what it is for. The tree itself stays clean, unless it has a .config: then it is built in place.
    """
    from leviathan.images import kernelbuild
    from leviathan.images.kernelbuild import Order
    from leviathan.vm.signals import stop_signals

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    order = Order(tree, arch, cxl, config, out.absolute() if out else None, jobs)
    if check:
        left_out = kernelbuild.configure(order, say)
        path, release = order.objects / ".config", ""
    else:
        # Whatever ends us ends make and its compilers.
        with stop_signals():
            built = kernelbuild.build(order, say)
        left_out, path, release = built.left_out, built.vmlinuz, built.release
    for symbol in left_out:
        say(f"not in this kernel: CONFIG_{symbol.name} ({symbol.why})")
    if as_json:
        print(json.dumps({"path": str(path), "release": release, "left_out": [symbol.name for symbol in left_out]}))
    else:
        print(path)
