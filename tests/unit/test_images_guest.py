import gzip
import shutil
import subprocess
from pathlib import Path

import pytest
from test_images_kernel import module, tree

from leviathan.cli import app as cli
from leviathan.errors import UsageError
from leviathan.images import base, guest, labimage
from leviathan.images.base import ImageError
from leviathan.images.kernel import Kernel

MODULES = {
    "virtio_pci.ko": module("virtio_ring"),
    "virtio_ring.ko": module(""),
    "virtio_console.ko": module("virtio_ring"),
    "virtio_net.ko": module("virtio_ring"),
    "virtio_blk.ko": module("virtio_ring"),
    "irqbypass.ko": module(""),
    "kvm.ko": module("irqbypass"),
    "kvm-amd.ko": module("kvm"),
}


@pytest.fixture
def busybox() -> Path:
    try:
        return base.find_busybox()
    except ImageError as error:
        pytest.skip(str(error))


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return tree(tmp_path / "modules", MODULES)


def unpack(data: bytes, folder: Path) -> Path:
    if shutil.which("cpio") is None:
        pytest.skip("the package cpio is not installed")
    folder.mkdir()
    subprocess.run(["cpio", "-id", "--quiet", "--no-preserve-owner", "-f", "dev/*"], input=data, cwd=folder, check=True)
    return folder


def test_the_command_and_the_users_files_arrive(kernel: Kernel, busybox: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "etc").mkdir(parents=True)
    (mine / "etc/hosts").write_text("mine\n")
    (mine / "root").mkdir()
    (mine / "root/data").write_bytes(b"\0\1")
    command = "echo \"$HOME\" 'a b' && exit 3 # ümlaut"
    root = unpack(guest.build(kernel, guest.Guest(command=command, add=[mine])), tmp_path / "root")
    assert (root / "lev/exec").read_text() == command + "\n"
    assert (root / "etc/hosts").read_text() == "mine\n"
    assert (root / "root/data").read_bytes() == b"\0\1"
    assert (root / "lev/modules/base").read_text() == "virtio_ring.ko\nvirtio_pci.ko\n"
    assert (root / "lev/modules/serial").read_text() == "virtio_console.ko\n"
    assert (root / "lev/modules/extra").read_text() == ""
    assert (root / "bin/sh").readlink() == Path("/lev/busybox")
    subprocess.run([busybox, "sh", "-n", root / "init"], check=True)
    assert (root / "init").stat().st_mode & 0o111


def test_without_a_command_there_is_none(kernel: Kernel, busybox: Path, tmp_path: Path) -> None:
    root = unpack(guest.build(kernel, guest.Guest()), tmp_path / "root")
    assert not (root / "lev/exec").exists()


def test_programs_bring_their_libraries(kernel: Kernel, busybox: Path, tmp_path: Path) -> None:
    root = unpack(guest.build(kernel, guest.Guest(programs=[Path("/usr/bin/env")])), tmp_path / "root")
    assert (root / "usr/bin/env").read_bytes() == Path("/usr/bin/env").read_bytes()
    assert (root / "lib64/ld-linux-x86-64.so.2").exists()


@pytest.mark.parametrize("name", ["init", "lev/x"])
def test_the_guests_own_files_cannot_be_replaced(kernel: Kernel, busybox: Path, tmp_path: Path, name: str) -> None:
    mine = tmp_path / "mine" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("")
    with pytest.raises(ImageError, match="would replace"):
        guest.build(kernel, guest.Guest(add=[tmp_path / "mine"]))


def test_add_must_be_a_folder(kernel: Kernel, busybox: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="not a folder"):
        guest.build(kernel, guest.Guest(add=[tmp_path / "none"]))


def test_a_dynamic_busybox_is_refused() -> None:
    with pytest.raises(ImageError, match="not statically linked") as caught:
        base.find_busybox(Path("/bin/sh"))
    assert "busybox-static" in str(caught.value.hint)


def test_the_lab_image_holds_what_nodes_need(kernel: Kernel, busybox: Path, tmp_path: Path) -> None:
    tree_root = tmp_path / "q"
    for name in ("usr/share/seabios/bios-256k.bin", "usr/share/qemu/kvmvapic.bin", "usr/share/qemu/linuxboot_dma.bin"):
        path = tree_root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    qemu = tree_root / "usr/bin/qemu-system-x86_64"
    qemu.parent.mkdir(parents=True)
    shutil.copy("/bin/sh", qemu)
    bins = tmp_path / "bin"
    bins.mkdir()
    shutil.copy("/bin/sh", bins / "lev-node")
    image = labimage.LabImage(
        agent=busybox,
        bin_dir=bins,
        qemu=qemu,
        module_parameters={"kvm-amd": "npt=0"},
        files={"/guest/data": b"x", "/job": bins / "lev-node"},
    )
    built = labimage.build(kernel, image)
    root = unpack(built.archive.bytes(), tmp_path / "root")
    assert built.qemu == "/usr/bin/qemu-system-x86_64"
    assert (root / built.qemu.lstrip("/")).exists()
    assert (root / "usr/share/seabios/bios-256k.bin").read_text() == "usr/share/seabios/bios-256k.bin"
    assert (root / "usr/lib/leviathan/lev-node").exists()
    assert not (root / "usr/lib/leviathan/liblev_facade.so").exists()
    assert "kvm_amd.ko npt=0\n" in (root / "lev/modules/base").read_text()
    assert (root / "job").stat().st_mode & 0o111
    assert not (root / "guest/data").stat().st_mode & 0o111


def test_a_kernel_without_kvm_cannot_be_a_lab(busybox: Path, tmp_path: Path) -> None:
    bare = tree(tmp_path / "bare", {"virtio_pci.ko": module("")})
    with pytest.raises(ImageError, match="kvm_amd"):
        labimage.build(bare, labimage.LabImage(agent=busybox, bin_dir=tmp_path, qemu=None))


def test_the_initramfs_as_a_file_goes_with_the_kernel_that_is_printed(
    kernel: Kernel, busybox: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "built"
    release = kernel.release
    (root / "boot").mkdir(parents=True)
    vmlinuz = root / f"boot/vmlinuz-{release}"
    vmlinuz.write_bytes(b"an image")
    assert kernel.modules is not None
    shutil.copytree(kernel.modules, root / "lib/modules" / release)
    file = tmp_path / "rootfs.cpio.gz"
    cli.app(["images", "initramfs", str(file), "--kernel", str(vmlinuz)], standalone_mode=False)
    assert capsys.readouterr().out == f"{vmlinuz}\n"
    unpacked = unpack(gzip.decompress(file.read_bytes()), tmp_path / "root")
    assert (unpacked / "lev/modules/base").read_text() == "virtio_ring.ko\nvirtio_pci.ko\n"
    assert not (unpacked / "lev/exec").exists()


def test_an_initramfs_for_machines_that_are_not_known(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--arch m68k: known are amd64, arm64"):
        cli.app(["images", "initramfs", str(tmp_path / "f"), "--arch", "m68k"], standalone_mode=False)
    assert not (tmp_path / "f").exists()
