"""Descriptions as QEMU command lines: the syntax of each version, and QEMUs that take them for real."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from qemu_facts import recorded
from qemu_takes import examples, take

from leviathan.model import Machine, make_machine
from leviathan.qemu import Launch, probe_binary, probe_facts, render

ROOT = Path(__file__).resolve().parents[2]
LEV = shutil.which("lev", path=str(Path(sys.executable).parent))


def machine(table: dict[str, Any], **fields: Any) -> Machine:
    return make_machine({"schema": 1, "cxl": table, **fields})


def options(argv: list[str], name: str) -> list[str]:
    return [argv[index + 1] for index, word in enumerate(argv) if word == name]


PMEM = {"memory": [{"persistent": "256M"}]}


def test_persistent_memory_in_the_words_of_7_2_and_of_10_0() -> None:
    old = options(render(machine(PMEM), recorded("7.2"), "/vm"), "-device")
    new = options(render(machine(PMEM), recorded("10.0"), "/vm"), "-device")
    assert old[0] == "pxb-cxl,bus_nr=12,bus=pcie.0,id=hb0"
    assert new[0] == "pxb-cxl,bus_nr=12,bus=pcie.0,id=hb0,hdm_for_passthrough=on"
    parts = "lsa=cxl-pmem0-labels,id=cxl-pmem0,sn=0x1"
    assert old[-1] == f"cxl-type3,bus=hb0rp0,memdev=cxl-pmem0-persistent,{parts}"
    assert new[-1] == f"cxl-type3,bus=hb0rp0,persistent-memdev=cxl-pmem0-persistent,{parts}"


def test_the_whole_command_of_the_short_form() -> None:
    text = shlex.join(
        render(machine(PMEM, memory="2G", cpus=2), recorded("10.0"), "/vm", Launch(kernel="/k", initrd="/i"))
    )
    assert text == (
        "/usr/bin/qemu-system-x86_64 -name leviathan -nodefaults -no-user-config -machine q35,cxl=on -accel tcg "
        "-cpu max,hypervisor=off -smp 2 -m 2G -object memory-backend-ram,id=numa0,size=2G "
        "-numa node,nodeid=0,cpus=0-1,memdev=numa0 -kernel /k -initrd /i -append console=ttyS0 "
        "-object memory-backend-file,id=cxl-pmem0-persistent,share=on,mem-path=/vm/cxl-pmem0-persistent.raw,size=256M "
        "-object memory-backend-file,id=cxl-pmem0-labels,share=on,mem-path=/vm/cxl-pmem0-labels.raw,size=1M "
        "-device pxb-cxl,bus_nr=12,bus=pcie.0,id=hb0,hdm_for_passthrough=on "
        "-device cxl-rp,port=0,bus=hb0,id=hb0rp0,chassis=0,slot=2 "
        "-device cxl-rp,port=1,bus=hb0,id=hb0rp1,chassis=0,slot=3 "
        "-device cxl-type3,bus=hb0rp0,persistent-memdev=cxl-pmem0-persistent,lsa=cxl-pmem0-labels,id=cxl-pmem0,sn=0x1 "
        "-machine cxl-fmw.0.targets.0=hb0,cxl-fmw.0.size=4G,cxl-fmw.0.interleave-granularity=256 "
        "-display none -serial mon:stdio -no-reboot"
    )  # fmt: skip


def test_volatile_and_dynamic_memory() -> None:
    table = {"memory": [{"volatile": "256M", "dynamic": "1G", "dynamic_regions": 2}]}
    argv = render(machine(table), recorded("11.1"), "/vm")
    assert options(argv, "-object")[1:] == [
        "memory-backend-ram,id=cxl-vmem0-volatile,share=on,size=256M",
        "memory-backend-ram,id=cxl-vmem0-dynamic,share=on,size=1G",
    ]
    assert options(argv, "-device")[-1] == (
        "cxl-type3,bus=hb0rp0,volatile-memdev=cxl-vmem0-volatile,volatile-dc-memdev=cxl-vmem0-dynamic,num-dc-regions=2,"
        "id=cxl-vmem0,sn=0x1"
    )


def test_all_windows_are_in_one_machine_option() -> None:
    table = {"memory": [{"persistent": "256M"}] * 2, "host_bridges": [{"name": "a"}, {"name": "b"}]}
    table["windows"] = [{"targets": ["a", "b"], "granularity": "4K"}, {"targets": ["b"], "size": "1G"}]
    _, windows = options(render(machine(table), recorded("10.0"), "/vm"), "-machine")
    assert windows == (
        "cxl-fmw.0.targets.0=a,cxl-fmw.0.targets.1=b,cxl-fmw.0.size=4G,cxl-fmw.0.interleave-granularity=4K,"
        "cxl-fmw.1.targets.0=b,cxl-fmw.1.size=1G,cxl-fmw.1.interleave-granularity=256"
    )


def test_kvm_has_the_hosts_cpu_without_the_hypervisor_bit_and_arm_has_uefi(tmp_path: Path) -> None:
    argv = render(machine(PMEM), recorded("10.0", kvm=None), "/vm")
    assert options(argv, "-accel") + options(argv, "-cpu") == ["kvm", "host,hypervisor=off"]
    arm = machine(PMEM, arch="aarch64", firmware=str(tmp_path / "EFI.fd"))
    argv = render(arm, recorded("11.1", "aarch64"), "/vm")
    assert options(argv, "-machine")[0] == "virt,gic-version=3,cxl=on"
    assert options(argv, "-cpu") == ["max"]
    assert options(argv, "-bios") == [str(tmp_path / "EFI.fd")]
    flash = arm.model_copy(update={"firmware_variables": tmp_path / "VARS.fd"})
    argv = render(flash, recorded("11.1", "aarch64"), "/vm")
    assert options(argv, "-bios") == []
    assert [word.split(",")[:2] for word in options(argv, "-drive")] == [
        ["if=pflash", "unit=0"],
        ["if=pflash", "unit=1"],
    ]


def test_commas_in_paths_are_doubled() -> None:
    argv = render(machine({"memory": [{"persistent": {"size": "256M", "file": "/a,b/p"}}]}), recorded("10.0"), "/vm")
    assert "mem-path=/a,,b/p" in options(argv, "-object")[1]


def test_disks_and_networks_name_their_bus_beside_a_host_bridge(tmp_path: Path) -> None:
    disk = tmp_path / "d.qcow2"
    disk.write_bytes(b"QFI\xfb" + bytes(512))
    table = {
        "disks": [{"file": str(disk)}, {"file": str(disk), "cdrom": True}, {"file": str(disk), "interface": "scsi"}],
        "networks": [{"forward": ["2222:22", "udp:53:53"]}],
        "display": {"vnc": ":0"},
    }
    argv = render(machine(PMEM, **table), recorded("10.0"), "/vm")
    assert options(argv, "-drive")[0] == f"if=none,id=disk0,file={disk},format=qcow2"
    devices = [word for word in options(argv, "-device") if not word.startswith(("cxl-", "pxb-"))]
    assert devices == [
        "virtio-scsi-pci,id=scsi,bus=pcie.0",
        "virtio-blk-pci,drive=disk0,id=disk0-device,bus=pcie.0",
        "ide-cd,drive=disk1,id=disk1-device,bus=ide.0",
        "scsi-hd,drive=disk2,id=disk2-device,bus=scsi.0",
        "virtio-net-pci,netdev=net0,id=net0-device,bus=pcie.0",
        "VGA,bus=pcie.0",
    ]
    assert options(argv, "-netdev") == ["user,id=net0,hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=udp:127.0.0.1:53-:53"]
    assert "-kernel" not in argv


# --- the QEMU at hand (tests/vm has those of other suites) ------------------------------------------------------------


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="no QEMU: apt-get install qemu-system-x86")
@pytest.mark.parametrize("example", examples("x86_64"), ids=lambda example: example.stem)
def test_qemu_takes_every_example_that_the_rules_let_through(example: Path, tmp_path: Path) -> None:
    take(example, "qemu-system-x86_64", tmp_path)


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="no QEMU: apt-get install qemu-system-x86")
def test_what_qemu_says_about_itself() -> None:
    facts = probe_facts(probe_binary("qemu-system-x86_64"), ["e1000e", "no-such-card"])
    assert facts.arch == "x86_64"
    assert facts.cxl("q35")
    assert not facts.cxl("virt")
    assert facts.has("cxl-type3", "lsa")
    assert facts.lacks("no-such-card")
    assert not facts.lacks("e1000e")
    assert {"max", "qemu64"} <= facts.cpu_models
    assert "query-status" in facts.commands
    assert facts.has("pxb-cxl", "hdm_for_passthrough") == (facts.binary.version >= (8, 0, 0))


# --- lev plan, lev schema ---------------------------------------------------------------------------------------------


def lev(*words: str, home: Path) -> subprocess.CompletedProcess[str]:
    assert LEV is not None
    environment = os.environ | {"XDG_STATE_HOME": str(home)}
    return subprocess.run([LEV, *words], capture_output=True, text=True, timeout=90, env=environment, check=False)


@pytest.mark.timeout(200)
@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="no QEMU: apt-get install qemu-system-x86")
def test_lev_plan_prints_a_command_for_a_shell_and_makes_nothing(tmp_path: Path) -> None:
    run = lev("plan", str(ROOT / "examples/cxl-pmem.toml"), home=tmp_path)
    assert run.returncode == 0, run.stderr
    comment, command = run.stdout.splitlines()
    assert comment.startswith("# a plain QEMU on this machine: ")
    words = shlex.split(command)
    assert Path(words[0]).name == "qemu-system-x86_64"
    assert f"mem-path={tmp_path}/leviathan/machines/cxl-pmem/cxl-pmem0-persistent.raw" in command
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(200)
@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="no QEMU: apt-get install qemu-system-x86")
def test_lev_plan_refuses_with_every_reason_and_warns_on_standard_error(tmp_path: Path) -> None:
    file = tmp_path / "m.toml"
    file.write_text('schema = 1\nreboot = "warm"\n[[cxl.memory]]\npersistent = "100M"\nserial = 0\n')
    run = lev("plan", str(file), home=tmp_path)
    assert (run.returncode, run.stdout) == (2, "")
    assert f"error: {file}: cxl.memory.0.serial: 0 means none" in run.stderr
    assert f"{file}: cxl.memory.0.persistent: 100M is not a multiple of 256M" in run.stderr
    file.write_text('schema = 1\nreboot = "warm"\n[[cxl.memory]]\npersistent = "256M"\n')
    run = lev("plan", str(file), "--json", home=tmp_path)
    assert run.returncode == 0
    assert run.stderr.startswith(f"warning: {file}: reboot: after a warm reset")
    plan = json.loads(run.stdout)
    assert plan["qemu"][0].endswith("qemu-system-x86_64")
    assert len(plan["warnings"]) == 1


@pytest.mark.timeout(200)
def test_lev_schema_prints_what_is_shipped(tmp_path: Path) -> None:
    shipped = lev("schema", "--path", home=tmp_path).stdout.strip()
    assert lev("schema", home=tmp_path).stdout == Path(shipped).read_text()
