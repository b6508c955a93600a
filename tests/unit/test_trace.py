"""Traces: read, shown, replayed, joined; what is refused, with its place."""

from __future__ import annotations

import itertools
import json
import struct
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from leviathan.cli.app import app
from leviathan.errors import ConfigError, UsageError
from leviathan.model import Machine
from leviathan.trace import DTYPE, Event, Kind, Trace
from leviathan.vm.trace import check_trace

DATA = Path(__file__).parent / "data"
BOOT = DATA / "boot.trace"
"""The last 3,600 events of a kernel's boot over two nodes with a pool, from `lev trace record`."""
SVG = "{http://www.w3.org/2000/svg}"


def lev(*words: str) -> tuple[int, str, BaseException | None]:
    result = CliRunner().invoke(app, ["trace", *words])
    return result.exit_code, result.stdout, result.exception


def header(nodes: int = 2, node: int = 0, *, records: int = 0, start_ns: int = 0, offset_ns: int = 0) -> bytes:
    return struct.pack(
        "<8sHHHHHHIQqQQQIIQ",
        b"LEVTRACE", 1, 80, 24, nodes, node, 1, 4096, start_ns, offset_ns, records, 0, 0, 2, 50, 0,
    )  # fmt: skip


def event(at_ns: int, page: int, node: int, kind: Kind, flags: int = 0, other: int = 0, thread: int = 9) -> bytes:
    return struct.pack("<QQBBHI", at_ns, page | node << 48, kind, flags, other, thread)


def test_a_recorded_boot_is_read() -> None:
    trace = Trace.load(BOOT)
    assert (trace.nodes, trace.node, trace.promote_after, trace.dropped, trace.cut) == (2, None, 2, 0, 0)
    events = list(trace)
    assert len(events) == len(trace) > 1000
    assert all(one.at_ns <= other.at_ns for one, other in itertools.pairwise(events))
    kinds = Counter(one.kind for one in events)
    assert kinds[Kind.READ] > 0
    assert kinds[Kind.POOL] > 0
    assert {one.node for one in events} == {0, 1}
    assert {home.node for home in trace.homes} == {0, 1}


def test_numpy_sees_the_same_events() -> None:
    trace = Trace.load(BOOT)
    table = np.frombuffer(trace.data, DTYPE)
    assert len(table) == len(trace)
    for index in (0, len(trace) // 2, -1):
        row, one = table[index], list(trace)[index]
        assert (row["at_ns"], row["place"] & (1 << 48) - 1, row["place"] >> 48) == (one.at_ns, one.page, one.node)
        assert (row["kind"], row["flags"], row["other"], row["thread"]) == (one.kind, one.flags, one.other, one.thread)


def test_a_file_made_by_its_description_is_read() -> None:
    records = [
        struct.pack("<QQBBHI", 100, 0x7F00, 32, 0, 1, 0),
        event(10, 0x7F05, 0, Kind.UPGRADE, 1),
        event(5, 0x7F06, 0, Kind.SEND, 3, other=1, thread=0),
    ]
    trace = Trace.parse(header(records=3, start_ns=7, offset_ns=-7) + b"".join(records))
    assert (trace.node, trace.start_ns, trace.clock_offset_ns, trace.hold_us) == (0, 7, -7, 50)
    assert trace.homes == ((0x7F00, 100, 1),)
    first, second = trace
    assert first == Event(5, 0x7F06, 0, Kind.SEND, 3, 1, 0)
    assert (first.write, first.zero, first.unasked) == (True, True, False)
    assert second.kind.is_fault
    assert not first.kind.is_fault


def test_show_names_patterns_and_the_hottest_pages() -> None:
    code, out, _ = lev("show", str(BOOT), "--hot", "3")
    assert code == 0
    for word in ("2 nodes", "private", "read-mostly", "migratory", "0x7f"):
        assert word in out
    code, out, _ = lev("show", str(BOOT), "--hot", "3", "--json")
    summary = json.loads(out)
    assert len(summary["hottest"]) == 3
    assert sum(one["faults"] for one in summary["patterns"]) == summary["faults"]
    assert [node["node"] for node in summary["by_node"]] == [0, 1]


def test_replay_is_exact_and_the_same_every_time(tmp_path: Path) -> None:
    def run(*words: str) -> dict[str, object]:
        file = tmp_path / "replay.json"
        assert lev("replay", str(BOOT), "-q", "--json", str(file), *words)[0] == 0
        table: dict[str, object] = json.loads(file.read_text())["replay"]
        return table

    faults = sum(1 for one in Trace.load(BOOT) if one.kind.is_fault)
    first = run()
    assert first["accesses"] == faults
    assert first == run()
    slow = run("--latency-us", "1000")
    assert slow["order"] == first["order"]
    assert slow["p50_us"] > first["p50_us"]  # type: ignore[operator]


def test_its_program_on_more_nodes_is_drawn(tmp_path: Path) -> None:
    file, picture = tmp_path / "more.json", tmp_path / "more.svg"
    words = ("--nodes", "2,8,1024", "--accesses", "4", "--json", str(file), "--svg", str(picture))
    code, out, _ = lev("replay", str(BOOT), "-q", *words)
    assert code == 0
    table = json.loads(file.read_text())
    assert [one["nodes"] for one in table["runs"]["all together"]] == [2, 8, 1024]
    assert table["mix"]["nodes"] == 2
    assert "1,024" in out
    assert len(ET.parse(picture).getroot().findall(f".//{SVG}polyline")) >= 3 * 3


def test_files_of_nodes_are_joined(tmp_path: Path) -> None:
    parts = [tmp_path / "a", tmp_path / "b"]
    parts[0].write_bytes(header(node=0, records=1, start_ns=1000) + event(50, 1, 0, Kind.READ))
    # Its clock is 400 behind the head's, and it started 30 later.
    parts[1].write_bytes(header(node=1, records=1, start_ns=630, offset_ns=400) + event(5, 1, 1, Kind.READ))
    out = tmp_path / "all"
    assert lev("join", *map(str, parts), "-o", str(out))[0] == 0
    assert [(one.at_ns, one.node) for one in Trace.load(out)] == [(35, 1), (50, 0)]
    code, _, error = lev("join", str(parts[0]), str(parts[0]), "-o", str(out))
    assert code == 1
    assert isinstance(error, UsageError)
    assert "one of two files of a node" in error.message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes are too few"),
        (b"x" * 100, "offset 0: not a trace"),
        (header(records=2) + event(1, 1, 0, Kind.READ), "offset 40: 2 records are announced"),
        (header(records=1) + event(1, 1, 1, Kind.READ), "offset 80: an event of another node"),
        (header(nodes=0), "offset 14: the number of nodes cannot be 0"),
    ],
)
def test_what_is_no_trace_is_refused_with_its_place(tmp_path: Path, data: bytes, message: str) -> None:
    file = tmp_path / "bad.trace"
    file.write_bytes(data)
    for command in ("show", "replay"):
        code, _, error = lev(command, str(file))
        assert code == 1
        assert isinstance(error, ConfigError)
        assert error.message.startswith(f"{file}: ")
        assert message in error.message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["replay", str(BOOT), "--nodes", "1025"], "--nodes"),
        (["replay", str(BOOT), "--svg", "x.svg"], "--svg"),
        (["replay", str(BOOT), "--sharing", "shrinks"], "--sharing"),
        (["replay", str(BOOT), "-q", "--hold-us", "2e9"], "times: at most a second"),
        (["show", "/nowhere"], "/nowhere: No such file"),
        (["record", "-o", "x"], "what is to be recorded?"),
        (["record", "-o", "x", "--exec", "true", "--seconds", "3"], "--seconds"),
        (["record", "-o", "x", "--exec", "true", "--nodes", "1"], "two nodes or more"),
        (["record", "-o", "/nowhere/x", "--exec", "true"], "there is no folder /nowhere"),
        (["record", "-o", "x", "no-such-vm"], "no-such-vm"),
    ],
)
def test_what_cannot_be_is_refused(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    code, _, error = lev(*words)
    assert code == 1
    assert isinstance(error, ConfigError | UsageError)
    assert message in error.message
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "leviathan"])


def test_a_trace_needs_nodes(tmp_path: Path) -> None:
    check_trace(Machine(nodes=2), tmp_path / "x")
    check_trace(Machine(nodes=1), None)
    for machine in (Machine(nodes=1), Machine(nodes=0)):
        with pytest.raises(UsageError, match="two nodes or more"):
            check_trace(machine, tmp_path / "x")
    with pytest.raises(UsageError, match="is a folder"):
        check_trace(Machine(nodes=2), tmp_path)
