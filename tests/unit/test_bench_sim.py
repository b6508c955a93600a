"""`lev bench sim`: what it prints, draws and refuses."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from typer.testing import CliRunner

from leviathan import _native
from leviathan.bench.plot import Line, log_plot
from leviathan.bench.sim import PATTERNS, costs_from
from leviathan.cli.app import app
from leviathan.errors import ConfigError, UsageError

SVG = "{http://www.w3.org/2000/svg}"


def lev(*words: str) -> tuple[int, str, BaseException | None]:
    result = CliRunner().invoke(app, ["bench", "sim", "-q", *words])
    return result.exit_code, result.stdout, result.exception


def test_every_pattern_up_to_a_thousand_nodes(tmp_path: Path) -> None:
    file, picture = tmp_path / "sim.json", tmp_path / "sim.svg"
    code, out, _ = lev("--nodes", "2,1024", "--accesses", "5", "--json", str(file), "--svg", str(picture))
    assert code == 0
    runs = json.loads(file.read_text())["runs"]
    assert set(runs) == set(PATTERNS)
    for pattern, outcomes in runs.items():
        assert pattern in out
        assert [outcome["nodes"] for outcome in outcomes] == [2, 1024]
        assert all(outcome["stale_reads"] == 0 for outcome in outcomes)
        assert outcomes[1]["accesses"] == 5 * 1024
    assert len(ET.parse(picture).getroot().findall(f".//{SVG}polyline")) == 3 * len(PATTERNS)


def test_a_slow_network_makes_faults_slow_and_the_pool_makes_them_rare(tmp_path: Path) -> None:
    def hot(*words: str) -> dict[str, float]:
        file = tmp_path / "hot.json"
        assert lev("--nodes", "8", "--pattern", "hot-counter", "--json", str(file), *words)[0] == 0
        outcome: dict[str, float] = json.loads(file.read_text())["runs"]["hot-counter"][0]
        return outcome

    plain, slow, pool = hot(), hot("--latency-us", "500"), hot("--pool")
    assert slow["p50_us"] > plain["p50_us"] + 500
    assert pool["faults"] < plain["faults"] / 4
    assert hot() == plain


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nodes", "2,x"], "--nodes"),
        (["--nodes", "0"], "--nodes"),
        (["--nodes", "1025"], "--nodes"),
        (["--pattern", "chaos"], "there is no 'chaos'; there are private, "),
        (["--svg", "/nowhere/sim.svg", "--nodes", "2", "--accesses", "1"], "--svg: cannot write /nowhere/sim.svg"),
        (["--measured", "/nowhere/dsm.json"], "--measured: /nowhere/dsm.json: No such file"),
        (["--think-us", "1e10"], "cannot be simulated: times"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], message: str) -> None:
    _, _, error = lev(*words)
    assert isinstance(error, UsageError)
    assert message in error.message


def test_costs_come_from_a_measurement(tmp_path: Path) -> None:
    file = tmp_path / "dsm.json"
    us = {"local_read": 8.0, "local_upgrade": 6.0, "local_copy_out": 1.0, "local_drop": 2.0, "tcp_frame": 14.0}
    figures = [{"name": name, "value": {"median": value}} for name, value in us.items()]
    file.write_text(json.dumps({"figures": figures}))
    costs = costs_from(file)
    assert costs["latency_ns"] + costs["send_ns"] == 7000
    assert (costs["fault_ns"] + costs["install_ns"], costs["drop_ns"]) == (8000, 2000)
    scenario = {"nodes": 2, "pattern": "private", "accesses": 1, "costs": costs}
    assert json.loads(_native.simulate(json.dumps(scenario)))["faults"] == 2
    file.write_text(json.dumps({"figures": figures[1:]}))
    with pytest.raises(ConfigError, match="no figure local_read"):
        costs_from(file)
    file.write_text("[]")
    with pytest.raises(ConfigError, match="not a file of"):
        costs_from(file)


def test_a_plot_leaves_out_what_has_no_place() -> None:
    picture = log_plot([("a < b", [Line("none", [(1, 0)]), Line("one", [(1, 5), (10, 50)])])], x_title="x")
    root = ET.fromstring(picture)
    assert len(root.findall(f".//{SVG}polyline")) == 1
    assert "a < b" in [text.text for text in root.iter(f"{SVG}text")]
    assert "no data" in log_plot([("empty", [])], x_title="x")
