"""Amounts of memory as people write them: ``512M``, ``1.5G``, ``2GiB``, ``4096``."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

__all__ = ["GIB", "KIB", "MIB", "PAGE", "Size", "format_size", "parse_amount", "parse_size"]

PAGE = 4096
KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
_UNITS = {"": 1, "k": KIB, "m": MIB, "g": GIB, "t": TIB}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)


def parse_amount(text: str | int) -> int:
    """Bytes of any amount; units are powers of 1024. Raises ``ValueError`` with what is accepted."""
    if isinstance(text, bool):
        raise ValueError("a size is a number with a unit, such as 512M or 1.5G")  # noqa: TRY004 (pydantic's contract)
    if isinstance(text, int):
        return text
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size; write a number with a unit, such as 512M or 1.5G")
    return round(float(match[1]) * _UNITS[match[2].lower()])


def parse_size(text: str | int) -> int:
    """Bytes of an amount of memory, whole pages. Raises ``ValueError`` with what is accepted."""
    size = parse_amount(text)
    if size <= 0 or size % PAGE:
        raise ValueError(f"{text!r} is not a positive multiple of {PAGE} bytes")
    return size


def format_size(size: int) -> str:
    """The shortest exact way to write a size in QEMU's and our own syntax, with at most one decimal for people."""
    for unit, factor in (("T", TIB), ("G", GIB), ("M", MIB), ("K", KIB)):
        if size >= factor and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def _validate(value: Any) -> int:
    if not isinstance(value, str | int):
        raise ValueError("a size is a number with a unit, such as 512M or 1.5G")  # noqa: TRY004
    return parse_size(value)


Size = Annotated[
    int,
    BeforeValidator(_validate, json_schema_input_type=str | int),
    PlainSerializer(format_size, return_type=str, when_used="json"),
]
"""A field that holds bytes, accepts ``"512M"`` and is written as such."""
