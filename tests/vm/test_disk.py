"""A Debian system is installed into an image, unattended, and boots from it to a shell on its console."""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from lev_run import lev

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(3600)]

INSTALL_SECONDS = 1800
BOOT_SECONDS = 900
PROMPT = re.compile(rb"root@testbox:~# ")


class Console:
    """The console of a `lev run`, read and typed as a user does."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [lev(), "run", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.seen = b""

    def until(self, pattern: re.Pattern[bytes], seconds: float, start: int = 0) -> int:
        """Reads until a pattern has come; returns where it ends."""
        assert self.process.stdout is not None
        end = time.monotonic() + seconds
        while (match := pattern.search(self.seen, start)) is None:
            left = end - time.monotonic()
            tail = self.seen[-3000:].decode(errors="replace")
            assert left > 0, f"no {pattern.pattern!r} within {seconds} s:\n{tail}"
            if select.select([self.process.stdout], [], [], left)[0]:
                data = os.read(self.process.stdout.fileno(), 65536)
                assert data, f"the console ended:\n{tail}"
                self.seen += data
        return match.end()

    def type(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()


@pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="needs mmdebstrap")
def test_a_system_is_installed_and_boots_from_its_disk(tmp_path: Path) -> None:
    image = tmp_path / "debian.raw"
    words = [lev(), "disk", "create", str(image), "3G", "--install", "bookworm", "--hostname", "testbox"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["debian.raw"]
    file = tmp_path / "m.toml"
    file.write_text('schema = 1\nname = "m"\nnodes = 0\ncpus = 2\nmemory = "1G"\n[[disks]]\nfile = "debian.raw"\n')
    console = Console(str(file))
    try:
        at = console.until(PROMPT, BOOT_SECONDS)
        console.type("findmnt -no SOURCE /; echo kept > /root/file; poweroff\n")
        console.until(re.compile(rb"/dev/vda1\r"), 60, at)
        assert console.process.wait(BOOT_SECONDS) == 0
        console = Console(str(file))
        at = console.until(PROMPT, BOOT_SECONDS)
        console.type("cat /root/file; poweroff\n")
        console.until(re.compile(rb"\nkept\r"), 60, at)
        assert console.process.wait(BOOT_SECONDS) == 0
    finally:
        console.process.terminate()
        console.process.wait(60)
