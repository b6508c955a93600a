"""GiantVM's two terminals: one machine from two commands, whichever starts first; its screen; the end of one."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from boot_sector import make
from lev_run import lev
from rfb import look

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1200)]

SECONDS = 1100.0
PATIENCE = ("--set", "timeouts.lab=300", "--set", "timeouts.boot=1000")
"""Other machines may run beside these."""
DISPLAY = 37
TERMINAL = (
    "qemu-system-x86_64 --nographic -cpu host -machine kernel-irqchip=off -smp 2 -m 512 --enable-kvm -serial mon:stdio"
)
ADDRESSES = "iplist=127.0.0.1 127.0.0.1"


class Terminal:
    """One `lev qemu`, with what it wrote."""

    def __init__(self, folder: Path, start: int, *words: str) -> None:
        self._out, self._err = folder / f"out-{start}", folder / f"err-{start}"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [
                    lev(),
                    "qemu",
                    *PATIENCE,
                    "--",
                    *TERMINAL.split(),
                    *words,
                    "-local-cpu",
                    f"1,start={start},{ADDRESSES}",
                ],
                env=os.environ | {"XDG_RUNTIME_DIR": str(folder)},
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
            )

    def told(self) -> str:
        return f"stdout:\n{self._out.read_text(errors='replace')}\nstderr:\n{self._err.read_text(errors='replace')}"

    def expect(self, text: str, seconds: float = SECONDS) -> None:
        end = time.monotonic() + seconds
        while text not in self.told():
            assert time.monotonic() < end, f"{text!r} is not in\n{self.told()}"
            assert self.process.poll() is None or text in self.told(), f"ended without {text!r}\n{self.told()}"
            time.sleep(0.2)

    def type(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def end(self) -> int:
        return self.process.wait(SECONDS)


@contextmanager
def terminal(folder: Path, start: int, *words: str) -> Iterator[Terminal]:
    started = Terminal(folder, start, *words)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            # In order, so that the lab machine ends, too.
            started.process.send_signal(signal.SIGTERM)
            try:
                started.process.wait(30)
            except subprocess.TimeoutExpired:
                started.process.kill()
        assert started.process.stdin is not None
        started.process.stdin.close()


def test_the_worker_first_then_the_head_and_one_linux_over_both(tmp_path: Path) -> None:
    from leviathan.images import kernel

    image = str(kernel.find().vmlinuz)
    with terminal(tmp_path, 1, "-kernel", image) as worker:
        worker.expect("node 1 (CPU 1) waits for node 0")
        with terminal(tmp_path, 0, "-kernel", image) as head:
            worker.expect("node 1 (CPU 1) belongs to the VM of node 0")
            head.expect("the guest's console")
            head.type("echo cpus=$(nproc) nodes=$(ls -d /sys/devices/system/node/node[0-9]* | wc -l)\n")
            head.expect("cpus=2 nodes=2", 300)
            head.type("poweroff -f\n")
            assert head.end() == 0, head.told()
            assert worker.end() == 0, worker.told()
    worker.expect("the VM has ended")


def test_a_disk_a_screen_and_the_loss_of_a_terminal(tmp_path: Path) -> None:
    disk = make(tmp_path / "ubuntu-server.img", "hello from the disk\r\n")
    with (
        terminal(tmp_path, 0, "-hda", str(disk), "-vnc", f"127.0.0.1:{DISPLAY}") as head,
        terminal(tmp_path, 1, "-hda", str(disk)) as worker,
    ):
        head.expect("hello from the disk")
        screen = look(5900 + DISPLAY)
        assert screen.width >= 640
        assert screen.colours() > 1, "the text is on the screen"
        worker.process.send_signal(signal.SIGINT)
        assert worker.end() == 130, worker.told()
        assert head.end() == 123, head.told()
        head.expect(f"node1 was lost: its terminal (process {worker.process.pid}) ended")
