"""``lev schema``: the JSON schema of machine files."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

__all__ = ["schema"]


def schema(
    path: Annotated[
        bool, typer.Option("--path", help="Print where the schema lies, for an editor's settings.")
    ] = False,
) -> None:
    """Print the JSON schema of machine files: editors complete and check them with it.

    A file's first line `#:schema PATH` tells the editor where it is.
    """
    from leviathan.model.schema import SHIPPED, schema_text

    sys.stdout.write(f"{SHIPPED}\n" if path else schema_text())
