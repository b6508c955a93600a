"""Machines from TOML files and ``--set`` options, with errors that name the file and the field."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from leviathan.errors import ConfigError, UsageError
from leviathan.model.machine import Machine

__all__ = ["change_machine", "load_machine", "make_machine", "parse_settings"]

PATH_FIELDS = (
    "kernel",
    "initrd",
    "add",
    "firmware",
    "firmware_variables",
    "disks.file",
    "cxl.memory.persistent.file",
    "cxl.memory.volatile.file",
    "cxl.memory.dynamic.file",
    "cxl.memory.labels.file",
)


def load_machine(path: Path | None, changes: Mapping[str, Any] | None = None) -> Machine:
    """The machine in a TOML file (``None``: the default one) with changes from the command line on top.

    Relative paths in the file are relative to the file's folder. Raises ``ConfigError``.
    """
    if path is None:
        return make_machine(changes or {}, source="command line")
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text file: {error.reason} at byte {error.start}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    if "schema" not in data:
        raise ConfigError(f"{path}: schema is missing", hint="the first line of a machine file is: schema = 1")
    for field in PATH_FIELDS:
        _below(data, field.split("."), path.parent)
    if isinstance(data.get("nodes"), list) and changes and "nodes" not in changes:
        for name in {"cpus", "memory"} & set(changes):
            raise UsageError(
                f"--{name}: {path} lists every node's share", hint="give --nodes too, for that many equal shares"
            )
    return make_machine(_merge(data, changes or {}), source=str(path))


def make_machine(data: Mapping[str, Any], *, source: str = "machine") -> Machine:
    """Checks a description. Raises ``ConfigError`` with one line for every wrong field."""
    try:
        return Machine.model_validate(dict(data))
    except ValidationError as error:
        lines = [f"{source}: {_where(item['loc'])}{_what(item)}" for item in error.errors(include_url=False)]
        raise ConfigError("\n".join(lines), hint="docs/reference/machine.md lists every field") from error


def change_machine(data: Mapping[str, Any], changes: Mapping[str, Any], *, source: str) -> Machine:
    """A description with changes from the command line on top. Raises ``ConfigError``."""
    return make_machine(_merge(data, changes), source=source)


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """``["engine.hold_us=100", "pool.size=32M"]`` as nested tables; values are TOML, or else plain text."""
    result: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        words = name.strip().split(".")
        if not equals or not all(word.replace("_", "").isalnum() for word in words):
            raise UsageError(f"--set {setting}: write it as name=value, for example engine.hold_us=100")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        table = result
        for word in words[:-1]:
            table = table.setdefault(word, {})
            if not isinstance(table, dict):
                raise UsageError(f"--set {setting}: {word} was already given a plain value")
        table[words[-1]] = value
    return result


def _below(table: Any, words: Sequence[str], folder: Path) -> None:
    """Makes one path field relative to a folder, wherever it stands in tables and lists of tables."""
    if isinstance(table, list):
        for item in table:
            _below(item, words, folder)
    elif isinstance(table, dict) and words[0] in table:
        if len(words) > 1:
            _below(table[words[0]], words[1:], folder)
        elif isinstance(table[words[0]], str):
            table[words[0]] = str(folder / table[words[0]])


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in changes.items():
        old = merged.get(name)
        merged[name] = _merge(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged


def _where(location: tuple[int | str, ...]) -> str:
    # "number" and "shares" are our names for the two ways to write `nodes`, not fields of the user's.
    words = [str(word) for word in location if word not in ("number", "shares")]
    return ".".join(words) + ": " if words else ""


def _what(item: ErrorDetails) -> str:
    if item["type"] == "extra_forbidden":
        return "no such field"
    message = item["msg"].removeprefix("Value error, ")
    shown = item["input"]
    own_words = item["type"] == "value_error"
    return message if own_words or not isinstance(shown, str | int | float) else f"{message} (it is {shown!r})"
