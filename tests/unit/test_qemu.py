"""QEMU: the binary at hand, the command line, the monitor protocol."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from leviathan.errors import StartError
from leviathan.model import Machine, NodeShare, homes
from leviathan.qemu.binary import parse_version, probe_binary
from leviathan.qemu.command import (
    HANDED_WORDS,
    PARAVIRTUAL,
    PATIENT,
    PORTS,
    HeadCommand,
    head_command,
    head_environment,
    kernel_words,
)
from leviathan.qemu.qmp import QmpError, QmpSession

HEAD = HeadCommand(qemu="/usr/bin/qemu", kernel="/k", initrd="/i", folder="/tmp/f", tsc_khz=2_400_000)


def option(argv: list[str], name: str) -> list[str]:
    """All values of an option."""
    return [argv[index + 1] for index, word in enumerate(argv) if word == name]


def fake(folder: Path, script: str) -> str:
    path = folder / "qemu-fake"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_version_of_distributions() -> None:
    debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright (c) 2003-2022\n"
    assert parse_version(debian) == ((7, 2, 22), debian.splitlines()[0])
    assert parse_version("QEMU emulator version 10.0.2 (v10.0.2)\n")[0] == (10, 0, 2)
    with pytest.raises(ValueError, match="no version"):
        parse_version("qemu: not found")


def test_probing_records_version_and_checksum(tmp_path: Path) -> None:
    path = fake(tmp_path, "echo 'QEMU emulator version 9.1.3 (Own 9.1)'")
    binary = probe_binary(path)
    assert binary.version == (9, 1, 3)
    assert binary.version_text == "9.1.3"
    assert binary.sha256 == hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'QEMU emulator version 6.2.0'", "QEMU 6.2; 7.2 or newer"),
        ("echo hello", "is not QEMU: `--version` said: hello"),
        ("echo 'cannot open libfoo' >&2; exit 127", "said: cannot open libfoo"),
    ],
)
def test_what_is_no_usable_qemu(tmp_path: Path, script: str, message: str) -> None:
    with pytest.raises(StartError, match=message):
        probe_binary(fake(tmp_path, script))


def test_a_qemu_that_is_not_there() -> None:
    with pytest.raises(StartError, match="no such program"):
        probe_binary("/nowhere/qemu")
    with pytest.raises(StartError, match="not on PATH") as raised:
        probe_binary("qemu-system-nowhere")
    assert "apt-get install" in (raised.value.hint or "")


def test_the_giant_vm_uses_split_irqchip_and_no_paravirtual_features() -> None:
    argv = head_command(Machine(cpus=4, nodes=2), HEAD)
    (machine,) = option(argv, "-machine")
    assert {"q35", "accel=kvm", "kernel-irqchip=split", "smm=off"} <= set(machine.split(","))
    (cpu,) = option(argv, "-cpu")
    assert cpu.split(",")[0] == "host"
    assert {f"{name}=off" for name in PARAVIRTUAL} | {"tsc-deadline=off"} <= set(cpu.split(","))


def test_the_baseline_is_stock() -> None:
    machine = Machine(nodes=0)
    argv = head_command(machine, HEAD)
    assert "irqchip" not in " ".join(argv)
    assert option(argv, "-cpu") == ["host"]
    assert option(argv, "-numa") == []
    assert "tsc" not in kernel_words(machine, HEAD)
    assert head_environment(machine, "/b", "/c") == {}


def test_each_node_is_a_numa_node_with_its_own_cpus_and_memory() -> None:
    machine = Machine(nodes=[NodeShare(cpus=1, memory="512M"), NodeShare(cpus=3, memory="1G")])
    argv = head_command(machine, HEAD)
    assert option(argv, "-m") == ["1536M"]
    assert option(argv, "-smp") == ["4,sockets=4,cores=1,threads=1"]
    assert option(argv, "-object") == ["memory-backend-ram,id=mem0,size=512M", "memory-backend-ram,id=mem1,size=1G"]
    assert option(argv, "-numa") == [
        "node,nodeid=0,memdev=mem0,cpus=0",
        "node,nodeid=1,memdev=mem1,cpus=1-3",
        "dist,src=0,dst=1,val=20",
    ]


def test_ports_and_environment() -> None:
    machine = Machine()
    text = " ".join(head_command(machine, HEAD))
    for port in PORTS:
        assert f"pipe,id={port},path=/tmp/f/{port}" in text
        assert f"name=org.leviathan.{port}" in text
    assert head_environment(machine, "/b", "/c.json") == {
        "LD_PRELOAD": "/b/liblev_facade.so",
        "LEV_FACADE": "/b/liblev_facade.so",
        "LEV_CLUSTER": "/c.json",
    }


def test_words_of_the_user_come_last_and_a_reboot_ends_qemu_unless_allowed() -> None:
    machine = Machine(append="loglevel=7", qemu_args=["-device", "virtio-rng-pci"])
    argv = head_command(machine, HEAD)
    assert argv[-2:] == ["-device", "virtio-rng-pci"]
    assert option(argv, "-append")[0].endswith("tsc_early_khz=2400000 loglevel=7")
    assert "-no-reboot" in argv
    ticking = HeadCommand(**{**{name: getattr(HEAD, name) for name in HEAD.__slots__}, "tick_hz": 250})
    assert "lpj=9600000" in option(head_command(machine, ticking), "-append")[0].split()
    late = HeadCommand(**{**{name: getattr(HEAD, name) for name in HEAD.__slots__}, "late_cpus": True})
    words = option(head_command(Machine(nodes=2, cpus=4), late), "-append")[0].split()
    assert words[-3:] == ["noreplace-smp", "maxcpus=2", "lev.cpus=late"]
    again = HeadCommand(**{**{name: getattr(HEAD, name) for name in HEAD.__slots__}, "restart_on_reboot": True})
    assert "-no-reboot" not in head_command(machine, again)


def test_a_guest_that_boots_from_its_own_disk_is_handed_the_kernels_words(tmp_path: Path) -> None:
    disk = tmp_path / "d.raw"
    disk.touch()
    late = HeadCommand(**{**{name: getattr(HEAD, name) for name in HEAD.__slots__}, "late_cpus": True})
    own = {"disks": [{"file": disk}], "boot": "firmware", "append": "loglevel=7"}
    (handed,) = option(head_command(Machine.model_validate({"cpus": 4, "nodes": 2, **own}), late), "-smbios")
    start, words = handed.split(HANDED_WORDS)
    assert start == "type=11,value="
    assert words.split() == [
        "pci=lastbus=0",
        "cryptomgr.notests",
        "tsc=reliable",
        "clocksource=tsc",
        "no_timer_check",
        "nokaslr",
        "numa_balancing=disable",
        "tsc_early_khz=2400000",
        "noreplace-smp",
        "maxcpus=2",
        "lev.cpus=late",
        *PATIENT,
    ]
    assert "," not in words, "QEMU would end the string there"
    assert option(head_command(Machine(nodes=2, cpus=4), late), "-smbios") == []
    assert option(head_command(Machine.model_validate({"nodes": 0, **own}), HEAD), "-smbios") == []


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="no QEMU: apt-get install qemu-system-x86")
@pytest.mark.parametrize("memory", ["1G", "2814M", "2816M", "6G"])
def test_the_qemu_at_hand_takes_the_command_and_maps_memory_where_we_think(tmp_path: Path, memory: str) -> None:
    machine = Machine(cpus=5, memory=memory, nodes=3)
    for port in (*PORTS, "qmp"):
        os.mkfifo(tmp_path / f"{port}.in")
        os.mkfifo(tmp_path / f"{port}.out")
    command = HeadCommand("qemu-system-x86_64", "/bin/true", "/bin/true", str(tmp_path))
    argv = head_command(machine, command)
    # The same machine without KVM, without a kernel, stopped; its monitor on our pipe instead of the console.
    argv = [word.replace("accel=kvm", "accel=tcg").replace("host,", "max,") for word in argv]
    del argv[argv.index("-kernel") : argv.index("-kernel") + 6]
    argv[argv.index("-serial") + 1] = "none"
    argv[argv.index("-mon") + 1] = "chardev=console"
    run = subprocess.run(
        [*argv, "-S"], input="info numa\ninfo mtree\nquit\n", capture_output=True, text=True, timeout=50, check=True
    )
    assert run.stderr == ""
    below, above = 0, 0
    for line in run.stdout.splitlines():
        if "alias ram-below-4g" in line:
            below = int(line.split()[0].split("-")[1], 16) + 1
        if "alias ram-above-4g" in line:
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            assert start == 1 << 32
            above = end + 1
    ours = homes(machine)
    assert max((r.gpa + r.len for r in ours if r.gpa < 1 << 32), default=0) == below
    assert max((r.gpa + r.len for r in ours if r.gpa >= 1 << 32), default=0) == above
    for node, share in enumerate(machine.shares()):
        assert f"node {node} size: {share.memory >> 20} MB" in run.stdout


class FakeMonitor:
    """Answers as QEMU does."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.sent: list[dict[str, Any]] = []
        self.session = QmpSession(self.receive, lambda name, data: self.events.append((name, data)))

    def say(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\r\n"
        self.session(data[:5])
        self.session(data[5:])

    def receive(self, data: bytes) -> None:
        message = json.loads(data)
        self.sent.append(message)
        match message["execute"]:
            case "qmp_capabilities":
                self.say({"return": {}, "id": message["id"]})
            case "query-status":
                self.say({"event": "RESUME", "timestamp": {}})
                self.say({"return": {"status": "running"}, "id": message["id"]})
            case "silence":
                pass
            case _:
                self.say({"error": {"class": "CommandNotFound", "desc": "no such thing"}, "id": message["id"]})


def test_monitor_greets_answers_and_tells_events() -> None:
    monitor = FakeMonitor()
    monitor.say({"QMP": {"version": {}}})
    assert monitor.session.greeted.is_set()
    assert monitor.session.execute("query-status") == {"status": "running"}
    assert monitor.events == [("RESUME", {})]
    with pytest.raises(QmpError, match="refused nonsense: no such thing"):
        monitor.session.execute("nonsense", value=1)
    assert monitor.sent[-1]["arguments"] == {"value": 1}
    with pytest.raises(QmpError, match="did not answer silence within 0.05 s"):
        monitor.session.execute("silence", timeout=0.05)


def test_monitor_survives_garbage() -> None:
    monitor = FakeMonitor()
    monitor.session(b"\xff\x00 not json\n[1]\n{}\n")
    monitor.say({"QMP": {}})
    assert monitor.session.greeted.is_set()


def test_a_qemu_for_arm_that_is_missing_can_be_had_with_cxl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StartError, match="qemu-system-aarch64: it is not on PATH") as caught:
        probe_binary("qemu-system-aarch64")
    assert "QEMU 10.2: lev images get qemu --suite sid --arch arm64" in (caught.value.hint or "")
