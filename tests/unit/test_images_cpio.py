import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from leviathan.images.cpio import Archive, CpioError, clean


def listing(data: bytes) -> list[str]:
    done = subprocess.run(["cpio", "-itv", "--quiet"], input=data, capture_output=True, check=True)
    return done.stdout.decode().splitlines()


needs_cpio = pytest.mark.skipif(shutil.which("cpio") is None, reason="the package cpio is not installed")


@needs_cpio
def test_cpio_reads_what_we_write(tmp_path: Path) -> None:
    source = tmp_path / "big"
    source.write_bytes(os.urandom(10_001))
    archive = Archive()
    archive.file("a/b/c", b"hello", 0o640)
    archive.file("/usr/big", source, 0o755)
    archive.symlink("lib", "usr/lib")
    archive.char_device("dev/null", 1, 3, 0o666)
    lines = [line.split() for line in listing(archive.bytes())]
    assert [(words[0], words[-1]) for words in lines if words[0][0] not in "l"] == [
        ("drwxr-xr-x", "a"),
        ("drwxr-xr-x", "a/b"),
        ("-rw-r-----", "a/b/c"),
        ("drwxr-xr-x", "usr"),
        ("-rwxr-xr-x", "usr/big"),
        ("drwxr-xr-x", "dev"),
        ("crw-rw-rw-", "dev/null"),
    ]
    assert ["lib", "->", "usr/lib"] in [words[-3:] for words in lines]
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["cpio", "-id", "--quiet", "a/b/c", "usr/big"], input=archive.bytes(), cwd=out, check=True)
    assert (out / "a/b/c").read_bytes() == b"hello"
    assert (out / "usr/big").read_bytes() == source.read_bytes()


def test_same_entries_same_bytes() -> None:
    def make() -> bytes:
        archive = Archive()
        archive.file("x", b"1")
        archive.directory("d", 0o700)
        return archive.bytes()

    assert make() == make()
    assert len(make()) % 512 == 0


@needs_cpio
def test_archives_may_follow_each_other() -> None:
    first, second = Archive(), Archive()
    first.file("x", b"1")
    second.file("y", b"22")
    joined = first.bytes() + second.bytes()
    at = joined.index(b"070701", joined.index(b"TRAILER!!!"))
    assert at % 512 == 0
    assert listing(joined[at:])[0].endswith(" y")


def test_a_later_entry_replaces_an_earlier_one() -> None:
    archive = Archive()
    archive.file("x", b"1")
    archive.file("x", b"2")
    assert [entry.data for entry in archive] == [b"2"]


@pytest.mark.parametrize("name", ["", "/", "../x", "a/../../x", "a\0b", "."])
def test_names_that_leave_the_image_are_refused(name: str) -> None:
    with pytest.raises(CpioError):
        clean(name)


def test_a_file_is_no_folder() -> None:
    archive = Archive()
    archive.file("x", b"")
    with pytest.raises(CpioError, match="not a folder"):
        archive.file("x/y", b"")
    with pytest.raises(CpioError, match="at the same time"):
        archive.directory("x")


def test_a_tree_keeps_links_and_modes_and_refuses_pipes(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir(mode=0o700)
    (tmp_path / "d/run").write_text("#!/bin/sh\n")
    (tmp_path / "d/run").chmod(0o755)
    (tmp_path / "link").symlink_to("/nowhere")
    (tmp_path / "folder").symlink_to("d")
    archive = Archive()
    archive.tree(tmp_path)
    modes = {entry.name: entry.mode for entry in archive}
    assert modes == {
        "d": stat.S_IFDIR | 0o700,
        "d/run": stat.S_IFREG | 0o755,
        "link": stat.S_IFLNK | 0o777,
        "folder": stat.S_IFLNK | 0o777,
    }
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CpioError, match="pipe"):
        Archive().tree(tmp_path)
