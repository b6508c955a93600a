"""Packages unpacked into the user's cache, and the script that starts a QEMU of another release."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from leviathan.cli import app as cli
from leviathan.errors import LeviathanError, UsageError
from leviathan.images import suite
from leviathan.images.apt import Apt, unpack
from leviathan.images.base import ImageError
from leviathan.images.elf import Closure
from leviathan.images.suite import Unpacked
from leviathan.qemu.binary import probe_binary

LOADER = Path("/lib64/ld-linux-x86-64.so.2")
pytestmark = pytest.mark.skipif(
    not (shutil.which("dpkg-deb") and LOADER.exists()), reason="needs dpkg-deb, on x86-64 with glibc"
)


def make_package(folder: Path, name: str, files: dict[str, str]) -> Path:
    root = folder / f"{name}-root"
    for path, text in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    (root / "DEBIAN").mkdir()
    control = f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n"
    (root / "DEBIAN/control").write_text(control)
    package = folder / f"{name}.deb"
    subprocess.run(["dpkg-deb", "-b", "--root-owner-group", root, package], check=True, capture_output=True)
    return package


def starter(cache: Path) -> Unpacked:
    """A tree in which "QEMU" is this system's shell, run by this system's loader."""
    folder = cache / "leviathan/suites/test/amd64/qemu-1"
    unpacked = Unpacked("qemu", "test", "amd64", "1", ("x.deb",), folder)
    unpack([], unpacked.tree)
    for path in ("usr/lib/x86_64-linux-gnu", "usr/share/qemu"):
        (unpacked.tree / path).mkdir(parents=True)
    shutil.copy(LOADER, unpacked.tree / "usr/lib64" / LOADER.name)
    shutil.copy("/bin/echo", unpacked.tree / "usr/bin/qemu-system-x86_64")
    shutil.copy(_library("libc.so.6"), unpacked.tree / "usr/lib/x86_64-linux-gnu")
    suite._starter(unpacked, folder, "amd64")
    suite._write(unpacked, folder / suite.MANIFEST)
    return unpacked


def _library(name: str) -> Path:
    closure = Closure()
    closure.add(Path("/bin/echo"))
    return next(placed.source for placed in closure.files() if placed.target.endswith(name))


def test_folders_that_moved_below_usr_are_merged(tmp_path: Path) -> None:
    old = make_package(tmp_path, "old", {"lib/x/old.so": "old"})
    new = make_package(tmp_path, "new", {"usr/lib/x/new.so": "new"})
    seen: list[int] = []
    unpack([new, old], tmp_path / "tree", seen.append)
    assert seen == [1, 2]
    assert (tmp_path / "tree/usr/lib/x/old.so").read_text() == "old"
    assert (tmp_path / "tree/lib/x/new.so").read_text() == "new"
    assert (tmp_path / "tree/lib").is_symlink()


def test_a_damaged_package_is_named(tmp_path: Path) -> None:
    package = tmp_path / "broken.deb"
    package.write_bytes(b"!<arch>\nno")
    with pytest.raises(ImageError, match=r"cannot unpack broken\.deb"):
        unpack([package], tmp_path / "tree")


@pytest.mark.parametrize("name", ["../etc", "Trixie", "a b", ""])
def test_a_suite_is_a_plain_name(name: str) -> None:
    with pytest.raises(ImageError, match="no name of a suite"):
        Apt(name, "amd64")


def test_the_starter_runs_the_tree_s_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "with space"))
    unpacked = starter(tmp_path / "with space")
    run = subprocess.run([unpacked.path, "-m", "two words"], capture_output=True, text=True, check=True)
    assert run.stdout.endswith(" -m two words\n")
    assert f"-L {unpacked.tree}/usr/share/qemu" in run.stdout


def test_the_starter_hands_the_facade_to_the_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    unpacked = starter(tmp_path)
    run = subprocess.run(
        [unpacked.path], env={"LEV_FACADE": "/nowhere/facade.so"}, capture_output=True, text=True, check=True
    )
    assert "/nowhere/facade.so" in run.stderr


def test_what_is_unpacked_is_listed_and_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    unpacked = starter(tmp_path)
    (tmp_path / "leviathan/suites/test/amd64/qemu-2").mkdir()
    (tmp_path / "leviathan/suites/test/amd64/qemu-2/leviathan.json").write_text("{}")
    assert suite.listed() == [unpacked]
    assert suite.find("qemu", "test", "amd64") == unpacked
    assert suite.find("qemu", "test", "arm64") is None
    cli.app(["images", "list", "--json"], standalone_mode=False)
    assert [row["path"] for row in json.loads(capsys.readouterr().out)] == [str(unpacked.path)]


def test_the_program_behind_a_starter_is_what_a_lab_machine_gets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    unpacked = starter(tmp_path)
    # "QEMU" is an echo: it says what it was told, which holds no version.
    with pytest.raises(LeviathanError, match="is not QEMU"):
        probe_binary(str(unpacked.path))
    program = suite.program_of(unpacked.path)
    assert program == unpacked.tree / "usr/bin/qemu-system-x86_64"
    closure = Closure()
    assert closure.add(program) == "/usr/bin/qemu-system-x86_64"
    sources = {Path(placed.target).name: placed.source for placed in closure.files()}
    assert sources["libc.so.6"].is_relative_to(unpacked.tree)
    assert sources[LOADER.name].is_relative_to(unpacked.tree)


def test_any_other_script_is_its_own_program(tmp_path: Path) -> None:
    script = tmp_path / "qemu-system-x86_64"
    script.write_text("#!/bin/sh\n")
    assert suite.program_of(script) == script


def test_unknown_kinds_and_architectures_are_refused() -> None:
    with pytest.raises(ImageError, match="no images of 'firmware'"):
        suite.get("firmware")
    with pytest.raises(ImageError, match="architecture 'riscv64'"):
        suite.get("qemu", "sid", "riscv64")


def test_what_is_removed_is_gone_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    unpacked = starter(tmp_path)
    with pytest.raises(UsageError, match="no kernel of test for amd64"):
        cli.app(["images", "remove", "kernel", "--suite", "test"], standalone_mode=False)
    assert suite.listed() == [unpacked]
    cli.app(["images", "remove", "qemu", "--suite", "test"], standalone_mode=False)
    assert suite.listed() == []
    assert unpacked.folder.parent.is_dir()
