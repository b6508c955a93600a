"""The documentation names what there is: commands, options, fields, folders, files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from leviathan.model import Machine, load_machine
from leviathan.vm.record import Record

ROOT = Path(__file__).resolve().parents[2]


def tables(kind: Any) -> Iterator[type[BaseModel]]:
    """The models within a field's type: itself, in a list, optional."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for part in get_args(kind):
        yield from tables(part)


def fields(model: type[BaseModel], prefix: str = "") -> list[str]:
    names: list[str] = []
    for name, field in model.model_fields.items():
        names.append(prefix + (field.alias or name))
        for table in tables(field.annotation):
            names += fields(table, f"{prefix}{name}.")
    return names


def test_every_field_of_a_machine_is_described() -> None:
    text = (ROOT / "docs/reference/machine.md").read_text()
    names = fields(Machine)
    assert "cxl.windows.granularity" in names
    # Tables are described by their fields; what stands in a table of a table, by its own name.
    described = [(f"`{name}`", f"`{name}.", f"`{name.rsplit('.')[-1]}`") for name in names]
    assert [ways[0] for ways in described if not any(way in text for way in ways)] == []


def test_every_command_and_option_is_described() -> None:
    described = set(re.findall(r"--[a-z][a-z-]+", (ROOT / "docs/reference/cli.md").read_text()))
    source = (ROOT / "python/leviathan/cli/app.py").read_text() + (ROOT / "python/leviathan/cli/options.py").read_text()
    options = set(re.findall(r'Option\(\s*"(--[a-z][a-z-]+)"', source))
    assert "--lab-machines" in options
    assert options - described == set()


def test_every_rule_is_described() -> None:
    text = (ROOT / "docs/reference/rules.md").read_text()
    named: set[str] = set()
    for path in (ROOT / "python/leviathan/rules").glob("*.py"):
        named |= set(re.findall(r'(?:error|warning)\(\s*"([a-z-]+)"', path.read_text()))
    assert len(named) > 40
    assert [name for name in sorted(named) if f"`{name}`" not in text] == []


def test_every_field_of_the_record_is_described() -> None:
    text = (ROOT / "docs/reference/record.md").read_text()
    record = Record(Machine()).as_json([])
    assert [name for name in record if f"`{name}`" not in text] == []


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.toml")), ids=lambda path: path.name)
def test_every_example_is_a_machine(example: Path) -> None:
    assert load_machine(example).shares()


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]), ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_pages_of_the_site_exist() -> None:
    pages = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert len(pages) > 5
    assert [page for page in pages if not (ROOT / "docs" / page).is_file()] == []


def test_the_map_names_every_crate_and_package() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    crates = [path.name for path in (ROOT / "crates").iterdir() if (path / "Cargo.toml").is_file()]
    packages = [path.name for path in (ROOT / "python/leviathan").iterdir() if (path / "__init__.py").is_file()]
    assert [name for name in crates + packages if not re.search(rf"\b{name}\b", text)] == []


def test_each_promise_names_a_test_that_exists() -> None:
    names = re.findall(r"`(?:tests/unit/)?(test_\w+\.py)`", (ROOT / "SPECIFICATION.md").read_text())
    assert len(names) > 5
    assert [name for name in names if not (ROOT / "tests/unit" / name).is_file()] == []
