"""``lev bench dsm``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from leviathan.cli.options import FiguresFile, Quiet, check_json_path

__all__ = ["bench_dsm"]


class Transport(StrEnum):
    """What carries the pages."""

    TCP = "tcp"
    UCX = "ucx"


def bench_dsm(
    rounds: Annotated[int, typer.Option("--rounds", metavar="N", min=1, help="Times that all is measured.")] = 5,
    pages: Annotated[
        int, typer.Option("--pages", metavar="P", min=50, max=65536, help="Samples of each kind in a round.")
    ] = 2000,
    transport: Annotated[
        Transport, typer.Option("--transport", help="What carries the pages; ucx needs a build that has it.")
    ] = Transport.TCP,
    json_file: FiguresFile = None,
    quiet: Quiet = False,
) -> None:
    """What a remote page costs here, next to what userfaultfd and TCP cost alone. Boots nothing, takes a minute."""
    check_json_path(json_file)
    from leviathan.bench.dsm import bench

    raise typer.Exit(bench(rounds, pages, json_file, transport=transport.value, quiet=quiet))
