"""The command `lev` as users meet it: help, plans, errors, exit codes."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from leviathan import __version__
from leviathan.bench.boot import BASELINE, KINDS, Kind, kinds, summary
from leviathan.cli.demo import Checks, describe
from leviathan.cli.errors import report_errors
from leviathan.cli.options import machine_from
from leviathan.cli.tables import node_table, print_table, step_table
from leviathan.errors import Interrupted, NodeLost, StartError, TimeOver, UsageError
from leviathan.model import Machine
from leviathan.vm import plan as plan_module
from leviathan.vm.place import Choice
from leviathan.vm.plan import make_plan, print_plan
from leviathan.vm.progress import Step


def lev(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command as a program of its own."""
    code = "from leviathan.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env=os.environ | {"COLUMNS": "200"} | environment,
    )


def test_version_and_help_go_to_standard_output() -> None:
    run = lev("--version")
    assert (run.returncode, run.stdout, run.stderr) == (0, f"leviathan {__version__}\n", "")
    run = lev("--help")
    assert run.returncode == 0
    for command in ("run", "demo", "plan", "node", "doctor", "bench"):
        assert f" {command} " in run.stdout


def test_every_option_of_the_contract_is_there() -> None:
    text = lev("run", "--help").stdout
    options = "--nodes --cpus --memory --on --lab-machines --kernel --add --exec --timeout --qemu --json --dry-run"
    for option in [*options.split(), "--no-pool", "--set"]:
        assert option in text


def test_help_does_not_import_what_only_a_run_needs() -> None:
    code = (
        "import sys; sys.argv = ['lev', '--help']\n"
        "from leviathan.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in sys.modules if m.startswith(('leviathan.vm', 'leviathan.lab', 'leviathan.images'))])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--nodes", "3", "--cpus", "2"], "2 CPUs cannot be shared by 3 nodes"),
        (["run", "--memory", "lots"], "memory: 'lots' is not a size"),
        (["run", "--on", "moon"], "on: Input should be 'auto', 'native' or 'lab'"),
        (["run", "nowhere.toml"], "cannot read nowhere.toml"),
        (["run", "--set", "engine.speed=1"], "engine.speed: no such field"),
        (["run", "--set", "engine"], "--set engine: write it as name=value"),
        (["run", "--json", "/nowhere/x.json", "--exec", "true"], "there is no folder /nowhere"),
        (["run", "--reboot"], "--reboot goes with --exec"),
        (["run", "--frobnicate"], "No such option"),
        (["run", "--timeout", "0"], "--timeout"),
        (["juggle"], "No such command"),
    ],
)
def test_wrong_usage_is_one_clear_error_and_exit_code_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    run = lev(*arguments, cwd=tmp_path)
    assert run.returncode == 2
    assert run.stdout == ""
    assert message in run.stderr
    assert "Traceback" not in run.stderr


def test_a_missing_installation_is_named(tmp_path: Path) -> None:
    run = lev("run", "--on", "native", "--exec", "true", LEVIATHAN_BIN=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
    assert run.returncode == 125
    assert "error:" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_worker_by_hand_is_lev_node_itself(tmp_path: Path) -> None:
    script = tmp_path / "lev-node"
    script.write_text('#!/bin/sh\necho "$@"\nexit 9\n')
    script.chmod(0o755)
    run = lev("node", "--listen", "127.0.0.1:0", LEVIATHAN_BIN=str(tmp_path))
    assert (run.returncode, run.stdout) == (9, "serve --listen 127.0.0.1:0\n")
    assert lev("node", "probe", LEVIATHAN_BIN=str(tmp_path)).stdout == "probe\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("no"), 2),
        (Interrupted(2, "Ctrl-C"), 130),
        (Interrupted(1, "SIGHUP"), 129),
        (NodeLost("node1"), 123),
        (TimeOver("late"), 124),
        (StartError("no QEMU", hint="install it"), 125),
    ],
)
def test_errors_have_their_exit_codes(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise error

    assert report_errors(fail) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert str(error) in printed.err
    assert ("hint: install it" in printed.err) == (code == 125)


def test_an_error_of_ours_keeps_its_traceback() -> None:
    def broken() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        report_errors(broken)


@pytest.fixture
def in_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "choose", lambda *_: Choice(lab=True, reason="a test"))


def fake_qemu(folder: Path) -> str:
    path = folder / "qemu"
    path.write_text("#!/bin/sh\necho QEMU emulator version 10.0.2\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.usefixtures("in_lab")
def test_a_plan_is_ready_for_a_shell_and_holds_no_secret(tmp_path: Path) -> None:
    machine = Machine(cpus=5, nodes=3, lab={"machines": 3}, qemu=fake_qemu(tmp_path))
    plan = make_plan(machine)
    assert plan["cluster_file"]["contents"]["secret"] == "*" * 64
    assert [node["vcpus"] for node in plan["nodes"]] == [[0, 1], [2, 3], [4]]
    assert [node["host"] for node in plan["nodes"]] == ["lab0", "lab1", "lab2"]
    out = io.StringIO()
    print_plan(machine, out)
    commands = [line for line in out.getvalue().splitlines() if line.startswith(("env ", "/usr/lib"))]
    assert len(commands) == 3
    assert shlex.split(commands[-1])[1 + len(plan["environment"]) :] == plan["qemu"]
    assert "LD_PRELOAD=/usr/lib/leviathan/liblev_facade.so" in commands[-1]
    check = subprocess.run(["sh", "-n"], input=out.getvalue(), text=True, timeout=10)
    assert check.returncode == 0


@pytest.mark.usefixtures("in_lab")
def test_a_plan_of_the_baseline_has_no_cluster(tmp_path: Path) -> None:
    plan = make_plan(Machine(nodes=0, qemu=fake_qemu(tmp_path)))
    assert plan["cluster_file"] is None
    assert plan["environment"] == {}
    assert plan["workers"] == []
    out = io.StringIO()
    print_plan(Machine(nodes=0, qemu=fake_qemu(tmp_path)), out, as_json=True)
    assert json.loads(out.getvalue()) == plan


def test_options_and_settings_make_one_machine(tmp_path: Path) -> None:
    file = tmp_path / "m.toml"
    file.write_text("schema = 1\ncpus = 8\n[pool]\nsize = '32M'\n[lab]\ncpus = 2\n")
    machine = machine_from(
        file, settings=["engine.hold_us=5"], no_pool=True, lab_machines=2, nodes=4, cpus=None, add=None, programs=[]
    )
    assert (machine.cpus, machine.nodes, machine.engine.hold_us) == (8, 4, 5)
    assert (machine.pool.enabled, machine.pool.size) == (False, 32 << 20)
    assert (machine.lab.machines, machine.lab.cpus) == (2, 2)


REPORT: dict[str, Any] = {
    "schema": 1,
    "nodes": [
        {
            "name": "node0",
            "vcpus": [{"id": 0, "exits": {"pio": 20000, "hlt": 7}}, {"id": 1, "exits": {"pio": 5}}],
            "interrupts": {"sent": 12, "received": 13},
            "memory": {"faults_read": 100, "faults_zero": 0, "promotions": 28, "bytes_sent": 4096000},
        },
        {"name": "node1", "vcpus": "garbage", "memory": None},
        "garbage",
    ],
}


def test_the_table_shows_each_node_and_survives_gaps() -> None:
    out = io.StringIO()
    print_table(node_table(REPORT), out)
    print_table(step_table([Step("booting", 1.25)]), out)
    text = out.getvalue()
    for word in ("node0", "0 1", "20,012", "pio 20,005", "12 out  13 in", "read 100", "28", "4,096,000", "node1"):
        assert word in text
    assert "zero 0" not in text
    assert "booting" in text


def test_the_demo_believes_a_whole_success_only(capsys: pytest.CaptureFixture[str]) -> None:
    good = '{"check":"topology","ok":true,"cpus_of":{"node0":2},"share":[0.5]}'
    bad = '{"check":"counters","ok":false,"failures":["lost 3"]}'
    for lines, passed in [
        ([good, '{"result":"pass"}'], True),
        ([good], False),
        ([good, bad, '{"result":"pass"}'], False),
        ([good, '{"result":"fail"}'], False),
        (['{"result":"pass"}'], False),
        (["[]", "nonsense", good, '{"result":"pass"}'], True),
    ]:
        checks = Checks()
        for line in lines:
            checks.line(line)
        assert checks.passed == passed, lines
    assert "lost 3" in describe(json.loads(bad))
    assert "FAIL" in capsys.readouterr().out


def test_bench_compares_medians_with_the_stock_baseline() -> None:
    assert KINDS[0] == BASELINE
    baseline, other = kinds()[0], kinds()[2]
    baseline.seconds = [4.0, 100.0, 5.0]
    other.seconds = [9.0, 10.0, 11.0]
    row = summary(other, baseline)
    assert (row["median"], row["ratio"], row["aim"]) == (10.0, 2.0, 2.0)
    assert (row["min"], row["max"]) == (9.0, 11.0)
    assert summary(Kind("x", "x", {}, failures=["no"]), baseline) == {"rounds": 0, "failures": ["no"]}


def test_the_version_is_there_in_a_blink() -> None:
    best = 10.0
    for _ in range(3):
        began = time.monotonic()
        lev("--version")
        best = min(best, time.monotonic() - began)
    assert best < 3
