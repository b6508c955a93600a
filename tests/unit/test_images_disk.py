"""Disk images: made sparse, laid out to boot, and never over something that is there."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from leviathan.cli import app as cli
from leviathan.errors import UsageError
from leviathan.images import disk
from leviathan.images.disk import DiskError, Install, create, install
from leviathan.model.sizes import GIB, MIB
from leviathan.vm.progress import Progress


def test_an_image_takes_no_room_until_it_is_used(tmp_path: Path) -> None:
    create(tmp_path / "d.raw", 10 * GIB)
    info = (tmp_path / "d.raw").stat()
    assert (info.st_size, info.st_blocks) == (10 * GIB, 0)


def test_an_image_that_is_there_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "d.raw"
    path.write_text("precious")
    with pytest.raises(UsageError, match="is there already"):
        create(path, GIB)
    with pytest.raises(UsageError, match="is there already"):
        install(path, GIB, Install("bookworm"), Progress())
    assert path.read_text() == "precious"


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
def test_the_name_s_end_gives_the_format(tmp_path: Path) -> None:
    cli.app(["disk", "create", str(tmp_path / "d.qcow2"), "64M"], standalone_mode=False)
    assert (tmp_path / "d.qcow2").read_bytes()[:4] == b"QFI\xfb"


def test_qcow2_without_qemu_img_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DiskError, match="qemu-img is not here") as caught:
        create(tmp_path / "d.qcow2", GIB, "qcow2")
    assert caught.value.hint == "run: sudo apt-get install qemu-utils"


@pytest.mark.skipif(not (shutil.which("mke2fs") and shutil.which("dumpe2fs")), reason="needs e2fsprogs")
def test_the_partition_boots_and_holds_a_file_system(tmp_path: Path) -> None:
    path = tmp_path / "d.raw"
    create(path, 64 * MIB)
    disk._partition(path, 64 * MIB)
    with path.open("rb") as file:
        sector = file.read(512)
        file.seek(MIB)
        (tmp_path / "part").write_bytes(file.read())
    assert sector[510:] == b"\x55\xaa"
    active, kind = sector[446], sector[450]
    first, count = struct.unpack_from("<II", sector, 454)
    assert (active, kind, first, first + count) == (0x80, 0x83, 2048, 64 * MIB // 512)
    shown = subprocess.run(["dumpe2fs", "-h", tmp_path / "part"], capture_output=True, text=True, check=True).stdout
    assert disk.LABEL in shown
    assert "metadata_csum_seed" not in shown
    assert "orphan_file" not in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["10X"], "SIZE: '10X' is not a size"),
        (["1G", "--format", "vhd"], "--format vhd: known are raw, qcow2"),
        (["1G", "--package", "vim"], "--package goes with --install"),
        (["100M", "--install", "bookworm"], "100M is too small for a system"),
        (["1G", "--install", "Book worm"], "--install Book worm: not the name of a suite"),
        (["1G", "--install", "bookworm", "--hostname", "a b"], "--hostname a b"),
    ],
)
def test_wrong_words_are_named_and_leave_nothing(tmp_path: Path, words: list[str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        cli.app(["disk", "create", str(tmp_path / "d"), *words], standalone_mode=False)
    assert said in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        create(tmp_path / "none/d.raw", GIB)
