"""Lab machines for real: KVM in one, network and shared memory between two, what happens when one dies."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from leviathan.errors import StartError
from leviathan.images import guest, kernel
from leviathan.lab import ChannelLost, Lab, LabHost, LabOptions
from leviathan.lab.lab import DEFAULT_QEMU
from leviathan.launch.programs import program

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

INNER = """\
cd /tmp
for port in stdout stderr status; do
    set -- "$@" -chardev file,id=$port,path=$port -device virtserialport,chardev=$port,name=org.leviathan.$port
done
timeout 60 qemu-system-x86_64 -accel kvm -machine q35 -cpu host -smp 2 -m 512 -nodefaults -display none -no-reboot \\
    -kernel /guest/vmlinuz -initrd ${INITRD:-/guest/initrd} \\
    -append "console=ttyS0 panic=-1 tsc=reliable no_timer_check" \\
    -serial file:console -device virtio-serial-pci "$@" </dev/null
echo "qemu ended with $?"
"""

TRIES = 4
"""With a thread of TCG's for each CPU, which a stock guest needs, nested paging now and then resets or hangs the guest
before its init (docs/design/0006-lab.md). What counts is that it boots, and what it does then."""

COMMAND = """\
echo "to stdout"; echo "to stderr" >&2; echo again > /dev/stdout
ls /proc/self/fd >/dev/null; test -c /dev/ptmx || exit 90; ifconfig lo | grep -q 127.0.0.1 || exit 91
head -c 300000 /dev/zero | tr '\\0' x; sleep 1000 &
exit 37
"""


@pytest.fixture(scope="module")
def options() -> LabOptions:
    try:
        program("lev-agent")
    except StartError as error:
        pytest.skip(str(error))
    if not DEFAULT_QEMU.exists():
        pytest.skip(f"{DEFAULT_QEMU} is not installed")
    found = kernel.find(needs=["kvm_amd"])
    images = {
        "/guest/initrd": guest.build(found, guest.Guest(command=COMMAND)),
        "/guest/reboot": guest.build(found, guest.Guest(command="echo before; reboot; sleep 60; echo after")),
    }
    return LabOptions(kernel=found, files={"/guest/vmlinuz": found.vmlinuz, **images})


@pytest.fixture(scope="module")
def lab(options: LabOptions) -> Iterator[Lab]:
    with Lab(options=options) as running:
        yield running


def shell(host: LabHost, script: str, limit: float = 150) -> tuple[int | None, str]:
    out: list[bytes] = []
    process = host.spawn(["sh", "-c", script], stdout=out.append, stderr=out.append)
    code = process.wait(limit)
    return code, b"".join(out).decode(errors="replace")


def boot(host: LabHost, initrd: str) -> tuple[int | None, str]:
    """Boots the inner guest until its init has been reached once; how the last try ended."""
    for _ in range(TRIES):
        ended = shell(host, f"rm -f /tmp/status /tmp/stdout /tmp/stderr\nINITRD={initrd}\n{INNER}")
        if host.get("/tmp/status").startswith(b"ready "):
            break
    return ended


def test_facts(lab: Lab) -> None:
    facts = lab.hosts[0].facts()
    assert facts.kvm is None
    assert facts.userfaultfd is None
    assert facts.cpus == 2
    assert facts.memory_free > 1 << 30
    assert facts.cpu_vendor == "AuthenticAMD"


def test_stock_qemu_boots_the_guest_under_kvm(lab: Lab) -> None:
    host = lab.hosts[0]
    code, text = boot(host, "/guest/initrd")
    console = host.get("/tmp/console").decode(errors="replace")[-2000:]
    assert (code, text) == (0, "qemu ended with 0\n"), text + console
    status = host.get("/tmp/status").decode()
    assert (status[:6], status.splitlines()[-1:]) == ("ready ", ["exit 37"]), console
    assert host.get("/tmp/stdout") == b"to stdout\nagain\n" + b"x" * 300_000
    assert host.get("/tmp/stderr") == b"to stderr\n"


def test_a_command_that_reboots_reports_no_exit(lab: Lab) -> None:
    host = lab.hosts[0]
    # With -no-reboot QEMU ends where the guest resets.
    assert boot(host, "/guest/reboot") == (0, "qemu ended with 0\n")
    assert host.get("/tmp/stdout") == b"before\n"
    status = host.get("/tmp/status")
    assert status.startswith(b"ready ")
    assert b"exit" not in status


def test_a_terminal_in_the_machine(lab: Lab) -> None:
    out: list[bytes] = []
    process = lab.hosts[0].spawn(["sh", "-c", "stty size; read x; echo got $x"], stdout=out.append, pty=(30, 90))
    process.write(b"word\n")
    assert process.wait(30) == 0
    assert b"30 90\r\n" in b"".join(out)
    assert b"got word\r\n" in b"".join(out)


def test_close_ends_what_was_started_and_removes_what_was_put(lab: Lab) -> None:
    host = lab.hosts[0]
    host.put("/run/secret/file", b"x" * 100_000)
    assert host.get("/run/secret/file") == b"x" * 100_000
    process = host.spawn(["sh", "-c", "setsid sleep 12345 & exec sleep 12345"])
    host.close()
    assert process.wait(20) == -9
    assert shell(host, "test -e /run/secret/file; echo $?; ps | grep -c [1]2345") == (1, "1\n0\n")


def test_two_machines_share_a_network_and_memory(options: LabOptions) -> None:
    with Lab(2, cpus=1, memory=512 << 20, shared_pool_bytes=1 << 20, options=options) as pair:
        one, other = pair.hosts
        assert one.address != other.address
        for host, peer in ((one, other), (other, one)):
            code, text = shell(host, f"ping -c 2 -W 10 {peer.address}")
            assert code == 0, text
        # A stream of 4 MB, checked by its sum, to the host's one address.
        receiver: list[bytes] = []
        listening = other.spawn(["sh", "-c", "nc -l -p 4000 | md5sum"], stdout=receiver.append, stdin=True)
        send = f"head -c 4000000 /dev/zero | tr '\\0' q > data; sleep 1; nc {other.address} 4000 < data; md5sum < data"
        code, text = shell(one, f"cd /tmp; {send}")
        assert code == 0, text
        assert listening.wait(60) == 0
        assert b"".join(receiver).decode() == text
        # BAR 2 of the shared memory device: what one machine writes the other reads.
        assert one.shared_pool
        assert other.shared_pool
        peek = "devmem $(awk 'NR==3{{print $1}}' {}/resource) 32"
        device_one, device_other = (str(Path(str(host.shared_pool)).parent) for host in pair.hosts)
        assert shell(one, peek.format(device_one) + " 0x12345678")[0] == 0
        assert shell(other, peek.format(device_other)) == (0, "0x12345678\n")


def test_a_machine_that_dies_is_noticed_at_once(options: LabOptions) -> None:
    gone: list[tuple[str, str]] = []
    noticed = threading.Event()

    def on_exit(name: str, obituary: str) -> None:
        gone.append((name, obituary))
        noticed.set()

    with Lab(cpus=1, memory=512 << 20, options=options, on_exit=on_exit) as doomed:
        host = doomed.hosts[0]
        waiting = host.spawn(["sleep", "1000"])
        began = time.monotonic()
        host.spawn(["sh", "-c", "echo last-words > /dev/console; echo c > /proc/sysrq-trigger"])
        with pytest.raises(ChannelLost, match="sysrq triggered crash"):
            waiting.wait(60)
        assert noticed.wait(5)
        assert time.monotonic() - began < 30
    assert gone[0][0] == "lab0"
    assert "Kernel panic" in gone[0][1]
    assert "last-words" in gone[0][1]
