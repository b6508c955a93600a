import subprocess
from pathlib import Path

import pytest

from leviathan.images.elf import Closure, ElfError, read_dynamic, root_of

SHELL = Path("/bin/sh").resolve()


def ldd(program: Path) -> set[str]:
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=True)
    words = (word for line in done.stdout.splitlines() for word in line.split())
    return {Path(word).resolve().name for word in words if word.startswith("/")}


@pytest.mark.parametrize("program", ["/bin/sh", "/usr/bin/env", "/usr/bin/apt-get", "/usr/bin/qemu-system-x86_64"])
def test_finds_what_ldd_finds(program: str) -> None:
    path = Path(program)
    if not path.exists():
        pytest.skip(f"no {program}")
    closure = Closure()
    target = closure.add(path)
    assert target == program
    files = closure.files()
    assert {file.source.name for file in files if file.target != target} == ldd(path)
    assert all(file.source.is_file() for file in files)


def test_each_library_is_taken_once() -> None:
    closure = Closure()
    closure.add(SHELL)
    first = len(closure.files())
    closure.add(SHELL, "/another/name")
    assert len(closure.files()) == first + 1


def test_libraries_beside_an_unpacked_program_come_first(tmp_path: Path) -> None:
    libraries = tmp_path / "usr/lib/x86_64-linux-gnu"
    libraries.mkdir(parents=True)
    (tmp_path / "usr/bin").mkdir()
    program = tmp_path / "usr/bin/sh"
    program.write_bytes(SHELL.read_bytes())
    own = libraries / "libc.so.6"
    own.write_bytes(next(Path("/").glob("lib/x86_64-linux-gnu/libc.so.6")).read_bytes())
    assert root_of(program) == tmp_path
    closure = Closure()
    assert closure.add(program) == "/usr/bin/sh"
    assert own in {file.source for file in closure.files()}
    # Paths in the image are those below that root.
    assert not any(str(tmp_path) in file.target for file in closure.files())


@pytest.mark.parametrize(
    ("path", "root"),
    [("/usr/bin/x", "/"), ("/bin/x", "/"), ("/q/usr/bin/x", "/q"), ("/q/bin/x", "/q"), ("/home/me/build/x", "/")],
)
def test_root_of(path: str, root: str) -> None:
    assert root_of(Path(path)) == Path(root)


def test_missing_library_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    data = SHELL.read_bytes()
    assert b"libc.so.6\0" in data
    broken.write_bytes(data.replace(b"libc.so.6\0", b"libq.so.6\0"))
    with pytest.raises(ElfError, match=r"libq\.so\.6"):
        Closure().add(broken)


@pytest.mark.parametrize(
    "content", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(58), b"\x7fELF\x02\x01" + b"\xff" * 58]
)
def test_what_is_no_elf_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(ElfError, match=str(path)):
        read_dynamic(path)


def test_truncated_files_are_refused_not_crashed_on(tmp_path: Path) -> None:
    data = SHELL.read_bytes()
    path = tmp_path / "x"
    for length in (*range(0, 1024, 37), len(data) // 2):
        path.write_bytes(data[:length])
        try:
            read_dynamic(path)
        except ElfError:
            continue
