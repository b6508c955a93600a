import gzip
import lzma
import struct
from pathlib import Path

import pytest

from leviathan.images import kernel
from leviathan.images.kernel import Kernel, KernelError


def module(depends: str) -> bytes:
    """The smallest file with a section .modinfo."""
    info = f"license=GPL\0depends={depends}\0name=x\0".encode()
    names = b"\0.modinfo\0.shstrtab\0"
    table = 64 + len(info) + len(names)
    head = (
        b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 3, 2)
    )

    def section(name: int, offset: int, size: int) -> bytes:
        return struct.pack("<IIQQQQIIQQ", name, 1, 0, 0, offset, size, 0, 0, 1, 0)

    sections = section(0, 0, 0) + section(1, 64, len(info)) + section(10, 64 + len(info), len(names))
    return head + info + names + sections


def tree(root: Path, modules: dict[str, bytes], builtin: str = "") -> Kernel:
    folder = root / "kernel/drivers"
    folder.mkdir(parents=True)
    for name, data in modules.items():
        (folder / name).write_bytes(data)
    (root / "modules.builtin").write_text(builtin)
    return Kernel(Path("/vmlinuz"), root, "1.2.3")


def test_modules_come_after_what_they_need(tmp_path: Path) -> None:
    found = tree(
        tmp_path,
        {
            "virtio-net.ko": module("net_failover,virtio"),
            "net_failover.ko.xz": lzma.compress(module("failover")),
            "failover.ko.gz": gzip.compress(module("")),
            "virtio.ko": module(""),
        },
        builtin="kernel/drivers/net/tun.ko\n",
    )
    order = found.load_order(["virtio_net", "tun", "virtio"])
    assert [name for name, _ in order] == ["failover", "net_failover", "virtio", "virtio_net"]
    assert order[0][1] == module("")


def test_built_in_counts_as_there(tmp_path: Path) -> None:
    found = tree(tmp_path, {"a.ko": module("virtio-ring")}, builtin="kernel/drivers/virtio/virtio_ring.ko\n")
    assert [name for name, _ in found.load_order(["a"])] == ["a"]
    assert found.has("virtio-ring")
    assert not found.has("kvm")


def test_a_missing_module_is_named_with_its_user(tmp_path: Path) -> None:
    found = tree(tmp_path, {"a.ko": module("b")})
    with pytest.raises(KernelError, match=r"1\.2\.3 has no b \(needed by a\)") as caught:
        found.load_order(["a"])
    assert caught.value.hint


def test_damaged_modules_are_refused(tmp_path: Path) -> None:
    good = module("b")
    for bad in (b"", good[:70], good[:40] + b"\xff" * 8 + good[48:]):
        with pytest.raises(KernelError):
            kernel.dependencies(bad)
    assert kernel.dependencies(good) == ["b"]


def image(release: str) -> bytes:
    head = bytearray(0x1000)
    head[0x202:0x206] = b"HdrS"
    head[0x20E:0x210] = struct.pack("<H", 0x400)
    head[0x600 : 0x600 + len(release) + 10] = release.encode() + b" (me@here)"
    return bytes(head)


def test_release_is_read_from_the_image(tmp_path: Path) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(image("6.1.0-9-cloud-amd64"))
    assert kernel.release_of(path) == "6.1.0-9-cloud-amd64"
    path.write_bytes(b"\x7fELF" + bytes(5000))
    with pytest.raises(KernelError, match="bzImage"):
        kernel.release_of(path)
    with pytest.raises(KernelError, match="No such file"):
        kernel.release_of(tmp_path / "none")


def install(root: Path, release: str, modules: dict[str, bytes]) -> None:
    (root / "boot").mkdir(parents=True, exist_ok=True)
    (root / f"boot/vmlinuz-{release}").write_bytes(image(release))
    tree(root / "lib/modules" / release, modules)


def test_the_newest_kernel_with_the_drivers_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place = tmp_path / "leviathan/kernels/linux-image-x"
    install(place, "6.1.0-9-amd64", {"kvm-amd.ko": module("")})
    install(place, "6.1.0-10-amd64", {"kvm-amd.ko": module("")})
    install(place, "6.12.0-1-amd64", {"loop.ko": module("")})
    monkeypatch.setattr(kernel, "installed", lambda root=tmp_path / "empty", real=kernel.installed: real(root))
    assert kernel.find(needs=["kvm_amd"]).release == "6.1.0-10-amd64"
    assert kernel.find().release == "6.12.0-1-amd64"


def test_without_apt_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KernelError, match="apt-get") as caught:
        kernel.fetch()
    assert "--kernel" in str(caught.value.hint)


def test_a_failing_apt_gets_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, text in (("apt-get", "echo 'E: no network' >&2; exit 100"), ("apt-cache", "exit 0"), ("dpkg-deb", "")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(KernelError, match="does not know the package") as caught:
        kernel.fetch()
    assert "sudo apt-get update" in str(caught.value.hint)
    with pytest.raises(KernelError, match="no network"):
        kernel.fetch(package="linux-image-1")
    assert list((tmp_path / "leviathan/kernels").iterdir()) == []
