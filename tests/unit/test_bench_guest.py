"""`lev bench guest`: numbers read from what programs print, configurations, tables, wrong options."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from leviathan.bench import guest
from leviathan.bench.guest import (
    ALL_ON,
    STOCK,
    Configuration,
    GuestBench,
    Options,
    choose,
    configurations,
    memory_counters,
    read,
)
from leviathan.bench.guest_report import figure_table, guest_json, slowdown, switch_table
from leviathan.bench.guest_work import (
    FIGURES,
    WORKLOADS,
    Workload,
    WrongOutput,
    counter_seconds,
    redis_rates,
    stress_rate,
    uptime_seconds,
)
from leviathan.cli.app import app
from leviathan.cli.tables import print_table
from leviathan.errors import Interrupted, LeviathanError, NodeLost, StartError, TimeOver, UsageError
from leviathan.model import Engine, Machine, Pool
from leviathan.model.switches import Switch, switches
from leviathan.vm.api import Result
from leviathan.vm.progress import Progress

# As printed by stress-ng 0.15.06, redis-benchmark 7.0.15 and lev-guest in guests.
STRESS = """\
stress-ng: info:  [145] setting to a 5 second run per stressor
stress-ng: info:  [145] dispatching hogs: 2 futex
stress-ng: metrc: [145] stressor       bogo ops real time  usr time  sys time   bogo ops/s     bogo ops/s CPU used per       RSS Max
stress-ng: metrc: [145]                           (secs)    (secs)    (secs)   (real time) (usr+sys time) instance (%)          (KB)
stress-ng: metrc: [145] futex             22347      5.01      0.95      8.89      4464.37        2272.31        98.23          2636
stress-ng: info:  [145] successful run completed in 5.25s
"""  # noqa: E501
REDIS = """\
"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
"SET","1089.32","5.629","1.064","5.015","8.527","13.063","63.103"
"GET","967.12","6.387","2.152","5.935","8.887","15.287","41.055"
"""
COUNTERS = """\
{"check":"counters","ok":true,"placement":"same-line","cpus":[0,1],"rounds":4000,"increments":8000,"switches":51,"seconds":0.054525,"nodes":[0,1]}
{"check":"counters","ok":true,"placement":"same-page","cpus":[0,1],"rounds":4000,"increments":8000,"switches":248,"seconds":0.026937,"nodes":[0,1]}
{"check":"counters","ok":true,"placement":"pages","cpus":[0,1],"rounds":4000,"increments":8000,"switches":232,"seconds":0.013826,"nodes":[0,1]}
{"check":"counters","ok":true,"placement":"cmpxchg16b","cpus":[0,1],"rounds":4000,"increments":8000,"switches":49,"seconds":0.020404,"nodes":[0,1]}
{"result":"pass","checks":4,"failed":0}
"""


def test_numbers_are_read_from_what_programs_print() -> None:
    assert stress_rate("futex", "futex")("", STRESS) == {"futex": 4464.37}
    assert redis_rates("PONG\n" + REDIS, "") == {"redis-set": 1089.32, "redis-get": 967.12}
    assert counter_seconds(COUNTERS) == {"counters": pytest.approx(0.115692)}
    assert uptime_seconds("10.14 3.00\n13.56 5.11\n") == {"compress": pytest.approx(3.42)}


@pytest.mark.parametrize(
    ("reader", "output", "reason"),
    [
        (stress_rate("vm", "memory"), STRESS, "no metrics of vm: .*completed in 5.25s$"),
        (stress_rate("futex", "futex"), STRESS.replace("4464.37", "   0.00"), "rate of futex is '0.00'"),
        (stress_rate("futex", "futex"), "", "no metrics"),
        (redis_rates, "Could not connect to Redis at 127.0.0.1:6379", "no redis-set and no redis-get: Could not"),
        (redis_rates, REDIS.replace('"GET"', '"LPOP"'), "no redis-get"),
        (redis_rates, REDIS.replace("967.12", "nan"), "redis-get is 'nan'"),
        (counter_seconds, COUNTERS.replace('"pass"', '"fail"'), "did not end with a pass"),
        (counter_seconds, '{"result":"pass"}', "did not end with a pass"),
        (counter_seconds, COUNTERS.replace('"nodes"', '"failures":["7 lost"],"nodes"'), "7 lost"),
        (uptime_seconds, "10.14 3.00\n", "two times"),
        (uptime_seconds, "10.14 3.00\n10.14 3.00\n", "time taken is 0.0"),
    ],
)
def test_a_number_that_is_not_there_is_a_failure(reader: Callable[[str, str], Any], output: str, reason: str) -> None:
    with pytest.raises(WrongOutput, match=reason):
        reader(output, "")


def test_a_command_that_fails_has_no_numbers() -> None:
    work = WORKLOADS[1]
    with pytest.raises(WrongOutput, match="exit code 2: no room"):
        read(work, Result("x", 2, b"10 1\n20 1\n", b"first\nno room\n"))
    assert read(work, Result("x", 0, b"10 1\n20 1\n", b"")) == {"compress": 10.0}


def test_every_figure_belongs_to_one_workload() -> None:
    assert [figure for work in WORKLOADS for figure in work.figures] == list(FIGURES)
    assert FIGURES["boot"].slowdown(6.0, 3.0) == 2.0
    assert FIGURES["futex"].slowdown(50.0, 100.0) == 2.0


def test_switches_stand_at_their_fields() -> None:
    found = {switch.name: switch for switch in switches(Machine)}
    assert found["pool"].changes == {"pool": {"enabled": False}}
    assert found["read_ahead"].changes == {"engine": {"read_ahead": 0}}
    # Thresholds and numbers of things, which cannot be off, are all that has none.
    assert set(Engine.model_fields) - set(found) == {"promote_after", "stripes"}
    assert {switch.table for switch in found.values()} == {"engine", "pool"}
    assert "enabled" in Pool.model_fields

    class Table(BaseModel):
        enabled: Annotated[bool, Switch(off=False, counter="c")] = True
        plain: int = 0

    class Whole(BaseModel):
        one: Table = Table()
        other: int = 0

    assert [switch.name for switch in switches(Whole)] == ["one"]


def test_configurations_differ_by_one_switch() -> None:
    machine = Machine(nodes=2, cpus=2, memory="512M", engine={"hold_us": 70})
    kinds = configurations(machine)
    assert [kind.name for kind in kinds[:3]] == [STOCK, ALL_ON, "no-pool"]
    assert len(kinds) == 2 + len(switches(Machine))
    assert kinds[0].machine.stock
    assert (kinds[0].machine.cpus, kinds[0].machine.memory) == (2, machine.memory)
    assert kinds[1].machine == machine
    assert [kind.name for kind in configurations(machine, ["migratory,pool"])] == [
        STOCK,
        ALL_ON,
        "no-pool",
        "no-migratory",
    ]
    off = next(kind for kind in kinds if kind.name == "no-prefetch")
    assert off.title == "2 nodes, prefetch 0"
    assert off.machine.engine.prefetch == 0
    assert off.machine.engine.hold_us == 70
    for wrong in (Machine(nodes=1, cpus=2), Machine(nodes=0)):
        with pytest.raises(UsageError, match="two or more"):
            configurations(wrong)


def test_choosing_keeps_the_order() -> None:
    assert choose(["c,a", "a"], ["a", "b", "c"], "--x") == ["a", "c"]
    assert choose(None, ["a", "b"], "--x") == ["a", "b"]
    with pytest.raises(UsageError, match=r"--x d: there is none"):
        choose(["a,d"], ["a"], "--x")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--only", "turbo"], "--only turbo: there is none of that name"),
        (["--workloads", "redis,doom"], "--workloads doom: there is none of that name"),
        (["--nodes", "1"], "--nodes"),
        (["--rounds", "0"], "--rounds"),
        (["--limit", "1"], "--limit"),
        (["--json", "/no/such/folder/x"], "--json"),
        (["--memory", "3"], "memory"),
    ],
)
def test_wrong_options_are_named_before_anything_is_done(words: list[str], reason: str) -> None:
    result = CliRunner().invoke(app, ["bench", "guest", *words])
    said = result.output + str(result.exception)
    assert reason in said, said
    code = result.exception.exit_code if isinstance(result.exception, LeviathanError) else result.exit_code
    assert code == 2


class FakeVM:
    """Answers as told by the test, in place of a guest."""

    answers: Callable[[FakeVM, str], Result] | None = None
    made = 0

    def __init__(self, machine: Machine) -> None:
        type(self).made += 1
        self.machine = machine

    def __enter__(self) -> FakeVM:
        if self.machine.engine.prefetch == 0:
            raise StartError("the worker does not listen\nit said: no")
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, command: str, timeout: float) -> Result:
        assert timeout == 7
        assert self.answers is not None
        return self.answers(command)

    def report(self) -> dict[str, Any]:
        steps = [{"name": "starting QEMU", "seconds": 1.0}, {"name": "booting the guest", "seconds": 2.5}]
        nodes = [{"memory": {"faults_read": 3, "upgrades_saved": 2, "hot_pages": []}}] * 2
        report = None if self.machine.stock else {"nodes": nodes}
        return {"steps": [*steps, {"name": "stopping", "seconds": 9.0}], "where": {"lab": False}, "report": report}


def work(name: str, figure: str) -> Workload:
    return Workload(name, (figure,), lambda seconds: f"{name} {seconds}", lambda out, _: {figure: float(out)})


def fake_bench(monkeypatch: pytest.MonkeyPatch, only: str, answers: Callable[[FakeVM, str], Result]) -> GuestBench:
    monkeypatch.setattr(guest, "VM", FakeVM)
    monkeypatch.setattr(FakeVM, "answers", answers)
    monkeypatch.setattr(FakeVM, "made", 0)
    kinds = configurations(Machine(nodes=2, cpus=2, memory="512M"), [only])
    works = [WORKLOADS[0], work("futex", "futex"), work("redis", "redis-set")]
    return GuestBench(kinds, works, Options(rounds=2, seconds=3, limit=7.0), Progress())


def test_a_lost_guest_costs_one_workload(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(vm: FakeVM, command: str) -> Result:
        if vm.machine.engine.migratory is False and command == "futex 3":
            raise NodeLost("node1 was lost\nmore")
        return Result(command, 0, b"50" if vm.machine.stock else b"25", b"")

    bench = fake_bench(monkeypatch, "migratory", answers)
    bench.run()
    stock, all_on, off = bench.kinds
    assert FakeVM.made == 2 * (1 + 1 + 2), "a new guest does what the lost one has left"
    assert off.failures == {1: {"futex": "node1 was lost"}, 2: {"futex": "node1 was lost"}}
    assert off.figures[1] == {"boot": 3.5, "redis-set": 25.0}
    assert bench.failed
    assert all_on.counted[2] == {"faults_read": 6, "upgrades_saved": 4}
    assert not stock.counted[1]
    assert off.counted == {}, "half a guest's counts compare with nothing"
    assert slowdown(all_on, stock, "futex").median == 2.0  # type: ignore[union-attr]
    assert slowdown(off, all_on, "futex") is None


def test_a_guest_that_does_not_start_fails_all_of_its_round(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = fake_bench(monkeypatch, "prefetch", lambda vm, command: Result(command, 0, b"5", b""))
    bench.run()
    reason = "no guest: the worker does not listen"
    assert bench.kinds[2].failures[1] == {"boot": reason, "futex": reason, "redis": reason}
    assert bench.kinds[1].figures[2]["futex"] == 5.0
    shown = io.StringIO()
    print_table(figure_table("futex", "futex", bench.kinds), shown)
    assert "failed" in shown.getvalue().splitlines()[3]


def test_an_interruption_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(vm: FakeVM, command: str) -> Result:
        raise Interrupted(2, "Ctrl-C")

    with pytest.raises(Interrupted):
        fake_bench(monkeypatch, "pool", answers).run()
    assert FakeVM.made == 1


def test_a_reason_is_one_line_without_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(vm: FakeVM, command: str) -> Result:
        raise TimeOver("waited 7 s for `\n" + "word\n" * 100 + "`\nthe console's last lines:\n  | login:")

    bench = fake_bench(monkeypatch, "pool", answers)
    bench.run()
    assert bench.kinds[0].failures[1]["redis"] == "waited 7 s for the command"


def kind(name: str, rounds: list[float], faults: int = 0) -> Configuration:
    known = {each.name: each for each in configurations(Machine(nodes=2, cpus=2), ["migratory"])}
    found = known[name]
    found.figures = {number: {"futex": value} for number, value in enumerate(rounds, 1)}
    if faults:
        found.counted = {1: {"faults_read": faults, "faults_upgrade": 1, "upgrades_saved": 44, "bytes_sent": 2_000_000}}
    return found


def test_ratios_are_taken_round_by_round() -> None:
    kinds = [kind(STOCK, [100, 10, 100]), kind(ALL_ON, [50, 5, 20], 99), kind("no-migratory", [25, 4], 149)]
    spread = slowdown(kinds[1], kinds[0], "futex")
    assert spread is not None
    assert (spread.median, spread.low, spread.high) == (2.0, 2.0, 5.0)
    shown = io.StringIO()
    print_table(figure_table("futex", "futex", kinds), shown)
    rows = [line.split("  ") for line in shown.getvalue().splitlines()]
    assert [cell.strip() for cell in rows[3] if cell.strip()] == [
        "2 nodes, migratory off",
        "14.50",
        "4.00 .. 25.00",
        "3.25",
        "1.62",
    ]
    shown = io.StringIO()
    print_table(switch_table(kinds), shown)
    last = shown.getvalue().splitlines()[-1].split()
    assert last == ["2", "nodes,", "migratory", "off", "upgrades_saved", "44", "150", "1.50", "2.0", "1.00"]


def test_the_file_holds_every_sample() -> None:
    kinds = [kind(STOCK, [100, 10]), kind(ALL_ON, [50, 5], 9), kind("no-migratory", [])]
    kinds[2].failures = {1: {"futex": "why"}}
    bench = GuestBench(kinds, [work("futex", "futex")], Options(2, 3, 7.0), Progress())
    table = json.loads(json.dumps(guest_json(bench, {"before": 1.0, "after": 2.0})))
    off = table["configurations"]["no-migratory"]
    assert off["off"] == {"engine": {"migratory": False}}
    assert off["failures"] == [{"round": 1, "workload": "futex", "reason": "why"}]
    assert off["figures"]["futex"]["value"] is None
    assert table["configurations"][ALL_ON]["figures"]["futex"]["rounds"] == {"1": 50, "2": 5}
    assert table["configurations"][ALL_ON]["figures"]["futex"]["to_stock"]["median"] == 2.0


def test_counters_of_all_nodes_are_added_up() -> None:
    nodes = [{"memory": {"holds": 1, "hot_pages": [1]}}, {"memory": {"holds": 2, "turns": 5}}, {}]
    assert memory_counters({"nodes": nodes}) == {"holds": 3, "turns": 5}
    assert memory_counters(None) == {}
