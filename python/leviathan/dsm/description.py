"""Who shares a region, where they listen, and where its pages are at home: the cluster description of a region."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from leviathan.errors import ConfigError, UsageError
from leviathan.model.sizes import PAGE, parse_amount
from leviathan.vm.cluster import Identity

__all__ = ["Description", "Home", "Member"]

NODES_MAX = 1024


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Member(_Part):
    """One process."""

    name: str
    address: str
    """``HOST:PORT`` at which it listens for the nodes before it."""
    vcpus: list[int] = []


class Home(_Part):
    """Bytes ``gpa`` to ``gpa + len`` of the region are at home on ``node``; whole pages."""

    gpa: int
    len: int
    node: int


class Description(_Part):
    """The same for all processes of a region, in the layout of ``crates/wire/src/cluster.rs``.

    It holds the secret that lets a process in: ``repr`` hides it, ``save`` makes the file private.
    """

    schema_: Annotated[int, Field(alias="schema")] = 1
    run_id: str
    secret: SecretStr
    nodes: Annotated[list[Member], Field(min_length=1, max_length=NODES_MAX)]
    memory: Annotated[list[Home], Field(min_length=1)]
    encrypt: Literal["auto", "on", "off"] = "auto"
    transport: Literal["tcp", "ucx"] = "tcp"
    engine: dict[str, int] = {}

    @classmethod
    def new(
        cls,
        addresses: Sequence[str],
        size: int | str,
        *,
        homes: Sequence[tuple[int, int]] | None = None,
        encrypt: Literal["auto", "on", "off"] = "auto",
        transport: Literal["tcp", "ucx"] = "tcp",
        engine: Mapping[str, int] | None = None,
    ) -> Description:
        """A region with a new secret.

        ``addresses``: ``HOST:PORT`` of every process, the first is node 0. ``size``: bytes or text such as ``"1G"``,
        rounded up to whole pages. ``homes``: ``(pages, node)`` in order of the addresses; without it every node is
        home of an equal run. Pages are best at home where they are used most. ``encrypt``: ``auto`` encrypts what
        leaves the machine. ``transport``: what carries pages; ``ucx`` needs a build that has it, and does not encrypt.
        ``engine``: tunables by name, such as ``read_ahead``. Raises ``UsageError``.
        """
        try:
            pages = -(-parse_amount(size) // PAGE)
        except ValueError as error:
            raise UsageError(f"size: {error}") from error
        if homes is None:
            count = max(len(addresses), 1)
            homes = [(pages * (node + 1) // count - pages * node // count, node) for node in range(count)]
        identity = Identity.new()
        memory, end = [], 0
        for run, node in homes:
            if run:
                memory.append({"gpa": end * PAGE, "len": run * PAGE, "node": node})
            end += run
        members = [{"name": f"node{node}", "address": address} for node, address in enumerate(addresses)]
        if end != pages:
            raise UsageError(f"homes: {end} pages have a home, the region has {pages}")
        try:
            return cls.model_validate(
                {
                    "run_id": identity.run_id,
                    "secret": identity.secret,
                    "nodes": members,
                    "memory": memory,
                    "encrypt": encrypt,
                    "transport": transport,
                    "engine": dict(engine or {}),
                }
            )
        except ValidationError as error:
            raise UsageError(f"the region cannot be described: {_first(error)}") from error

    @classmethod
    def load(cls, path: str | Path) -> Description:
        """Reads what ``save`` wrote. Raises ``ConfigError`` that names file and field."""
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
        except ValidationError as error:
            raise ConfigError(
                f"{path}: {_first(error)}", hint="write it with leviathan.dsm.Description.save"
            ) from error

    def save(self, path: str | Path) -> None:
        """Writes a file that only the user can read; copy it to every machine by a safe way."""
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(self.text() + "\n")
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from error

    def text(self) -> str:
        """As JSON, with the secret."""
        table = self.model_dump(mode="json", by_alias=True) | {"secret": self.secret.get_secret_value()}
        return json.dumps(table)

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(home.len for home in self.memory)

    @model_validator(mode="after")
    def _covered(self) -> Description:
        end = 0
        for home in self.memory:
            if home.gpa != end or home.len <= 0 or home.len % PAGE:
                raise ValueError(
                    f"memory: {home.len} bytes at {home.gpa}: whole pages are wanted, without gaps from 0 on"
                )
            if not 0 <= home.node < len(self.nodes):
                raise ValueError(f"memory: home is node {home.node}, nodes are 0 to {len(self.nodes) - 1}")
            end += home.len
        return self


def _first(error: ValidationError) -> str:
    """The first complaint, with its field; never the input, which holds the secret."""
    first = error.errors(include_input=False, include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    words = first["msg"].removeprefix("Value error, ")
    return f"{field}: {words}" if field else words
