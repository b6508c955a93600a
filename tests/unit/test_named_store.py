"""Named VMs on disk: names, locks that die with their holder, entries whose supervisor is gone."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from leviathan.errors import LeviathanError, UsageError
from leviathan.named.leftovers import clean_up, start_time
from leviathan.named.store import ENDED_KEPT, Entry, Store, StoreError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state" / "vms")


def ended(store: Store, name: str, created: float = 0) -> None:
    entry, lock = store.reserve(name, created=created)
    store.save(_with(entry, state="ended"))
    os.close(lock)


def _with(entry: Entry, **changes: object) -> Entry:
    return replace(entry, **changes)  # type: ignore[arg-type]


def test_everything_is_private(store: Store) -> None:
    _, lock = store.reserve("one")
    assert stat.S_IMODE(store.root.stat().st_mode) == 0o700
    assert stat.S_IMODE(store.folder("one").stat().st_mode) == 0o700
    os.close(lock)


def test_a_folder_open_to_others_is_closed(store: Store) -> None:
    store.root.mkdir(parents=True)
    store.root.chmod(0o755)
    os.close(store.reserve("one")[1])
    assert stat.S_IMODE(store.root.stat().st_mode) == 0o700


def test_a_name_is_taken_while_its_lock_is_held(store: Store) -> None:
    _, lock = store.reserve("one")
    with pytest.raises(UsageError, match="a VM called one runs already") as raised:
        store.reserve("one")
    assert raised.value.hint == "another --name, or: lev stop one"
    os.close(lock)
    os.close(store.reserve("one")[1])


def test_names_are_given_in_order(store: Store) -> None:
    first, lock1 = store.reserve(None, "box")
    second, lock2 = store.reserve(None, "box")
    assert (first.name, second.name) == ("box", "box-2")
    os.close(lock1)
    third, lock3 = store.reserve(None, "box")
    assert third.name == "box"
    os.close(lock2)
    os.close(lock3)


@pytest.mark.parametrize("name", ["", "../up", "Big", "a b", "1st", "x" * 32])
def test_names_that_are_none(store: Store, name: str) -> None:
    with pytest.raises(UsageError, match="a name is a small letter"):
        store.reserve(name)
    with pytest.raises(UsageError, match="there is no VM called"):
        store.entry(name)
    assert not store.root.exists()


def test_an_unknown_name_tells_what_there_is(store: Store) -> None:
    with pytest.raises(UsageError, match="there is no VM called nope") as raised:
        store.entry("nope")
    assert raised.value.hint == "none runs; `lev run -d --name NAME` starts one"
    _, lock = store.reserve("yes")
    with pytest.raises(UsageError) as raised:
        store.entry("nope")
    assert raised.value.hint == "these run: yes"
    os.close(lock)


def test_the_lock_goes_to_a_child_and_dies_with_it(store: Store) -> None:
    """As the supervisor takes it over from `lev run -d`."""
    _, lock = store.reserve("one")
    with subprocess.Popen(["sleep", "100"], pass_fds=(lock,)) as child:
        os.close(lock)
        assert store.locked("one")
        assert store.entry("one").alive
        child.kill()
        child.wait()
        assert not store.locked("one")
        assert store.entry("one").state == "lost"


def test_what_a_killed_supervisor_left_is_removed(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "lev-0123456789ab"
    folder.mkdir()
    (folder / "initrd").write_bytes(b"x")
    other = tmp_path / "precious"
    other.mkdir()
    with subprocess.Popen(["sleep", "100"], start_new_session=True) as child:
        entry, lock = store.reserve("one")
        leftovers = {"folders": [str(folder), str(other)], "processes": [[child.pid, start_time(child.pid)]]}
        store.save(_with(entry, state="running", leftovers=leftovers))
        os.close(lock)
        found = store.entry("one")
        assert child.wait(10) == -9
    assert found.state == "lost"
    assert found.leftovers == {}
    assert "supervisor was killed" in (found.error or "")
    assert not folder.exists()
    assert other.exists()


def test_a_process_that_only_has_the_number_is_spared() -> None:
    with subprocess.Popen(["sleep", "100"], start_new_session=True) as child:
        started = start_time(child.pid)
        assert started is not None
        clean_up({"processes": [[child.pid, started - 1]]})
        assert child.poll() is None
        child.kill()


def test_an_entry_of_another_host_is_left_alone(store: Store) -> None:
    entry, lock = store.reserve("one")
    store.save(_with(entry, state="running", host="elsewhere"))
    os.close(lock)
    assert store.entry("one").state == "running"


def test_a_damaged_entry_is_named(store: Store) -> None:
    os.close(store.reserve("one")[1])
    (store.folder("one") / "entry.json").write_text("{")
    with pytest.raises(StoreError, match=r"entry\.json is damaged") as raised:
        store.entry("one")
    assert raised.value.hint == f"remove {store.folder('one')}"


def test_fields_of_a_newer_version_are_left_out(store: Store) -> None:
    entry, lock = store.reserve("one")
    path = store.folder("one") / "entry.json"
    path.write_text(json.dumps(entry.as_json() | {"colour": "blue"}))
    assert store.entry("one") == entry
    os.close(lock)


def test_old_endings_go_when_a_new_vm_starts(store: Store) -> None:
    for number in range(ENDED_KEPT + 3):
        ended(store, f"old{number}", created=1000.0 + number)
    os.close(store.reserve("new")[1])
    names = store.names()
    assert "new" in names
    assert "old0" not in names
    assert f"old{ENDED_KEPT + 2}" in names


def test_remove(store: Store) -> None:
    ended(store, "one")
    store.remove("one")
    assert store.names() == []
    _, lock = store.reserve("two")
    with pytest.raises(UsageError, match="two runs"):
        store.remove("two")
    os.close(lock)


def test_a_lock_is_not_ours_to_inherit(store: Store) -> None:
    _, lock = store.reserve("one")
    assert fcntl.fcntl(lock, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    os.close(lock)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LeviathanError, match="cannot make") as raised:
        Store(tmp_path / "file" / "vms").reserve("one")
    assert raised.value.hint == "set XDG_STATE_HOME to a folder of yours"


def test_the_supervisor_module_is_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "leviathan.named.supervisor"], capture_output=True, check=False)
    assert b"usage" in done.stderr
    assert done.returncode == 1
