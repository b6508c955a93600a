"""The JSON schema of machine files, for editors: types, limits and the description of every field.

Descriptions are the docstrings below the fields in the models' own source, so that they cannot differ.
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from leviathan.model.base import Strict
from leviathan.model.machine import Machine

__all__ = ["SHIPPED", "machine_schema", "schema_text"]

SHIPPED = Path(__file__).with_name("machine.schema.json")
"""The schema as a file, to which ``#:schema PATH`` on a machine file's first line leads."""


def machine_schema() -> dict[str, Any]:
    """The schema of a machine file as a table."""
    schema = Machine.model_json_schema(mode="validation")
    models: dict[str, type[BaseModel]] = {model.__name__: model for model in _subclasses(Strict)}
    tables = {"Machine": schema, **schema.get("$defs", {})}
    for name, table in tables.items():
        if name not in models:
            continue
        for field, text in _docstrings(models[name]).items():
            alias = models[name].model_fields[field].alias or field
            if alias in table.get("properties", {}):
                table["properties"][alias]["description"] = text
    # A file says which layout it has; descriptions in Python need not.
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Leviathan machine",
        **{key: value for key, value in schema.items() if key not in ("title", "description")},
        "description": "One machine: a giant VM over nodes, or a plain QEMU on this host.",
        "required": ["schema"],
    }


def schema_text() -> str:
    """The schema as JSON, the bytes of ``SHIPPED``."""
    return json.dumps(machine_schema(), indent=2, ensure_ascii=False) + "\n"


def _subclasses(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for child in model.__subclasses__():
        yield child
        yield from _subclasses(child)


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Docstrings below the fields of a model and of what it is derived from."""
    found: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        if not issubclass(kind, Strict) or kind is Strict:
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        assert isinstance(definition, ast.ClassDef)
        for field, text in zip(definition.body, definition.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            ):
                found[field.target.id] = inspect.cleandoc(text.value.value).replace("``", "`")
    return found
