"""What all parts of a machine description share: strictness, names, free properties."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

__all__ = ["Id", "Options", "Strict"]


class Strict(BaseModel):
    """A table of the description: unknown fields are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, validate_default=True)


Id = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9._-]{0,62}$")]
"""A name that is QEMU's ``id``, too: a letter, then letters, digits, ``-._`` (``id_wellformed`` in QEMU)."""


def _word(value: Any) -> Any:
    return str(value) if isinstance(value, float) else value


Options = dict[
    Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")],
    Annotated[bool | int | str, BeforeValidator(_word, json_schema_input_type=bool | int | float | str)],
]
"""Properties that have no field of their own, handed to QEMU as they are; true and false become ``on`` and ``off``."""
