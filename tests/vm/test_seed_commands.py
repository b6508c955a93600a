"""Command lines as our users have them, given to `lev` as they are: only the images that they name are made first.

Each file is what people type today; where it says `/tmp/…`, a folder of the test's is meant, and screens are shown on a
display that nobody else uses. Slow: an Arm kernel is built, systems are installed for both architectures.
`$LEV_TEST_TREE` names sources of a kernel, `$LEV_TEST_DISK` a disk with the system of the last test.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from console import Console
from cxl_guest import image
from lev_run import lev
from rfb import Screen, look

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(5 * 3600)]

SEEDS = Path(__file__).resolve().parents[1] / "data/seed"
DISPLAY = 38
SCREEN = ("--set", f"display.vnc=127.0.0.1:{DISPLAY}")
WORK_SECONDS = 2 * 3600
BOOT_SECONDS = 2400
SHELL = r"leviathan:(~|/root)# "
"""Of our init: busybox of different releases, different prompts."""
RED = (b"\x00\x00\xa8", b"\x00\x00\xaa")
"""Blue, green, red: of text modes, whose colours have six bits, and of the kernel's console on a frame buffer."""


def seed(folder: Path, name: str, *changes: tuple[str, str]) -> str:
    """A seed file; `/tmp` is the test's folder."""
    text = (SEEDS / name).read_text().replace("/tmp/", f"{folder}/")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / name
    path.write_text(text)
    return str(path)


def call(*words: str, folder: Path | None = None, seconds: float = WORK_SECONDS) -> str:
    """A `lev` that must end well; returns what it printed."""
    done = subprocess.run([lev(), *words], cwd=folder, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, f"{words}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout.strip()


def red_part(screen: Screen) -> float:
    """How much of a screen is red."""
    points = [screen.pixels[at : at + 3] for at in range(0, len(screen.pixels), 4)]
    return sum(points.count(red) for red in RED) / len(points)


PAINT = r"printf '\033[41m\033[2J' > /dev/tty"
"""Makes a text screen red; the terminal's number follows."""


@pytest.fixture(scope="module")
def arm_qemu() -> str:
    return image("qemu", "sid", "arm64")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The kernel's sources: `$LEV_TEST_TREE`, or those that Debian's package has."""
    if given := os.environ.get("LEV_TEST_TREE"):
        yield Path(given)
        return
    packed = sorted(Path("/usr/src").glob("linux-source-*.tar.xz"))
    if not packed or shutil.which("aarch64-linux-gnu-gcc") is None:
        pytest.skip("needs the packages linux-source and gcc-aarch64-linux-gnu")
    folder = tmp_path_factory.mktemp("tree")
    subprocess.run(["tar", "-xf", packed[-1], "-C", folder], check=True)
    yield next(folder.iterdir())
    shutil.rmtree(folder)


def test_the_kernel_is_built_and_boots_to_its_memory_device(tmp_path: Path, tree: Path, arm_qemu: str) -> None:
    """kernel-build.txt, then cxl-virt-kernel.args."""
    done = subprocess.run([lev(), "qemu", "--from", SEEDS / "kernel-build.txt"], capture_output=True, text=True)
    assert done.returncode == 2
    words = re.search(r"hint: run lev (kernel build) TREE (--arch arm64 --cxl)", done.stderr)
    assert words, done.stderr
    out = tmp_path / "built"
    kernel = call(*words[1].split(), str(tree), *words[2].split(), "--config", "tinyconfig", "--out", str(out))
    assert Path(kernel).parent == out / "root/boot"
    assert call(
        "images", "initramfs", "rootfs.cpio.gz", "--kernel", kernel, "--arch", "arm64", "--cxl", folder=tmp_path
    )
    (tmp_path / "Image").symlink_to(kernel)
    firmware = Path(arm_qemu).parent / "tree/usr/share/qemu-efi-aarch64/QEMU_EFI.fd"
    (tmp_path / "QEMU_EFI.fd").symlink_to(firmware)
    # The monitor's port, too, is everybody's.
    file = seed(tmp_path, "cxl-virt-kernel.args", ("telnet:127.0.0.1:4444", f"telnet:127.0.0.1:{4444 + DISPLAY}"))
    with Console(tmp_path, "qemu", "--qemu", arm_qemu, "--from", file) as console:
        console.until(SHELL, BOOT_SECONDS)
        at = console.type("cxl list -M; uname -r; poweroff\n")
        release = Path(kernel).name.removeprefix("vmlinuz-")
        console.until(rf'(?s)"memdev":"mem0".*"pmem_size":268435456.*\n{re.escape(release)}\r', 300, at)
        assert console.end(300) == 0, console.told()
        assert "cxl-fmw.0.targets.0=cxl.1,cxl-fmw.0.size=4G" in console.said()


def test_a_qemu_without_cxl_on_arm_is_refused_with_the_remedy(tmp_path: Path) -> None:
    for name in ("Image", "rootfs.cpio.gz", "QEMU_EFI.fd"):
        (tmp_path / name).write_bytes(bytes(4096))
    file = seed(tmp_path, "cxl-virt-kernel.args")
    words = [lev(), "qemu", "--qemu", image("qemu", "trixie", "arm64"), "--from", file]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert "has no CXL for 'virt'; QEMU 10.2 and newer do" in done.stderr
    assert "lev images get qemu --suite sid --arch arm64" in done.stderr
    assert not (tmp_path / "cxltest.raw").exists()


def test_an_arm_disk_boots_to_its_memory_device(tmp_path: Path, arm_qemu: str) -> None:
    """cxl-virt-disk.args."""
    from leviathan.images.foreign import runs

    if shutil.which("mmdebstrap") is None or shutil.which("mformat") is None:
        pytest.skip("needs the packages mmdebstrap and mtools")
    if not runs("arm64"):
        pytest.skip("programs of arm64 do not run here: install qemu-user-static and binfmt-support")
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "vm_disk").mkdir()
    disk = str(tmp_path / "vm_disk/ubuntu_cxl.qcow2")
    system = ("--install", "trixie", "--arch", "arm64", "--package", "cxl", "--hostname", "cxlbox")
    call("disk", "create", disk, "3G", *system)
    (tmp_path / "ubuntu-20.04.5-desktop-amd64.iso").write_bytes(bytes(1 << 20))
    file = seed(work, "cxl-virt-disk.args")
    with Console(work, "qemu", *SCREEN, "--qemu", arm_qemu, "--from", file) as console:
        console.until(r"root@cxlbox:~# ", BOOT_SECONDS)
        at = console.type("cxl list -M; findmnt -no SOURCE /; poweroff\n")
        console.until(r'(?s)"memdev":"mem0".*"pmem_size":268435456.*/dev/vda1\r', 300, at)
        assert console.end(BOOT_SECONDS) == 0, console.told()


def test_an_installer_boots_from_its_disc_and_shows_its_screen(tmp_path: Path) -> None:
    """disk-image.txt."""
    if not all(shutil.which(tool) for tool in ("grub-mkrescue", "xorriso", "mformat", "qemu-img")):
        pytest.skip("needs the packages grub-pc-bin, grub-common, xorriso, mtools and qemu-utils")
    boot = tmp_path / "iso/boot"
    (boot / "grub").mkdir(parents=True)
    shutil.copy(call("images", "initramfs", str(boot / "initrd.gz")), boot / "vmlinuz")
    (boot / "grub/grub.cfg").write_text(
        "linux /boot/vmlinuz console=tty0 console=ttyS0\ninitrd /boot/initrd.gz\nboot\n"
    )
    disc = tmp_path / "ubuntu-16.04.7-server-amd64.iso"
    subprocess.run(["grub-mkrescue", "-o", disc, tmp_path / "iso"], capture_output=True, check=True)
    file = seed(tmp_path, "disk-image.txt")
    first = (SEEDS / "disk-image.txt").read_text().splitlines()[0].split()
    assert first[0] == "qemu-img"
    subprocess.run(first, cwd=tmp_path, capture_output=True, check=True)
    with Console(tmp_path, "qemu", *SCREEN, "--from", file) as console:
        console.until(SHELL, BOOT_SECONDS)
        screen = look(5900 + DISPLAY)
        assert screen.colours() > 1, "the kernel's messages are on the screen"
        at = console.type(f"{PAINT}0; echo painted\n")
        console.until(r"\npainted\r", 60, at)
        assert red_part(look(5900 + DISPLAY)) > 0.9
        console.type("poweroff\n")
        assert console.end(300) == 0, console.told()


def test_the_two_terminals_are_one_machine_on_a_real_disk(tmp_path: Path) -> None:
    """giantvm-terminal-1.args and -2.args: the second as it is does not agree, and is told so."""
    disk = tmp_path / "ubuntu-server.img"
    if given := os.environ.get("LEV_TEST_DISK"):
        shutil.copyfile(given, disk)
    elif shutil.which("mmdebstrap") is None:
        pytest.skip("needs the package mmdebstrap")
    else:
        call("disk", "create", str(disk), "3G", "--install", "bookworm", "--hostname", "testbox")
    env = {"XDG_RUNTIME_DIR": str(tmp_path)}
    patience = [f"--set=timeouts.{name}=1200" for name in ("lab", "workers", "ready", "stop")]
    wrong = seed(tmp_path, "giantvm-terminal-2.args")
    head = ("qemu", *patience, *SCREEN, "--from", seed(tmp_path, "giantvm-terminal-1.args"))
    with Console(tmp_path, *head, name="head", env=env) as first:
        with Console(tmp_path, "qemu", "--from", wrong, name="wrong", env=env) as refused:
            assert refused.end(600) == 2
            assert "-m does not agree: 4G in node 0 (start=0), 2G in node 1 (start=2)" in refused.said()
        right = seed(tmp_path, "giantvm-terminal-2.args", ("-m 2048", "-m 4096"))
        with Console(tmp_path, "qemu", "--from", right, name="worker", env=env) as second:
            first.until(r"root@testbox:~# ", 2 * 3600)
            # Those of the worker, too, which the boot left for the end.
            nodes = "$(ls -d /sys/devices/system/node/node[0-9]* | wc -l)"
            # A CPU of the other node paints.
            at = first.type(f'echo cpus=$(nproc) nodes={nodes}; taskset -c 3 sh -c "{PAINT}1"; echo painted\n')
            first.until(r"(?s)\rcpus=4 nodes=2\r.*\npainted\r", 1800, at)
            assert red_part(look(5900 + DISPLAY, 900)) > 0.9
            first.type("poweroff\n")
            assert first.end(1800) == 0, first.told()
            assert second.end(600) == 0, second.told()
            assert "the VM has ended" in second.said()
