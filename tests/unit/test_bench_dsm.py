"""`lev bench dsm`: its arithmetic, and one short round with real processes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from leviathan.bench.figures import Figure, Spread, percentile
from leviathan.bench.nodes import BenchNode, Team
from leviathan.cli.app import app
from leviathan.errors import LeviathanError
from leviathan.launch.programs import bin_dir

processes = pytest.mark.skipif(
    not (bin_dir() / "lev-bench").exists() or (os.geteuid() != 0 and not os.access("/dev/userfaultfd", os.W_OK)),
    reason="needs lev-bench (make build) and the right to use userfaultfd",
)


def test_percentiles_are_samples() -> None:
    samples = list(range(100, 0, -1))
    assert (percentile(samples, 0), percentile(samples, 50), percentile(samples, 99)) == (1, 51, 100)
    assert percentile([7], 99) == 7
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 50)


def test_ratios_are_taken_round_by_round() -> None:
    figure = Figure("f", "title", aim=1.5)
    figure.add_times([2000] * 10, floor=1.0)
    figure.add_times([60_000] * 10, floor=50.0)  # a busy machine slows both
    figure.add_times([1000] * 10, floor=1.0)
    assert figure.ratio == Spread(1.2, 1.0, 2.0)
    assert figure.met
    assert figure.as_json()["value"] == {"median": 2.0, "min": 1.0, "max": 60.0}


def test_more_is_better_for_rates() -> None:
    figure = Figure("f", "title", unit="MB/s", aim=0.8)
    figure.add_rate(700, floor=1000)
    assert figure.met is False
    assert Figure("f", "title").ratio is None


@processes
def test_one_round_measures_everything(tmp_path: Path) -> None:
    file = tmp_path / "dsm.json"
    result = CliRunner().invoke(app, ["bench", "dsm", "--rounds", "1", "--pages", "50", "--json", str(file), "-q"])
    assert result.exit_code == 0, result.output
    table = json.loads(file.read_text())
    figures = {figure["name"]: figure for figure in table["figures"]}
    assert {"read", "write", "upgrade_1", "upgrade_15", "duel", "turns", "sequential", "zero_away", "tcp_page"} <= set(
        figures
    )
    assert all(figure["value"]["min"] > 0 for figure in figures.values())
    for name in ("read", "upgrade_1", "read_home", "write"):
        assert figures[name]["notes"]["faults_per_page"]["min"] >= 1, f"{name}: not every sample is a remote fault"
    assert "read fault" in result.stdout


@processes
def test_a_node_says_what_is_wrong_and_goes_on() -> None:
    with BenchNode("one") as node:
        for command, words in (
            ({"do": "fly"}, "not understood"),
            ({"do": "barrier"}, "not in a region"),
            ({"do": "leave"}, "not in a region"),
            ({"do": "local", "pages": -1}, "not understood"),
        ):
            with pytest.raises(LeviathanError, match=words):
                node.ask(**command)
        assert "address" in node.ask("serve")


@processes
def test_a_team_shares_memory_and_leaves() -> None:
    with Team(3, [(10, 0), (10, 2)]) as team:
        team[0].ask("touch", first=0, pages=20, access="write")
        assert len(team[1].ask("touch", first=0, pages=20, access="read", random=True)["ns"]) == 20
        assert team[1].ask("counters")["counters"]["faults_read"] > 0
        with pytest.raises(LeviathanError, match=r"pages 19 \+ 2 of 20"):
            team[1].ask("touch", first=19, pages=2, access="read")
