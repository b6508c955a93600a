"""Wrong command lines: each refused, or warned about, in words that tell what to do; none reaches QEMU."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from leviathan.cli.app import app
from leviathan.errors import LeviathanError

OBJECTS = "-object memory-backend-ram,id=m0,share=on,size=256M -object memory-backend-ram,id=l0,share=on,size=1M"
BRIDGE = "-device pxb-cxl,bus_nr=12,bus=pcie.0,id=cxl.1"
PORT = "-device cxl-rp,port=0,bus=cxl.1,id=rp0,chassis=0,slot=2"
DEVICE = "-device cxl-type3,bus=rp0,persistent-memdev=m0,lsa=l0,id=d0,sn=0x1"
WINDOW = "-M cxl-fmw.0.targets.0=cxl.1,cxl-fmw.0.size=4G"
GOOD = f"-M q35,cxl=on -nographic {OBJECTS} {BRIDGE} {PORT} {DEVICE} {WINDOW}"
TWO = "iplist=127.0.0.1|127.0.0.1"


def cxl(old: str, new: str) -> str:
    """The good command with one thing changed."""
    assert old in GOOD
    return GOOD.replace(old, new)


REFUSED = [
    # --- words
    ("-m", "-m stands at the end without its value", "-m VALUE"),
    ("-kernal vmlinuz", "-kernal: QEMU has no such option", "did you mean -kernel?"),
    ("-m4096", "-m4096: a space is missing", "write -m 4096"),
    ("-hda -nographic", "-hda has no value", "-hda VALUE"),
    ("-nographic yes", "-nographic is a switch", "remove yes"),
    ("-device cxl-rp,bus=cxl.1, id=rp0,slot=2", "'id=rp0,slot=2' stands alone", "no spaces around commas"),
    # --- memory, CPUs, machine
    ("-m 4GB", "'4GB' is not a size", "single letters: 4G"),
    ("-m lots", "'lots' is not a size", "such as 512M or 4G"),
    ("-m 2G,maxmem=1G,slots=2", "maxmem is less than the memory", "CXL does not need it"),
    ("-m 2G,max=4G", "max is not a field of -m", "-m 4G,maxmem=8G,slots=4"),
    ("-smp 4,cores=3,sockets=1,threads=1", "1 sockets * 3 cores * 1 threads make 3 CPUs, not 4", "write -smp 4 alone"),
    ("-smp 4,maxcpus=2", "more CPUs than maxcpus", "write -smp 4"),
    ("-smp 0", "a count of 0 means nothing", "write 1"),
    ("-M virt", "-machine virt is not a machine of qemu-system-x86_64", "qemu-system-aarch64"),
    ("-M microvm", "describes q35 and pc", "without lev"),
    ("-numa node,memdev=ram0", "no -object with id=ram0", "-object memory-backend-ram,id=ram0,size=1G"),
    ("-numa node,mem=512M -m 1G", "numa", "make them equal"),
    # --- boot and disks
    ("-append root=/dev/sda", "-append without -kernel", "add -kernel FILE"),
    ("-kernel /nowhere/vmlinuz", "there is no file /nowhere/vmlinuz", "name a bzImage"),
    ("-bios /nowhere/OVMF.fd", "there is no file /nowhere/OVMF.fd", "apt-get install ovmf"),
    ("-hda /nowhere/ubuntu-server.img", "there is no image /nowhere/ubuntu-server.img", "qemu-img create"),
    ("-cdrom /nowhere/ubuntu.iso", "there is no image /nowhere/ubuntu.iso", "check the path"),
    ("-drive if=none,id=d0", "the name of the image is missing", "-drive file=disk.qcow2"),
    ("-drive file=x,format=qcow3", "format=qcow3 is no format", "qcow2"),
    ("-drive file=x,media=dvd", "media=dvd is neither disk nor cdrom", "media=cdrom"),
    ("-hda {disk} -hdb {disk}", "already used by disks.0, and one of them writes", "an image of its own"),
    # --- network and screen
    ("-netdev user,id=n,hostfwd=2222:22 -device e1000,netdev=n", "not a forwarded port", "tcp:127.0.0.1:2222-:22"),
    ("-vnc 5900 -hda {disk}", "'5900' is no place for a VNC server", '":0"'),
    ("-vga nvidia", "-vga nvidia is no adapter", "std"),
    ("-display window", "-display window is no display", "gtk"),
    ("-serial stdio -monitor stdio", "both want this terminal", "mon:stdio"),
    ("-redir tcp:2222::22", "removed in QEMU 3.1", "hostfwd"),
    ("-hdachs 16,16,63", "removed in QEMU 2.12", "ide-hd"),
    # --- CXL
    (cxl("cxl-fmw.0.targets.0=cxl.1,", ""), "cxl-fmw.0 has no targets", "cxl-fmw.0.targets.0=BRIDGE"),
    (cxl(",cxl-fmw.0.size=4G", ""), "cxl-fmw.0.size is missing", "cxl-fmw.0.size=4G"),
    (cxl("cxl-fmw.0", "cxl-fmw.1"), "numbered [1]", "from 0 without gaps"),
    (
        cxl("targets.0=cxl.1", "targets.0=cxl.9"),
        "cxl.windows.0.targets.0 (cxl-fmw.0.targets.0): there is no host bridge",
        "name one of cxl.1",
    ),
    (cxl("cxl-fmw.0.size=4G", "cxl-fmw.0.size=300M"), "(cxl-fmw.0.size): 300M is not a multiple of 256M", "use 512M"),
    (
        cxl("cxl-fmw.0.size=4G", "cxl-fmw.0.size=4G,cxl-fmw.0.interleave-granularity=300"),
        "(cxl-fmw.0.interleave-granularity): 300",
        "from 256 to 16K",
    ),
    (
        cxl("targets.0=cxl.1", "targets.0=cxl.1,cxl-fmw.0.targets.1=cxl.1"),
        "(cxl-fmw.0.targets.1): 'cxl.1' is listed twice",
        "each host bridge once",
    ),
    (cxl("-M q35,cxl=on", "-M pc,cxl=on"), "pc has no PCI Express", "q35"),
    (cxl("persistent-memdev=m0,", ""), "cxl.memory.0 (-device cxl-type3,id=d0): the device has no memory", "a size"),
    (cxl("persistent-memdev=m0", "memdev=m0,persistent-memdev=m0"), "both are given", "remove memdev="),
    (
        cxl("persistent-memdev=m0", "persistent-memdev=mX"),
        "there is no -object with id=mX (there is m0, l0)",
        "-object memory-backend-file,id=mX",
    ),
    (cxl("lsa=l0", "lsa=m0"), "memory backend m0 is d0's persistent-memdev and d0's lsa", "add another -object"),
    (
        cxl("id=m0,share=on,size=256M", "id=m0,share=on,size=100M"),
        "(persistent-memdev= of -device cxl-type3,id=d0): 100M",
        "use 256M",
    ),
    (cxl("id=m0,share=on,size=256M", "id=m0,share=on"), "size= is missing", "size=256M"),
    (
        cxl("memory-backend-ram,id=m0,share=on", "memory-backend-file,id=m0,share=on"),
        "mem-path= is missing",
        "mem-path=FILE",
    ),
    (cxl("id=d0", "id=rp0"), "(id= of -device cxl-type3,id=rp0): 'rp0' is already", "another one"),
    (cxl("bus=cxl.1,id=rp0", "bus=pcie.0,id=rp0"), "is no CXL host bridge (there is cxl.1)", "bus=cxl.1"),
    (
        cxl("cxl-type3,bus=rp0", "cxl-type3,bus=pcie.0"),
        "(bus= of -device cxl-type3,id=d0): on 'pcie.0'",
        "name one of rp0",
    ),
    (cxl("cxl-type3,bus=rp0", "cxl-type3,bus=cxl.1"), "takes only ports", "name one of rp0"),
    (cxl("cxl-type3,bus=rp0", "cxl-type3"), "a CXL device is plugged into a port", "bus=ROOT-PORT"),
    (
        cxl(BRIDGE, "-device pxb-cxl,bus_nr=300,bus=pcie.0,id=cxl.1"),
        "cxl.host_bridges.0.bus",
        "less than or equal to 255",
    ),
    (
        cxl(BRIDGE, "-device pxb-cxl,bus_nr=0,bus=pcie.0,id=cxl.1"),
        "(bus_nr= of -device pxb-cxl,id=cxl.1): 0 is",
        "use 12",
    ),
    (
        cxl(BRIDGE, f"{BRIDGE} -device pxb-cxl,bus_nr=13,bus=pcie.0,id=cxl.2"),
        "(bus_nr= of -device pxb-cxl,id=cxl.2)",
        "leave room",
    ),
    (
        cxl(PORT, f"{PORT} {PORT.replace('rp0', 'rp1').replace('port=0', 'port=1')}"),
        "(slot= of -device cxl-rp,id=rp1)",
        "next free",
    ),
    (
        cxl(PORT, f"{PORT} {PORT.replace('rp0', 'rp1').replace('slot=2', 'slot=3')}"),
        "(port= of -device cxl-rp,id=rp1)",
        "next free",
    ),
    (cxl(PORT, f"{PORT} -device cxl-downstream,port=0,bus=rp0,id=dsp0"), "belong to a cxl-upstream", "cxl-rp"),
    # --- giant VMs
    (f"-smp 4 -local-cpu 2,start=1,{TWO}", "start is a multiple of 2, not 1", "starts are 0, 2"),
    (
        f"-smp 4 -local-cpu 2,start=4,{TWO}",
        "start=4 is node 2, but iplist has 2 addresses",
        "one address for each node",
    ),
    (f"-smp 8 -local-cpu 2,start=0,{TWO}", "-smp 8, but 2 nodes with 2 CPUs each make 4", "write -smp 4"),
    ("-smp 4 -local-cpu 2,start=0", "iplist= is missing", "for example -local-cpu 2,start=0,iplist="),
    (f"-smp 4 -local-cpu start=0,{TWO}", "the number of CPUs is missing", "for example -local-cpu 2,"),
    (f"-smp 4 -local-cpu two,start=0,{TWO}", "two is not a number", "for example -local-cpu 2,"),
    ("-smp 4 -local-cpu 2,start=0,iplist=node1|node2", "node1 is not an IPv4 address", "10.0.0.1"),
    (f"-smp 4 -local-cpu 2,begin=0,start=0,{TWO}", "begin is not a field of -local-cpu", "it has three"),
]

WARNED = [
    ("-nographic -machine kernel-irqchip=off -enable-kvm -hda {disk}", "removed in QEMU 8.0; now kernel-irqchip=split"),
    (f"{GOOD.replace(WINDOW, '')} -cxl-fixed-memory-window targets.0=cxl.1,size=4G", "before CXL came to QEMU 7.1"),
    (cxl("persistent-memdev", "memdev"), "d0: memdev="),
    (cxl(",sn=0x1", ""), "d0: no sn="),
    (cxl("-M q35,cxl=on", "-M q35"), "-machine without cxl=on"),
    (cxl("-M q35,cxl=on", "-M q35"), "now cxl=on"),
    (GOOD, "no -m"),
    (GOOD + " -M cxl-fmw.0.interleave-granularity=512", "one -machine"),
    ("-nographic -hda {empty} -m 1G", "No bootable device"),
    ("-hda {disk} -flux 88 -nographic", "-flux is no option of a QEMU that Leviathan knows"),
    ("-hda {disk} -nographic -netdev user,id=n", "no -device uses it"),
    ("-hda {disk} -nographic -nic tap,ifname=t0", "/etc/qemu-ifup"),
    ("-hda {disk} -nographic -daemonize", "lev run -d"),
    ("-hda {disk} -cdrom {arm} -nographic", "looks like an image for arm64; the machine is x86_64"),
    ("-nographic -hda {disk} -S", "the guest waits until a monitor says `cont`"),
    ("-nographic -hda {disk} -accel hax", "Leviathan runs QEMU under KVM or TCG"),
]


@pytest.fixture
def words(tmp_path: Path) -> dict[str, str]:
    """Files that command lines name, and a QEMU that tells on us when it is started."""
    (tmp_path / "disk.img").write_bytes(b"\0" * 510 + b"\x55\xaa" + b"\0" * 512)
    (tmp_path / "empty.img").write_bytes(b"\0" * 1024)
    (tmp_path / "debian-arm64.iso").write_bytes(b"\0" * 1024)
    qemu = tmp_path / "qemu-system-x86_64"
    qemu.write_text(f"#!/bin/sh\necho $* > {tmp_path}/started\n")
    qemu.chmod(0o755)
    return {
        "qemu": str(qemu),
        "disk": str(tmp_path / "disk.img"),
        "empty": str(tmp_path / "empty.img"),
        "arm": str(tmp_path / "debian-arm64.iso"),
        "started": str(tmp_path / "started"),
    }


def split(text: str, words: dict[str, str]) -> list[str]:
    """Arguments as a shell would give them; ``|`` stands for a space within quotes."""
    return [word.format(**words).replace("|", " ") for word in text.split()]


@pytest.mark.parametrize(("text", "message", "hint"), REFUSED, ids=[text[:60] for text, _, _ in REFUSED])
def test_refused(text: str, message: str, hint: str, words: dict[str, str]) -> None:
    result = CliRunner().invoke(app, ["qemu", "--", words["qemu"], *split(text, words)])
    assert isinstance(result.exception, LeviathanError), result.output
    assert result.exception.exit_code == 2
    said = f"{result.exception.message}\n{result.exception.hint}"
    assert message in said
    assert hint in said
    assert not Path(words["started"]).exists()


@pytest.mark.parametrize(("text", "message"), WARNED, ids=[f"{text[:40]} {said[:20]}" for text, said in WARNED])
def test_warned(text: str, message: str, words: dict[str, str]) -> None:
    result = CliRunner().invoke(app, ["import", "--", words["qemu"], *split(text, words)])
    assert result.exit_code == 0, result.exception
    assert message in result.stderr
    assert not Path(words["started"]).exists()
