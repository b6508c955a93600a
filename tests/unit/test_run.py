"""The life of one VM against a host of scripts: what is started, what is waited for, what every failure becomes."""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeHost, FakeProcess, Script

from leviathan.errors import GuestDied, LaunchError, LeviathanError, NodeLost, StartError, TimeOver
from leviathan.model import Machine, Timeouts
from leviathan.qemu.binary import QemuBinary
from leviathan.trace import Trace
from leviathan.vm import life as life_module
from leviathan.vm.life import Life
from leviathan.vm.mailbox import Event
from leviathan.vm.place import Choice, Placement
from leviathan.vm.prepare import Boot, Work
from leviathan.vm.standstill import Standstill

PATIENCE = 30
"""Seconds: no test comes near, however busy the machine."""
CALM = Timeouts(lab=PATIENCE, workers=PATIENCE, ready=PATIENCE, boot=PATIENCE, stop=1)


def worker(host: FakeHost, process: FakeProcess) -> None:
    """Listens."""
    name = process.argv[process.argv.index("--name") + 1]
    process.say({"event": "listening", "address": f"127.0.0.1:{5000 + int(name[-1])}"})


def say_bye(host: FakeHost) -> None:
    for process in host.processes:
        if process.argv[0].endswith("lev-node"):
            process.end(0)


def qemu_that(*acts: Callable[[FakeHost, FakeProcess], None]) -> Script:
    def qemu(host: FakeHost, process: FakeProcess) -> None:
        host.port("qmp").say({"QMP": {}})
        if process.env:
            host.port("events").say({"event": "ready"})
        for act in acts:
            act(host, process)

    return qemu


def init_up(host: FakeHost, process: FakeProcess) -> None:
    process.say("Run /init as init process")
    host.port("status").say("ready 1.50")


def exits(code: int) -> Callable[[FakeHost, FakeProcess], None]:
    def act(host: FakeHost, process: FakeProcess) -> None:
        host.port("stdout").say("out of the command")
        host.port("status").say(f"exit {code}")

    return act


def powers_off(host: FakeHost, process: FakeProcess) -> None:
    cluster = next((data for path, (data, _) in host.files.items() if path.endswith("cluster.json")), None)
    if cluster:
        host.put(json.loads(cluster)["report"], b'{"nodes": [{"name": "node0"}]}')
    host.port("qmp").say({"event": "SHUTDOWN", "data": {"guest": True, "reason": "guest-shutdown"}})
    say_bye(host)
    host.end_ports()
    process.end(0)


def ends(code: int, *, reason: str = "", stderr: str = "") -> Callable[[FakeHost, FakeProcess], None]:
    def act(host: FakeHost, process: FakeProcess) -> None:
        if stderr:
            process.complain(stderr)
        if reason:
            host.port("qmp").say({"event": "SHUTDOWN", "data": {"reason": reason}})
        host.end_ports()
        process.end(code)

    return act


def tells(**event: object) -> Callable[[FakeHost, FakeProcess], None]:
    def act(host: FakeHost, process: FakeProcess) -> None:
        host.port("events").say(event)

    return act


GOOD = qemu_that(init_up, exits(7), powers_off)


class Rig:
    """A life over one fake host."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self.host: FakeHost
        self.life: Life
        self.gone: Callable[[str, str], None]
        self.output = b""

    def make(
        self, machine: Machine, timeout: float | None = None, *, trace: Path | None = None, **scripts: Script
    ) -> Life:
        self.host = FakeHost({"qemu": scripts.get("qemu", GOOD), "lev-node": scripts.get("node", worker)})
        binary = QemuBinary("/usr/bin/qemu", (7, 2, 0), "QEMU emulator version 7.2.0", "abc")
        boot = Boot(binary, Path("/k"), "6.1", b"initrd")

        def place(m: Machine, b: Boot, c: Choice, local: Any, folder: str, stack: ExitStack, *rest: Any) -> Placement:
            stack.callback(self.host.close)
            self.gone = rest[-1]
            return Placement(c, [self.host] * len(m.shares()), "/usr/bin/qemu", "/k", "/i")

        self._patch.setattr(life_module, "prepare", lambda *_: boot)
        self._patch.setattr(life_module, "choose", lambda *_: Choice(lab=False, reason="a test"))
        self._patch.setattr(life_module, "place", place)
        self.life = Life(machine, Work("true"), stdout=self.take, timeout=timeout, trace=trace)
        return self.life

    def take(self, data: bytes) -> None:
        self.output += data

    def fails(self, kind: type[LeviathanError], machine: Machine | None = None, **scripts: Script) -> LeviathanError:
        """Runs to the end, which must be an error of this kind, and nothing may be left running."""
        with pytest.raises(kind) as raised, self.make(machine or Machine(timeouts=CALM), **scripts):
            self.life.start()
            self.life.wait_end(PATIENCE)
        assert type(raised.value) is kind
        assert self.host.closed
        assert not any(process.running for process in self.host.processes)
        assert self.life.record.as_json([])["error"]["kind"] == kind.__name__
        assert self.life.record.exit_code == raised.value.exit_code
        return raised.value


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    # Failures wait a moment for the head to name the culprit; tests need not wait as long.
    monkeypatch.setattr(life_module, "BLAME_SECONDS", 0.3)
    monkeypatch.setattr(life_module, "WORKER_STOP_SECONDS", 0.3)
    yield Rig(monkeypatch)


def test_a_good_run(rig: Rig) -> None:
    with rig.make(Machine(cpus=4, nodes=3, timeouts=CALM)) as life:
        life.start()
        ending = life.wait_end(PATIENCE)
        life.stop()
    assert (ending.exit_code, ending.powered_off) == (7, False)
    assert rig.output == b"out of the command\n"
    assert life.record.report == {"nodes": [{"name": "node0"}]}
    assert life.record.guest_ready_uptime == 1.5
    names = [p.argv[p.argv.index("--name") + 1] for p in rig.host.processes if p.argv[0].endswith("lev-node")]
    assert names == ["node1", "node2"]
    assert rig.host.closed


def test_what_the_head_gets(rig: Rig) -> None:
    with rig.make(Machine(cpus=4, nodes=3, timeouts=CALM)) as life:
        life.start()
    qemu = next(p for p in rig.host.processes if p.argv[0].endswith("qemu"))
    assert qemu.env["LD_PRELOAD"] == "/bin-dir/liblev_facade.so"
    data, mode = rig.host.files[qemu.env["LEV_CLUSTER"]]
    assert mode == 0o600
    cluster = json.loads(data)
    assert [node["address"] for node in cluster["nodes"]] == [None, "127.0.0.1:5001", "127.0.0.1:5002"]
    secrets = {path: mode for path, (_, mode) in rig.host.files.items() if path.endswith(".secret")}
    assert set(secrets.values()) == {0o600}
    assert len(secrets) == 2
    # The secret is in files only: no command line, no environment, no record shows it.
    shown = [*qemu.argv, *qemu.env.values(), json.dumps(life.record.as_json([]))]
    shown += [word for process in rig.host.processes for word in process.argv]
    assert not [text for text in shown if cluster["secret"] in text]


def records(host: FakeHost, process: FakeProcess) -> None:
    """Every node writes a trace of one event, if the head was told to begin one."""
    path = json.loads(host.files[process.env["LEV_CLUSTER"]][0])["trace"]
    if host.files.get(f"{path}.on", (b"off", 0))[0] != b"on\n":
        return
    workers = [p.argv for p in host.processes if p.argv[0].endswith("lev-node")]
    paths = [path, *(argv[argv.index("--trace") + 1] for argv in workers)]
    for node, path in enumerate(paths):
        header = struct.pack("<8sHHHHHHIQqQQQIIQ", b"LEVTRACE", 1, 80, 24, 3, node, 1, 4096, 0, 0, 1, 0, 0, 0, 0, 0)
        host.put(path, header + struct.pack("<QQBBHI", 10 - node, 5 | node << 48, 1, 0, 0, 7))


def test_a_trace_is_fetched_from_every_node_and_joined(rig: Rig, tmp_path: Path) -> None:
    file = tmp_path / "run.trace"
    machine = Machine(cpus=4, nodes=3, timeouts=CALM)
    with rig.make(machine, trace=file, qemu=qemu_that(init_up, records, exits(0), powers_off)) as life:
        life.start()
        life.wait_end(PATIENCE)
        life.stop()
    assert [(one.at_ns, one.node) for one in Trace.load(file)] == [(8, 2), (9, 1), (10, 0)]
    # Also of a guest that died; nobody else's error hides how.
    file.unlink()
    dies = qemu_that(init_up, records, ends(1))
    with pytest.raises(GuestDied), rig.make(machine, trace=file, qemu=dies) as life:
        life.start()
        life.wait_end(PATIENCE)
    assert len(Trace.load(file)) == 3
    with pytest.raises(GuestDied), rig.make(machine, trace=tmp_path / "none", qemu=qemu_that(init_up, ends(1))) as life:
        life.start()
        life.wait_end(PATIENCE)
    assert not (tmp_path / "none").exists()


def test_no_trace_is_begun_unasked(rig: Rig) -> None:
    with rig.make(Machine(timeouts=CALM)) as life:
        life.start()
        assert not any(path.endswith(".trace.on") for path in rig.host.files)
        life.switch_trace(on=True)
        (switch,) = (data for path, (data, _) in rig.host.files.items() if path.endswith("/node0.trace.on"))
        assert switch == b"on\n"


def test_the_baseline_has_no_workers_and_no_facade(rig: Rig) -> None:
    with rig.make(Machine(nodes=0, timeouts=CALM)) as life:
        life.start()
        assert life.wait_end(PATIENCE).exit_code == 7
        life.stop()
    qemu = next(p for p in rig.host.processes if p.argv[0].endswith("qemu"))
    assert qemu.env == {}
    assert not any(path.endswith((".secret", "cluster.json")) for path in rig.host.files)


def test_a_guest_that_switches_itself_off(rig: Rig) -> None:
    with rig.make(Machine(timeouts=CALM), qemu=qemu_that(init_up, powers_off)) as life:
        life.start()
        ending = life.wait_end(PATIENCE)
    assert (ending.exit_code, ending.powered_off) == (0, True)


def test_a_lost_node_is_named(rig: Rig) -> None:
    lost = qemu_that(init_up, tells(event="node-lost", node=1, name="node1", reason="no heartbeat"), ends(123))
    error = rig.fails(NodeLost, qemu=lost)
    assert error.message.startswith("node1 was lost: no heartbeat")
    assert error.exit_code == 123
    assert "Run /init as init process" in error.message


def test_a_silent_node_is_not_waited_for(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes 4 s to notice, and 5 s are promised."""
    monkeypatch.setattr("leviathan.vm.blame.LAST_WORDS_SECONDS", 3600.0)
    silence = tells(event="node-lost", node=1, name="node1", reason="silent for 4.0 s", silent=True)
    lost = qemu_that(init_up, silence, ends(123))
    assert rig.fails(NodeLost, qemu=lost).message.startswith("node1 was lost: silent for 4.0 s")


def test_a_worker_that_dies_is_named_even_if_the_head_says_nothing(rig: Rig) -> None:
    def dies(host: FakeHost, process: FakeProcess) -> None:
        worker(host, process)
        time.sleep(0.2)
        process.complain("thread panicked at vcpu 3")
        process.end(-9)

    error = rig.fails(NodeLost, node=dies, qemu=qemu_that(init_up))
    assert "node1 was lost: its program on fake was killed by SIGKILL" in error.message
    assert "thread panicked at vcpu 3" in error.message


def test_the_head_knows_better_why_a_worker_died(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life_module, "BLAME_SECONDS", PATIENCE)

    def dies(host: FakeHost, process: FakeProcess) -> None:
        worker(host, process)
        time.sleep(0.2)
        process.end(1)
        time.sleep(0.05)
        host.port("events").say({"event": "node-lost", "name": "node1", "reason": "connection reset"})

    assert "node1 was lost: connection reset" in rig.fails(NodeLost, node=dies, qemu=qemu_that(init_up)).message


@pytest.mark.parametrize("first", ["worker", "head"])
def test_a_worker_that_leaves_by_itself_is_quoted(rig: Rig, first: str) -> None:
    def leaves(host: FakeHost, process: FakeProcess) -> None:
        worker(host, process)
        time.sleep(0.2)
        for who in ("worker", "head") if first == "worker" else ("head", "worker"):
            if who == "head":
                host.port("events").say({"event": "node-lost", "name": "node1", "reason": "connection reset"})
            else:
                process.say({"event": "lost", "node": 0, "message": "the head has been silent for 4.0 s"})
            time.sleep(0.05)
        process.end(123)

    message = rig.fails(NodeLost, node=leaves, qemu=qemu_that(init_up)).message
    assert "connection reset (node1 said: the head has been silent for 4.0 s)" in message


def test_the_first_dead_worker_is_blamed_not_those_that_follow(rig: Rig) -> None:
    first_is_dead = threading.Event()

    def dies(host: FakeHost, process: FakeProcess) -> None:
        worker(host, process)
        if process.argv[-1] == "node1":
            time.sleep(0.2)
            process.end(-9)
            first_is_dead.set()
        else:
            first_is_dead.wait(PATIENCE)
            time.sleep(0.3)
            process.end(1)

    machine = Machine(nodes=3, timeouts=CALM)
    assert rig.fails(NodeLost, machine, node=dies, qemu=qemu_that(init_up)).message.startswith("node1 was lost")


def test_a_worker_that_refuses_before_the_start(rig: Rig) -> None:
    def refuses(host: FakeHost, process: FakeProcess) -> None:
        process.say({"event": "error", "message": "address in use", "hint": "choose another port"})
        process.end(1)

    error = rig.fails(StartError, node=refuses)
    assert error.message.startswith("node1: address in use")
    assert error.hint == "choose another port"


def test_a_worker_that_ends_without_a_word(rig: Rig) -> None:
    def crashes(host: FakeHost, process: FakeProcess) -> None:
        process.complain("Illegal instruction")
        process.end(-4)

    error = rig.fails(StartError, node=crashes)
    assert "node1 was lost: its program on fake was killed by SIGILL" in error.message
    assert "Illegal instruction" in error.message


def test_qemu_that_does_not_start(rig: Rig) -> None:
    error = rig.fails(StartError, qemu=lambda host, process: ends(1, stderr="qemu: unknown device")(host, process))
    assert error.message.startswith("QEMU ended with exit code 1")
    assert "qemu: unknown device" in error.message


def test_an_error_of_the_head_before_the_guest_starts(rig: Rig) -> None:
    def refuses(host: FakeHost, process: FakeProcess) -> None:
        host.port("events").say({"event": "error", "message": "node1 lacks avx2", "hint": "use -cpu"})

    error = rig.fails(StartError, qemu=refuses)
    assert error.message.startswith("node1 lacks avx2")
    assert error.hint == "use -cpu"


def test_qemu_that_crashes_while_the_guest_runs(rig: Rig) -> None:
    error = rig.fails(GuestDied, qemu=qemu_that(init_up, ends(-11, stderr="assertion failed")))
    assert error.message.startswith("QEMU was killed by SIGSEGV")
    assert "assertion failed" in error.message
    assert error.exit_code == 122


def test_a_guest_that_reboots_where_it_must_not(rig: Rig) -> None:
    error = rig.fails(GuestDied, qemu=qemu_that(init_up, ends(0, reason="guest-reset")))
    assert "rebooted" in error.message
    assert "--reboot" in (error.hint or "")


def test_every_wait_has_a_limit_and_says_what_it_waited_for(rig: Rig) -> None:
    def hurried(step: str) -> Machine:
        return Machine(timeouts=CALM.model_copy(update={step: 1}))

    silent: Script = lambda host, process: None  # noqa: E731
    error = rig.fails(TimeOver, hurried("workers"), node=silent)
    assert error.message.startswith("waited 1 s for worker node1 on fake to listen")
    assert error.hint == "allow more: --set timeouts.workers=SECONDS"
    error = rig.fails(TimeOver, hurried("ready"), qemu=silent)
    assert error.message.startswith("waited 1 s for the head to connect its workers")

    def stuck(host: FakeHost, process: FakeProcess) -> None:
        process.say("Kernel stuck here")

    error = rig.fails(TimeOver, hurried("boot"), qemu=qemu_that(stuck))
    assert error.message.startswith("waited 1 s for the guest's init")
    assert "  | Kernel stuck here" in error.message
    assert error.exit_code == 124


OUT_OF_ROOM = {"event": "out-of-room", "name": "node1", "resident": 320 << 20, "limit": 320 << 20, "waiting": 2}


def test_a_guest_without_room_stands_still_and_is_ended_in_the_end(rig: Rig) -> None:
    machine = Machine(timeouts=CALM.model_copy(update={"room": 0.1}), node_memory="1G")
    full = qemu_that(init_up, tells(**OUT_OF_ROOM))
    error = rig.fails(GuestDied, machine, qemu=full)
    assert error.message.startswith("no node has room for more guest memory: node1 holds 320 of 320 MiB; ")
    assert error.hint is not None
    assert "--node-memory" in error.hint
    assert any(OUT_OF_ROOM.items() <= event.items() for event in rig.life.record.events)


def test_a_guest_that_gets_room_again_goes_on(rig: Rig) -> None:
    machine = Machine(timeouts=CALM)
    again = tells(event="room-again", name="node1")
    with rig.make(machine, qemu=qemu_that(tells(**OUT_OF_ROOM), again, init_up, exits(7), powers_off)) as life:
        life.start()
        assert life.wait_end().exit_code == 7
    standstill = Standstill()
    full, room = (Event("head", kind, {"name": "node1"}) for kind in ("out-of-room", "room-again"))
    assert standstill.note(full).endswith("the guest stands still until there is")
    assert standstill.over(0) is None  # however long it takes
    assert isinstance(standstill.over(1e-9), GuestDied)
    assert standstill.note(room) == "node1 has room again: the guest goes on"
    assert standstill.over(1e-9) is None


def test_the_head_is_told_of_the_limit(rig: Rig) -> None:
    with rig.make(Machine(node_memory="1G", timeouts=CALM)) as life:
        life.start()
        cluster = next(data for path, (data, _) in rig.host.files.items() if path.endswith("cluster.json"))
        assert json.loads(cluster)["engine"]["node_memory"] == 1 << 30
        assert [node["node_memory"] for node in life.record.nodes] == [1 << 30] * 2
        life.wait_end()


def test_the_user_s_own_limit(rig: Rig) -> None:
    life = rig.make(Machine(timeouts=CALM), timeout=2, qemu=qemu_that(init_up))
    with pytest.raises(TimeOver, match=r"time is over \(2 s\) while waiting for the guest's command"), life:
        life.start()
        life.wait_end()
    assert rig.host.closed


def test_a_lab_machine_that_ends_names_its_nodes(rig: Rig) -> None:
    def gone(host: FakeHost, process: FakeProcess) -> None:
        rig.gone("fake", "it ended with exit code 1")

    error = rig.fails(NodeLost, qemu=qemu_that(init_up, gone))
    assert error.message.startswith("node0 and node1 lost: it ended with exit code 1")


def test_a_program_whose_host_is_gone_says_so(rig: Rig) -> None:
    def host_dies(host: FakeHost, process: FakeProcess) -> None:
        worker(host, process)
        time.sleep(0.2)
        process.fail(LaunchError("lab1 closed its control channel"))

    error = rig.fails(NodeLost, node=host_dies, qemu=qemu_that(init_up))
    assert error.message.startswith("node0 and node1 lost: lab1 closed its control channel")


def test_an_unfinished_vm_is_told_to_quit_and_then_ended(rig: Rig) -> None:
    with rig.make(Machine(timeouts=CALM), qemu=qemu_that(init_up)) as life:
        life.start()
        assert life.head is not None
        life.stop()
    qemu = next(p for p in rig.host.processes if p.argv[0].endswith("qemu"))
    assert qemu.signals == [15]
    assert not any(process.running for process in rig.host.processes)


def test_a_guest_may_write_anything_on_its_status_port(rig: Rig) -> None:
    def noise(host: FakeHost, process: FakeProcess) -> None:
        for line in ("", "exit", "exit x", "exit -1", "ready", "\x00\xff", "exit 99999", "{}"):
            host.port("status").say(line)

    with rig.make(Machine(timeouts=CALM), qemu=qemu_that(noise, powers_off)) as life:
        life.start()
        assert life.wait_end(PATIENCE).exit_code == 99999 & 0xFF


def test_the_record_is_written_whole(rig: Rig, tmp_path: Path) -> None:
    with rig.make(Machine(timeouts=CALM)) as life:
        life.start()
        life.wait_end(PATIENCE)
        life.stop()
        life.record.exit_code = 7
    life.record.write(tmp_path / "r.json", life.progress.steps)
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["schema"] == 1
    assert record["qemu"]["sha256"] == "abc"
    assert record["exit_code"] == 7
    assert record["error"] is None
    assert [step["name"] for step in record["steps"]][-1] == "stopping"
    assert list(tmp_path.iterdir()) == [tmp_path / "r.json"]
