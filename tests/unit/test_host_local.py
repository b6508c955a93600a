"""This machine as a host: real programs, real files, nothing left behind."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from leviathan.errors import LaunchError, StartError
from leviathan.launch import programs
from leviathan.launch.local import LocalHost, facts_from_probe


@pytest.fixture
def host() -> Iterator[LocalHost]:
    host = LocalHost()
    yield host
    host.close()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: object, seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.02)
    return False


def test_streams_are_apart_and_complete_when_wait_returns(host: LocalHost) -> None:
    out, err = [], []
    script = "for i in $(seq 2000); do echo out $i; echo err $i >&2; done; exit 5"
    process = host.spawn(["sh", "-c", script], stdout=out.append, stderr=err.append)
    assert process.wait(20) == 5
    assert b"".join(out).splitlines()[-1] == b"out 2000"
    assert len(b"".join(err).splitlines()) == 2000
    assert all(out)


def test_input_and_its_end(host: LocalHost) -> None:
    out: list[bytes] = []
    process = host.spawn(["cat"], stdout=out.append, stdin=True)
    process.write(b"hello ")
    process.write(b"there")
    process.close_stdin()
    assert process.wait(5) == 0
    assert b"".join(out) == b"hello there"
    process.write(b"nobody")
    process.close_stdin()


def test_wait_has_a_limit_and_signals_arrive(host: LocalHost) -> None:
    process = host.spawn(["sleep", "60"])
    assert process.wait(0.1) is None
    process.signal(signal.SIGTERM)
    assert process.wait(5) == -signal.SIGTERM
    process.signal(signal.SIGTERM)


def test_the_environment_is_clean_but_for_what_is_given(host: LocalHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_USER", "x")
    monkeypatch.setenv("LD_PRELOAD_OF_THE_USER", "x")
    out: list[bytes] = []
    assert host.spawn(["env"], env={"LEV_CLUSTER": "/c"}, stdout=out.append).wait(5) == 0
    names = {line.split(b"=")[0] for line in b"".join(out).splitlines()}
    assert b"LEV_CLUSTER" in names
    assert b"PATH" in names
    assert not {name for name in names if b"OF_THE_USER" in name}


def test_what_cannot_be_started(host: LocalHost, tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="no such program"):
        host.spawn(["/nowhere/program"])


def test_files_are_private_and_gone_after_close(tmp_path: Path) -> None:
    host = LocalHost()
    path = tmp_path / "run" / "deep" / "secret"
    host.put(str(path), b"s3cret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700
    assert host.get(str(path)) == b"s3cret"
    (tmp_path / "run" / "left-by-a-program").write_text("x")
    host.close()
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_not_written_through_somebody_s_link(tmp_path: Path) -> None:
    host = LocalHost()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic links|ELOOP|Too many"):
        host.put(str(tmp_path / "link"), b"x")
    host.close()


def test_close_ends_programs_and_what_they_started_even_if_they_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leviathan.launch.local.TERM_SECONDS", 0.5)
    host = LocalHost()
    pids = tmp_path / "pids"
    host.spawn(["sh", "-c", f"trap '' TERM; sleep 60 & echo $$ $! > {pids}; while :; do wait; done"])
    assert until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    both = [int(word) for word in pids.read_text().split()]
    assert all(map(alive, both))
    host.close()
    assert until(lambda: not any(map(alive, both)))


@pytest.mark.skipif(not Path("/usr/bin/setpriv").exists(), reason="no setpriv: apt-get install util-linux")
def test_programs_end_when_we_are_killed_outright(tmp_path: Path) -> None:
    script = (
        "import sys, time; from leviathan.launch.local import LocalHost\n"
        "p = LocalHost().spawn(['sleep', '60']); print(p.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    # The kernel knows the wish as soon as the program itself runs.
    assert until(lambda: Path(f"/proc/{child}/cmdline").read_bytes().startswith(b"sleep"))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert until(lambda: not alive(child))


def test_ctrl_c_reaches_us_and_not_our_programs(host: LocalHost) -> None:
    process = host.spawn(["sleep", "60"])
    assert os.getsid(process.pid) == process.pid


def test_facts_are_what_the_probe_says() -> None:
    answer = b'{"kvm": "no /dev/kvm", "userfaultfd": "not permitted", "tsc_khz": 2400000}\n'
    facts = facts_from_probe(answer, b"", 0)
    assert (facts.kvm, facts.userfaultfd, facts.tsc_khz) == ("no /dev/kvm", "not permitted", 2_400_000)
    assert facts.cpus >= 1
    assert facts.memory_free > 1 << 20
    assert facts.cpu_vendor


def test_the_probe_takes_no_paravirtual_kvm_for_a_real_one(host: LocalHost) -> None:
    flags = set(Path("/proc/cpuinfo").read_text().split())
    facts = host.facts()
    if {"vmx", "svm"} & flags:
        pytest.skip("this machine has hardware virtualization")
    assert facts.kvm is not None
    assert "neither vmx nor svm" in facts.kvm


@pytest.mark.parametrize("output", [b"", b"[]", b"{}", b"nonsense", b'{"kvm": null}'])
def test_a_probe_that_says_nothing_usable(output: bytes) -> None:
    with pytest.raises(LaunchError, match="ended with 4"):
        facts_from_probe(output, b"Illegal instruction", 4)


def test_a_program_that_this_installation_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEVIATHAN_BIN", str(tmp_path))
    with pytest.raises(StartError, match="is missing") as raised:
        programs.program("lev-node")
    assert "make build" in (raised.value.hint or "")
    (tmp_path / "lev-node").write_text("")
    with pytest.raises(StartError, match="not executable"):
        programs.program("lev-node")
