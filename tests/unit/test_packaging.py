"""The package as users get it: the wheel's contents, and the wheel installed into a fresh environment."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROGRAMS = ["lev-node", "lev-bench", "lev-agent", "lev-guest", "liblev_facade.so"]

wheel_only = pytest.mark.skipif("LEV_TEST_WHEEL" not in os.environ, reason="no wheel was built: run `make test-wheel`")


@pytest.fixture(scope="session")
def wheel() -> Path:
    return Path(os.environ["LEV_TEST_WHEEL"]).resolve()


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment with only the wheel in it; its `bin` folder."""
    environment = tmp_path_factory.mktemp("wheel") / "venv"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    pip = [environment / "bin" / "pip", "install", "--quiet", wheel]
    subprocess.run(pip, check=True, timeout=300)
    return environment / "bin"


@wheel_only
@pytest.mark.slow
def test_wheel_serves_every_python_from_311_and_names_the_platform(wheel: Path) -> None:
    assert "-cp311-abi3-" in wheel.name
    assert wheel.name.endswith("_x86_64.whl")


@wheel_only
@pytest.mark.slow
def test_wheel_holds_every_program_as_an_executable(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for program in PROGRAMS:
            entry = archive.getinfo(f"leviathan/_bin/{program}")
            assert entry.file_size > 100_000, f"{program} is a placeholder of {entry.file_size} bytes"
            assert (entry.external_attr >> 16) & stat.S_IXUSR, f"{program} lost its executable bit"
        names = archive.namelist()
    assert "leviathan/_native.abi3.so" in names
    assert "leviathan/py.typed" in names
    assert not [name for name in names if "/tests/" in name]


@wheel_only
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_installed_wheel_runs(installed: Path, tmp_path: Path) -> None:
    version = subprocess.run(
        [installed / "lev", "--version"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert version.stdout.startswith("leviathan ")
    assert version.stderr == ""
    script = (
        "import os, leviathan, leviathan.launch.programs as p\n"
        f"print(all(os.access(p.program(n), os.X_OK) for n in {PROGRAMS!r}))\n"
        "print(leviathan.__version__ == leviathan._native.version())"
    )
    run = subprocess.run(
        [installed / "python", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.split() == ["True", "True"]


@wheel_only
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_programs_of_the_installed_wheel_start(installed: Path) -> None:
    (package,) = installed.parent.glob("lib/python3*/site-packages/leviathan/_bin")
    node = subprocess.run([package / "lev-node", "--version"], capture_output=True, text=True, timeout=30)
    assert node.returncode == 0, node.stderr
    assert node.stdout.startswith("lev-node ")
    for static in ("lev-agent", "lev-guest"):
        linked = subprocess.run(["ldd", package / static], capture_output=True, text=True, timeout=30)
        assert "static" in linked.stdout + linked.stderr, f"{static} is not static: {linked.stdout}"
