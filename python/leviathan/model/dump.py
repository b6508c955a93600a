"""Machines written as TOML files, without what are defaults: read back (``load``), they are the same machine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from leviathan.model.machine import Machine

__all__ = ["machine_toml", "written_fields"]

ALWAYS = ("schema", "nodes", "cpus", "memory")
"""Written even where they are defaults: what a reader looks for first."""
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
LINE = 110


def written_fields(machine: Machine) -> dict[str, Any]:
    """The fields of a machine that differ from what is assumed without them, in the order of the reference."""
    whole = machine.model_dump(mode="json", by_alias=True, exclude_none=True)
    changed = machine.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    # What these two are without being written follows from `arch`.
    bare = Machine.model_validate({"arch": machine.arch})
    for name in ("qemu", "machine_type"):
        changed.pop(name, None)
        if getattr(machine, name) != getattr(bare, name):
            changed[name] = getattr(machine, name)
    return {name: changed.get(name, whole[name]) for name in whole if name in changed or name in ALWAYS}


def machine_toml(machine: Machine) -> str:
    """A machine file. Relative paths stay relative: to the folder that the file will be in."""
    fields = written_fields(machine)
    plain = {name: value for name, value in fields.items() if not _is_table(value)}
    # The layout's number is the first line.
    lines = [f"schema = {plain.pop('schema')}"]
    lines += [f"{_key(name)} = {_value(value)}" for name, value in plain.items()]
    for name, value in fields.items():
        if _is_table(value):
            lines += _section(_key(name), value)
    return "\n".join(lines) + "\n"


def _section(path: str, value: Any) -> Iterator[str]:
    """``[path]`` or, for each table of a list, ``[[path]]``; tables below a list's tables are written in line."""
    if isinstance(value, Mapping):
        nested = {name: each for name, each in value.items() if _is_list_of_tables(each)}
        if len(nested) < len(value) or not value:
            yield ""
            yield f"[{path}]"
            yield from (f"{_key(name)} = {_value(each)}" for name, each in value.items() if name not in nested)
        for name, each in nested.items():
            yield from _section(f"{path}.{_key(name)}", each)
        return
    for table in value:
        yield ""
        yield f"[[{path}]]"
        yield from (f"{_key(name)} = {_value(each)}" for name, each in table.items())


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) or _is_list_of_tables(value)


def _is_list_of_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, Mapping) for each in value)


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _string(name)


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            return _string(value)
        case Mapping():
            inside = ", ".join(f"{_key(name)} = {_value(each)}" for name, each in value.items())
            return f"{{ {inside} }}" if inside else "{}"
        case Sequence():
            return _list([_value(each) for each in value])
    raise TypeError(f"{value!r} has no form in TOML")


def _list(values: list[str]) -> str:
    line = f"[{', '.join(values)}]"
    if len(line) <= LINE:
        return line
    return "[\n" + "".join(f"    {value},\n" for value in values) + "]"


def _string(text: str) -> str:
    # TOML's basic strings are JSON's, but for DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
