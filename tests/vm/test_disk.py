"""A Debian system is installed into an image, unattended, and boots from it to a shell on its console."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from console import Console
from lev_run import lev

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(4 * 3600)]

INSTALL_SECONDS = 3600
BOOT_SECONDS = 2400
PROMPT = r"root@testbox:~# "


@pytest.mark.skipif(
    shutil.which("mmdebstrap") is None or shutil.which("qemu-img") is None,
    reason="needs the packages mmdebstrap and qemu-utils",
)
@pytest.mark.parametrize("interface", ["virtio", "ide"])
def test_a_system_is_installed_and_boots_from_its_disk(tmp_path: Path, interface: str) -> None:
    image = tmp_path / "debian.raw"
    words = [lev(), "disk", "create", str(image), "3G", "--install", "bookworm", "--hostname", "testbox"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["debian.raw"]
    file = tmp_path / "m.toml"
    file.write_text(
        'schema = 1\nname = "m"\nnodes = 0\ncpus = 2\nmemory = "1G"\n'
        f'[[disks]]\nfile = "debian.raw"\ninterface = "{interface}"\n'
    )
    with Console(tmp_path, "run", str(file)) as console:
        console.until(PROMPT, BOOT_SECONDS)
        at = console.type("findmnt -no SOURCE /; echo kept > file; poweroff\n")
        console.until(r"/dev/[vs]da1\r", 120, at)
        assert console.end(BOOT_SECONDS) == 0
    with Console(tmp_path, "run", str(file)) as console:
        console.until(PROMPT, BOOT_SECONDS)
        at = console.type("cat file; poweroff\n")
        console.until(r"[\r\n]kept\r", 120, at)
        assert console.end(BOOT_SECONDS) == 0
