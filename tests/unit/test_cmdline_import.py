"""QEMU command lines become machine descriptions: what people have, and what is wrong with it."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from leviathan.cli.app import app
from leviathan.cmdline.describe import Imported, describe
from leviathan.cmdline.giant import Part
from leviathan.cmdline.shell import split_commands
from leviathan.cmdline.sources import from_text, import_sources
from leviathan.errors import LeviathanError, UsageError
from leviathan.model import load_machine, make_machine
from leviathan.model.dump import machine_toml

DATA = Path(__file__).resolve().parents[1] / "data"


def of(text: str, *, screen: bool = True) -> Imported:
    (command,) = split_commands(text, "test")
    return describe(command.words, screen=screen)


def seed(name: str) -> Imported:
    return import_sources(from_text((DATA / "seed" / name).read_text(), name), screen=True)


def notes(imported: Imported) -> str:
    return "\n".join(imported.notes.lines())


# --- the seed ---


def test_seed_disk_on_aarch64() -> None:
    imported = seed("cxl-virt-disk.args")
    machine = imported.machine
    assert (machine.arch, machine.machine_type, machine.gic_version, machine.nodes) == ("aarch64", "virt", "3", 0)
    assert (machine.memory, machine.memory_max, machine.memory_slots) == (4 << 30, 8 << 30, 8)
    assert [(str(disk.file), disk.cdrom) for disk in machine.disks] == [
        ("../vm_disk/ubuntu_cxl.qcow2", False),
        ("../ubuntu-20.04.5-desktop-amd64.iso", True),
    ]
    assert machine.cxl is not None
    (device,) = machine.cxl.memory
    assert (device.name, device.port, device.serial) == ("cxl-pmem0", "root_port13", None)
    assert device.persistent is not None
    assert (str(device.persistent.file), device.persistent.size) == ("/tmp/cxltest.raw", 256 << 20)
    assert device.labels is not None
    assert device.labels.name == "cxl-lsa1"
    assert machine.cxl.windows is not None
    assert [(window.targets, window.size) for window in machine.cxl.windows] == [(["cxl.1"], 4 << 30)]
    assert "persistent-memdev=" in notes(imported)
    assert "no sn=" in notes(imported)
    assert machine.qemu_args == []


def test_seed_kernel_with_the_old_window() -> None:
    imported = seed("cxl-virt-kernel.args")
    machine = imported.machine
    assert machine.cxl == seed("cxl-virt-disk.args").machine.cxl
    assert (str(machine.kernel), str(machine.initrd), str(machine.firmware)) == (
        "Image",
        "rootfs.cpio.gz",
        "QEMU_EFI.fd",
    )
    assert machine.append == "console=ttyAMA0 root=/dev/ram rdinit=/init acpi=on"
    assert machine.serial == ["stdio"]
    assert machine.monitor == ["telnet:127.0.0.1:4444,server,nowait"]
    assert "-cxl-fixed-memory-window targets.0=cxl.1,size=4G" in notes(imported)
    assert "before CXL came to QEMU 7.1" in notes(imported)


def test_seed_giant_vm() -> None:
    head, worker = seed("giantvm-terminal-1.args"), seed("giantvm-terminal-2.args")
    assert head.part == Part(2, 0, ("127.0.0.1", "127.0.0.1"))
    assert worker.part == Part(2, 2, ("127.0.0.1", "127.0.0.1"))
    assert (head.part.node, worker.part.node, head.part.nodes) == (0, 1, 2)
    assert (head.machine.nodes, head.machine.cpus, head.machine.memory) == (2, 4, 4 << 30)
    assert head.machine.display.vnc == ":0"
    assert "kernel-irqchip=off: removed in QEMU 8.0" in notes(head)
    assert "kernel-irqchip=split" in notes(head)


def test_what_a_giant_vm_does_not_have_is_said() -> None:
    line = (
        "qemu-system-x86_64 -M q35,smm=on -cpu EPYC -smp 4,sockets=1 -m 1G,maxmem=2G,slots=2 -hda x "
        "-local-cpu 2,start=0,iplist='127.0.0.1 127.0.0.1' -monitor telnet::4444,server -display gtk"
    )
    imported = of(line)
    machine = imported.machine
    assert (machine.cpu.model, machine.memory_max, machine.machine_options, machine.monitor) == (None, None, {}, [])
    assert machine.display.vnc == "127.0.0.1:0"
    for words in ("-cpu host", "-machine smm", "-m maxmem=", "-monitor telnet::4444,server", "-vnc 127.0.0.1:0"):
        assert words in notes(imported)


def test_seed_terminals_do_not_agree_on_memory() -> None:
    both = [
        source
        for name in ("giantvm-terminal-1.args", "giantvm-terminal-2.args")
        for source in from_text((DATA / "seed" / name).read_text(), name)
    ]
    with pytest.raises(UsageError) as raised:
        import_sources(both, screen=True)
    assert raised.value.message == ("-m does not agree: 4G in giantvm-terminal-1.args, 2G in giantvm-terminal-2.args")
    assert "the same in every node's command" in (raised.value.hint or "")


def test_seed_disk_creation_holds_one_qemu() -> None:
    imported = seed("disk-image.txt")
    assert [(str(disk.file), disk.interface, disk.cdrom) for disk in imported.machine.disks] == [
        ("ubuntu-server.img", "ide", False),
        ("ubuntu-16.04.7-server-amd64.iso", "ide", True),
    ]
    assert imported.machine.accel == "kvm"
    assert "`qemu-img` makes or converts an image" in notes(imported)
    assert "`vncviewer` shows the screen" in notes(imported)


@pytest.mark.parametrize(
    ("name", "first", "hint"),
    [
        ("host-kernel.txt", "`make` builds something", "leave all of it out: a giant VM runs on the installed kernel"),
        ("kernel-build.txt", "`make` builds a guest's kernel", "run lev kernel build TREE --arch arm64 --cxl"),
    ],
)
def test_seed_files_without_qemu_say_what_to_do_instead(name: str, first: str, hint: str) -> None:
    with pytest.raises(UsageError, match=f"{name} has no QEMU command") as raised:
        seed(name)
    assert first in raised.value.message
    assert (raised.value.hint or "").startswith(hint)


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs qemu-system-x86_64")
def test_a_plan_of_a_line_with_kvm_is_what_would_run_here(tmp_path: Path) -> None:
    disk = tmp_path / "ubuntu-server.img"
    disk.write_bytes(bytes(4096))
    line = f"qemu-system-x86_64 -m 1024 {disk} -enable-kvm -cpu host -nographic"
    result = CliRunner().invoke(app, ["qemu", "--dry-run", "--", *line.split()])
    assert result.exit_code == 0, result.exception
    accelerator = re.search(r" -accel (kvm|tcg) -cpu (\w+)", result.stdout)
    assert accelerator, result.stdout
    assert accelerator.groups() in (("kvm", "host"), ("tcg", "max"))


@pytest.mark.parametrize("path", sorted((DATA / "cxl").glob("*.args")), ids=lambda path: path.name)
def test_arguments_that_ran(path: Path) -> None:
    imported = import_sources(from_text(path.read_text(), path.name), screen=True)
    machine = imported.machine
    assert machine.qemu_args == []
    assert machine.cxl is not None
    assert machine.cxl.windows
    # Each device is on a port that is there.
    ports = {port.name for bridge in machine.cxl.host_bridges or [] for port in bridge.root_ports or []}
    ports |= {port.name for switch in machine.cxl.switches for port in switch.ports}
    assert {device.port for device in machine.cxl.memory} <= ports


@pytest.mark.parametrize("path", sorted(DATA.glob("*/*.args")), ids=lambda path: path.name)
def test_machine_files_come_back(path: Path, tmp_path: Path) -> None:
    machine = import_sources(from_text(path.read_text(), path.name), screen=True).machine
    text = machine_toml(machine)
    assert make_machine(tomllib.loads(text)) == machine
    # Relative paths count from the file's folder.
    (tmp_path / "machine.toml").write_text(text)
    assert load_machine(tmp_path / "machine.toml").cpus == machine.cpus


# --- what options mean ---


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("-m 2048", {"memory": 2 << 30}),
        ("-m 1.5G", {"memory": 1536 << 20}),
        ("-m 1G -m 2G,slots=4,maxmem=8G", {"memory": 2 << 30, "memory_max": 8 << 30, "memory_slots": 4}),
        ("-smp sockets=2,cores=2,threads=1", {"cpus": 4}),
        ("-smp cpus=8", {"cpus": 8}),
        ("-nographic", {"serial": ["mon:stdio"], "monitor": []}),
        ("-nographic -serial tcp::4444,server", {"serial": ["tcp::4444,server"], "monitor": ["stdio"]}),
        ("-nographic -monitor none", {"serial": ["stdio"], "monitor": []}),
        ("-no-reboot", {"reboot": "cold"}),
        ("-name my-vm", {"name": "my-vm"}),
        ("-accel tcg", {"accel": "tcg"}),
        ("-accel kvm -accel tcg", {"accel": "auto"}),
        ("-machine q35,accel=kvm:tcg", {"accel": "auto"}),
        ("-no-kvm", {"accel": "tcg"}),
        ("-M q35,smm=off,hpet=on", {"machine_options": {"smm": False, "hpet": True}}),
        ("-M pc-q35-7.2", {"machine_type": "q35", "qemu_args": ["-machine", "pc-q35-7.2"]}),
        ("-kernel k -append 'a b'", {"append": "a b"}),
        ("-device virtio-rng-pci -usb", {"qemu_args": ["-device", "virtio-rng-pci", "-usb"]}),
        ("-numa node,mem=512M,cpus=0 -numa node,mem=512M -smp 1", {}),
    ],
)
def test_plain_options(text: str, fields: dict[str, Any]) -> None:
    machine = of(f"qemu-system-x86_64 {text}").machine
    assert {name: getattr(machine, name) for name in fields} == fields


def test_drives_with_their_devices() -> None:
    machine = of(
        "qemu-system-x86_64 -nodefaults -drive file=a.qcow2,if=none,id=d0,format=qcow2,cache=none "
        "-device virtio-blk-pci,drive=d0,id=disk7,bootindex=1,num-queues=2 -drive if=virtio,file=b.raw,format=raw "
        "-drive if=none,id=odd,file=c -device usb-storage,drive=odd"
    ).machine
    first, second = machine.disks
    assert (first.name, first.interface, first.format, first.boot_index) == ("d0", "virtio", "qcow2", 1)
    assert first.options == {"num-queues": 2}
    assert first.drive_options == {"cache": "none"}
    assert (str(second.file), second.interface) == ("b.raw", "virtio")
    # What a description has no word for stays QEMU's, both halves, in order.
    assert machine.qemu_args == ["-drive", "if=none,id=odd,file=c", "-device", "usb-storage,drive=odd"]


def test_networks() -> None:
    machine = of(
        "qemu-system-x86_64 -netdev user,id=n0,hostfwd=tcp::2222-:22,net=10.1.0.0/24 "
        "-device e1000,netdev=n0,mac=52:54:00:00:00:01 "
        "-nic tap,ifname=tap0,script=no,model=virtio"
    ).machine
    first, second = machine.networks
    assert (first.kind, first.model, first.mac) == ("user", "e1000", "52:54:00:00:00:01")
    assert [(each.host, each.guest, each.address) for each in first.forward] == [(2222, 22, "")]
    assert first.backend_options == {"net": "10.1.0.0/24"}
    assert (second.kind, second.interface, second.model) == ("tap", "tap0", "virtio-net-pci")
    assert of("qemu-system-x86_64 -net none").machine.networks == []
    assert of("qemu-system-x86_64 -nodefaults").machine.networks == []
    assert [net.model for net in of("qemu-system-x86_64 -M q35").machine.networks] == ["e1000e"]
    old = of("qemu-system-x86_64 -net nic,model=e1000 -net user")
    assert [(net.model, net.kind) for net in old.machine.networks] == [("e1000", "user")]
    assert "the old way to write a network" in notes(old)


def test_flash_is_firmware_and_its_variables() -> None:
    machine = of(
        "qemu-system-x86_64 -drive if=pflash,format=raw,unit=0,readonly=on,file=CODE.fd "
        "-drive if=pflash,format=raw,unit=1,file=VARS.fd"
    ).machine
    assert (str(machine.firmware), str(machine.firmware_variables)) == ("CODE.fd", "VARS.fd")


def test_the_screen_that_qemu_would_open() -> None:
    assert of("qemu-system-x86_64 -m 1G").machine.display.window == "gtk"
    headless = of("qemu-system-x86_64 -m 1G", screen=False)
    assert headless.machine.display.vnc == "127.0.0.1:0"
    assert "there is no screen here" in notes(headless)
    assert of("qemu-system-x86_64 -display none").machine.display.window == "none"


def test_boot_order() -> None:
    disks = of("qemu-system-x86_64 -hda a -cdrom b.iso -boot d").machine.disks
    assert [(disk.cdrom, disk.boot_index) for disk in disks] == [(False, None), (True, 0)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("-no-acpi", "-machine acpi=off"),
        ("-no-hpet", "-machine hpet=off"),
        ("-soundhw hda", "-audio none,model=hda"),
        ("-watchdog i6300esb", "-device i6300esb"),
        ("-balloon virtio", "-device virtio-balloon"),
        ("-localtime", "-rtc base=localtime"),
        ("-sdl", "-display sdl"),
        ("-chardev tty,id=c,path=/dev/ttyS0", "-chardev serial"),
        ("-enable-hax", "left out"),
        ("-machine kernel_irqchip=off", "left out: without KVM it has no effect"),
        ("-enable-kvm -machine kernel_irqchip=off", "kernel-irqchip=split"),
        ("-singlestep", "-accel tcg,one-insn-per-tb=on"),
    ],
)
def test_what_qemu_removed_is_translated_and_said(old: str, new: str) -> None:
    imported = of(f"qemu-system-x86_64 {old}")
    assert any(note.kind == "changed" and note.into == new for note in imported.notes.notes), notes(imported)


# --- the command ---


def lev(*words: str, text: str | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["import", *words], input=text)
    if isinstance(result.exception, LeviathanError):
        return result.exception.exit_code, result.stdout, result.exception.message
    return result.exit_code, result.stdout, result.stderr


def test_import_writes_a_machine_file(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(b"\0" * 510 + b"\x55\xaa")
    code, out, err = lev("--", "qemu-system-x86_64", "-hda", str(disk), "-m", "4G", "-nographic", "-usb")
    assert code == 0
    assert tomllib.loads(out)["disks"] == [{"file": str(disk), "interface": "ide"}]
    assert err.splitlines() == ["kept: -usb: passed to QEMU as it is"]
    # Without the two dashes, too: none of QEMU's options is taken for one of ours.
    words = ["-hda", str(disk), "-m", "4G", "--nographic", "-usb"]
    assert lev(*words)[1] == out
    target = tmp_path / "vm.toml"
    assert lev("--output", str(target), *words)[1] == ""
    assert target.read_text() == out
    # What is wrong with the machine is said, and the file is written all the same.
    disk.unlink()
    code, again, err = lev(*words)
    assert (code, again) == (0, out)
    assert f"wrong: disks.0.file: there is no image {disk}" in err


def test_import_reads_files_and_standard_input() -> None:
    path = DATA / "seed/cxl-virt-kernel.args"
    code, out, _ = lev(str(path))
    assert code == 0
    assert lev("--from", str(path))[1] == out
    assert lev("--from", "-", text=path.read_text())[1] == out
    assert lev(text=path.read_text())[1] == out
    assert '"notes"' in lev("--json", str(path))[1]


def test_import_says_what_it_cannot_read(tmp_path: Path) -> None:
    assert lev("--from", str(tmp_path / "none"))[::2] == (2, f"cannot read {tmp_path}/none: No such file or directory")
    assert "--from and a command line" in lev("--from", "x", "-m", "1G")[2]
