"""Disk images: made sparse, laid out to boot, and never over something that is there."""

from __future__ import annotations

import shutil
import struct
import subprocess
import tarfile
from pathlib import Path

import pytest

from leviathan.cli import app as cli
from leviathan.errors import UsageError
from leviathan.images.apt import host_architecture
from leviathan.images.disk import DiskError, Install, create, install
from leviathan.images.disklayout import LABEL, LAYOUTS, fill_script, make_efi, partition
from leviathan.images.handed import GRUB_SCRIPT, LATE_CPUS
from leviathan.model.sizes import GIB, MIB
from leviathan.qemu.command import HANDED_WORDS
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
    partition(path, 64 * MIB, LAYOUTS["amd64"])
    with path.open("rb") as file:
        sector = file.read(512)
        file.seek(MIB)
        (tmp_path / "part").write_bytes(file.read())
    assert sector[510:] == b"\x55\xaa"
    active, kind = sector[446], sector[450]
    first, count = struct.unpack_from("<II", sector, 454)
    assert (active, kind, first, first + count) == (0x80, 0x83, 2048, 64 * MIB // 512)
    shown = subprocess.run(["dumpe2fs", "-h", tmp_path / "part"], capture_output=True, text=True, check=True).stdout
    assert LABEL in shown
    assert "metadata_csum_seed" not in shown
    assert "orphan_file" not in shown


def test_the_boot_loader_takes_the_words_that_the_head_hands_over(tmp_path: Path) -> None:
    """As a shell writes the files: GRUB's own words must survive two of them."""
    script = fill_script("amd64", "/bin/tar", "box")
    assert "@" not in script.replace("serial-getty@", "").replace("--xattrs", "")
    begin, end = script.index("mkdir -p /mnt/etc/default"), script.index("for folder in dev proc sys")
    (tmp_path / "etc/grub.d").mkdir(parents=True)
    subprocess.run(["sh", "-ec", script[begin:end].replace("/mnt/", f"{tmp_path}/")], check=True)
    shown = 'set -e; . "$1"/etc/default/grub; printf "%s" "$GRUB_CMDLINE_LINUX"; "$1"/etc/grub.d/00_a_leviathan'
    done = subprocess.run(["sh", "-c", shown, "-", tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout == "console=tty0 console=ttyS0,115200 $lev_words" + GRUB_SCRIPT
    assert f"^{HANDED_WORDS}(.*)$" in GRUB_SCRIPT.replace("[.]", ".")
    if tool := shutil.which("grub-script-check"):
        subprocess.run([tool], input=GRUB_SCRIPT, text=True, check=True)


def test_cpus_that_were_left_for_later_start_before_anybody_logs_in(tmp_path: Path) -> None:
    script = fill_script("amd64", "/bin/tar", "box")
    begin = script.index("cat > /mnt/etc/systemd")
    words = script[begin : script.index("ln -sf", begin)].replace("/mnt/", f"{tmp_path}/")
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    subprocess.run(["sh", "-ec", words], check=True)
    assert (tmp_path / "etc/systemd/system/leviathan-late-cpus.service").read_text() == LATE_CPUS
    cpus = tmp_path / "cpu"
    for number, state in enumerate("110"):
        (cpus / f"cpu{number}").mkdir(parents=True)
        (cpus / f"cpu{number}/online").write_text(f"{state}\n")
    (command,) = [line for line in LATE_CPUS.replace("\\\n", "").splitlines() if line.startswith("ExecStart=")]
    command = command.split("'")[1].replace("$$", "$").replace("/sys/devices/system/cpu", str(cpus))
    # Linux refuses at first, as it does while a driver looks at a PCI device.
    asked = tmp_path / "asked"
    busy = f"echo() {{ [ -e {asked} ] && printf '1\\n' || {{ : > {asked}; return 1; }}; }}; sleep() {{ :; }}; "
    subprocess.run(["sh", "-c", busy + command], check=True, timeout=60)
    assert [(cpus / f"cpu{number}/online").read_text() for number in range(3)] == ["1\n"] * 3
    (cpus / "cpu2/online").write_text("0\n")
    never = "echo() { [ $# -gt 1 ] && printf '%s ' \"$@\"; printf '0\\n'; [ $# -gt 1 ]; }; sleep() { :; }; "
    gone = subprocess.run(["sh", "-c", never + command], capture_output=True, text=True, check=False, timeout=60)
    assert (gone.returncode, gone.stderr) == (1, f"{cpus}/cpu2/online stays 0 0\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["10X"], "SIZE: '10X' is not a size"),
        (["1G", "--format", "vhd"], "--format vhd: known are raw, qcow2"),
        (["1G", "--package", "vim"], "--package goes with --install"),
        (["1G", "--arch", "arm64"], "--arch goes with --install"),
        (["1G", "--install", "bookworm", "--arch", "m68k"], "--arch m68k: known are amd64, arm64"),
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


@pytest.mark.skipif(shutil.which("mke2fs") is None, reason="needs e2fsprogs")
def test_a_disk_for_uefi_has_its_partition_in_front_of_the_root(tmp_path: Path) -> None:
    path = tmp_path / "d.raw"
    create(path, 128 * MIB)
    partition(path, 128 * MIB, LAYOUTS["arm64"])
    sector = path.read_bytes()[:512]
    kinds = [sector[450 + 16 * index] for index in range(4)]
    (root, size), (efi, room) = (struct.unpack_from("<II", sector, 454 + 16 * index) for index in range(2))
    assert kinds == [0x83, 0xEF, 0, 0]
    assert (efi, efi + room, root, root + size) == (2048, root, (1 + 64) * 2048, 128 * 2048)


@pytest.mark.skipif(shutil.which("mformat") is None, reason="needs mtools")
def test_firmware_finds_the_loader_by_its_name(tmp_path: Path) -> None:
    disk, archive, loader = tmp_path / "d.raw", tmp_path / "root.tar", tmp_path / "grub"
    create(disk, 128 * MIB)
    loader.write_bytes(b"loader" * 1000)
    with tarfile.open(archive, "w") as tar:
        tar.add(loader, "./usr/lib/grub/arm64-efi/monolithic/grubaa64.efi")
    make_efi(disk, archive, "arm64")
    read = ["mtype", "-i", f"{disk}@@{MIB}"]
    assert subprocess.check_output([*read, "::/EFI/BOOT/BOOTAA64.EFI"]) == loader.read_bytes()
    config = subprocess.check_output([*read, "::/EFI/debian/grub.cfg"], text=True)
    assert f"root=LABEL={LABEL} console=tty0 console=ttyAMA0,115200" in config


@pytest.mark.skipif(shutil.which("mformat") is None, reason="needs mtools")
def test_a_system_without_the_loader_is_named(tmp_path: Path) -> None:
    disk, archive = tmp_path / "d.raw", tmp_path / "root.tar"
    create(disk, 128 * MIB)
    tarfile.open(archive, "w").close()
    with pytest.raises(DiskError, match="the system has no ./usr/lib/grub/arm64-efi"):
        make_efi(disk, archive, "arm64")


@pytest.mark.parametrize(
    ("suite", "architecture", "kernel"),
    [
        ("bookworm", "amd64", "linux-image-amd64"),
        ("trixie", "amd64", "linux-image-cloud-amd64"),
        ("bookworm", "arm64", "linux-image-cloud-arm64"),
    ],
)
def test_the_kernel_sees_the_disks_of_its_machines(suite: str, architecture: str, kernel: str) -> None:
    assert Install(suite, architecture=architecture).kernel == kernel


def test_programs_of_this_machine_run_and_those_of_no_machine_do_not() -> None:
    from leviathan.images import foreign

    assert foreign.runs(host_architecture())
    number, code = foreign.EXITS["amd64"]
    foreign.EXITS["none"] = (number ^ 0x7FFF, code)
    try:
        assert not foreign.runs("none")
    finally:
        del foreign.EXITS["none"]
