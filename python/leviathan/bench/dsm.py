"""What coherence costs on this machine: the engine between real processes over loopback TCP, next to its floor.

The floor of a remote fault is what cannot be avoided with userfaultfd and TCP: resolving the fault here, taking the
page away there, one round trip of the same bytes; each is measured by itself in the same round. No machine is booted.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from leviathan import __version__
from leviathan.bench.figures import Figure, figure_table, load, machine_facts, percentile
from leviathan.bench.files import write_json
from leviathan.bench.nodes import PAGE, BenchNode, Team
from leviathan.cli.tables import print_table
from leviathan.vm.progress import Progress

__all__ = ["Bench", "bench"]

SCHEMA = 1
FRAME = 16
"""Bytes of a frame without contents."""
SHARERS = (1, 3, 7, 15)
THREADS = (1, 2, 4, 8)
STRIPES = (1, 4)
DUEL_MS = 300
TURNS = 400
THREAD_PAGES = 4096
"""Enough that the memory of a region is striped over all contexts."""


class Floor:
    """What the machine can do at best, in one round; microseconds unless said."""

    def __init__(self, samples: int) -> None:
        with BenchNode("floor0") as server, BenchNode("floor1") as client:
            address = server.ask("serve")["address"]
            kinds = client.ask("local", pages=samples)["kinds"]
            self.samples: dict[str, list[int]] = {f"local_{name}": ns for name, ns in kinds.items()}
            for name, answer in (("tcp_page", FRAME + PAGE), ("tcp_frame", FRAME)):
                self.samples[name] = client.ask("ask", addresses=[address], rounds=samples, answer=answer)["ns"]
            acknowledged = client.ask("ask", addresses=[address], rounds=samples, answer=FRAME + PAGE, acknowledge=True)
            self.samples["tcp_page_ack"] = acknowledged["ns"]
            count = max(2000, samples)
            total = client.ask("stream", address=address, count=count, answer=FRAME + PAGE)["total_ns"]
            self.stream_mb = count * PAGE * 1000 / total
        self.fan: dict[int, float] = {1: 0.0}

    def __getitem__(self, name: str) -> float:
        return percentile(self.samples[name], 50) / 1000

    def measure_fan(self, counts: Sequence[int], samples: int) -> None:
        """A request to so many processes at once, answered by all."""
        servers = [BenchNode(f"floor{number}") for number in range(max(counts, default=0))]
        try:
            addresses = [server.ask("serve")["address"] for server in servers]
            with BenchNode("client") as client:
                for count in counts:
                    ns = client.ask("ask", addresses=addresses[:count], rounds=samples, answer=FRAME)["ns"]
                    self.samples[f"tcp_fan_{count}"] = ns
        finally:
            for server in servers:
                server.end()

    def upgrade(self, sharers: int) -> float:
        """Floor of an upgrade that takes so many copies away, the home's among them."""
        fan = self[f"tcp_fan_{sharers - 1}"] if sharers > 1 else 0.0
        return self["tcp_frame"] + fan + self["local_drop"] + self["local_upgrade"]


FLOORS = {
    "local_read": "floor: local fault, read of a missing page (copy in, protected)",
    "local_write": "floor: local fault, write to a missing page (copy in)",
    "local_upgrade": "floor: local fault, write to a protected page",
    "local_zero": "floor: local fault, zero page",
    "local_copy_out": "floor: page copied for a reader (protect, copy)",
    "local_take": "floor: page taken away (protect, copy, drop)",
    "local_drop": "floor: copy dropped",
    "tcp_page": "floor: TCP, 16 bytes there, 4112 back",
    "tcp_page_ack": "floor: the same, then 16 bytes that nobody waits for",
    "tcp_frame": "floor: TCP, 16 bytes there, 16 back",
}


class Bench:
    """Collects the figures over all rounds."""

    def __init__(self, pages: int, transport: str = "tcp") -> None:
        self.pages = pages
        self.transport = transport
        self.figures: dict[str, Figure] = {}

    def team(self, count: int, pages: Sequence[tuple[int, int]], engine: Mapping[str, int] | None = None) -> Team:
        """Nodes with one region over the transport that is measured."""
        return Team(count, pages, engine, transport=self.transport)

    def figure(self, name: str, title: str, **more: Any) -> Figure:
        """The figure of this name; made when it is first asked for."""
        if name not in self.figures:
            self.figures[name] = Figure(name, title, **more)
        return self.figures[name]

    def round(self, progress: Progress, label: str) -> None:
        """Measures everything once, the floor first."""
        parts: list[tuple[str, Callable[[Floor], None]]] = [
            ("faults of one page", self.faults),
            ("streams and untouched pages", self.streams),
            ("many sharers", self.sharers),
            ("threads", self.threads),
        ]
        with progress.step(f"{label}: floor"):
            floor = Floor(self.pages)
            floor.measure_fan([count - 1 for count in SHARERS if count > 1], max(self.pages // 4, 50))
        for name, title in FLOORS.items():
            self.figure(name, title).add_times(floor.samples[name])
        for title, part in parts:
            with progress.step(f"{label}: {title}"):
                part(floor)

    def faults(self, floor: Floor) -> None:
        """Faults of one page at a time between two nodes; all pages are at home on node 0, which has written them."""
        whole: dict[str, Any] = {"first": 0, "pages": self.pages}
        read = floor["local_read"] + floor["local_copy_out"] + floor["tcp_page"]
        write = floor["local_write"] + floor["local_take"] + floor["tcp_page"]
        with self.team(2, [(self.pages + 2, 0)], {"read_ahead": 0, "prefetch": 0}) as team:
            home, other = team[0], team[1]
            home.ask("touch", **whole, access="write")
            figure = self.figure("read", "read fault", floor_of="local_read + local_copy_out + tcp_page", aim=1.15)
            self.faults_of(other, "read", figure, read)
            figure = self.figure("upgrade_1", "upgrade, 1 sharer", floor_of="tcp_frame + local_drop + local_upgrade")
            self.faults_of(other, "upgrade", figure, floor.upgrade(1))
            self.faults_of(home, "read", self.figure("read_home", "read fault of the home", floor_of="as read"), read)
            home.ask("touch", **whole, access="write")
            figure = self.figure("write", "write fault", floor_of="local_write + local_take + tcp_page")
            self.faults_of(other, "write", figure, write)
            self.duel(team, write)
        self.migratory(write)

    def faults_of(self, node: BenchNode, kind: str, figure: Figure, floor: float) -> None:
        """Times one access to each page, and notes how many faults of this kind the engine counted for a page: 1."""
        before = node.ask("counters")["counters"]
        access = "read" if kind == "read" else "write"
        figure.add_times(node.ask("touch", first=0, pages=self.pages, access=access)["ns"], floor)
        after = node.ask("counters")["counters"]
        figure.note("faults_per_page", (after[f"faults_{kind}"] - before[f"faults_{kind}"]) / self.pages)

    def migratory(self, floor: float) -> None:
        """Pages that one node reads and writes after the other, without and with the engine's eye for that."""
        whole: dict[str, Any] = {"first": 0, "pages": self.pages, "access": "read-write"}
        for switch in (False, True):
            with self.team(2, [(self.pages, 0)], {"read_ahead": 0, "prefetch": 0, "migratory": switch}) as team:
                for number in (0, 1, 0):
                    team[number].ask("touch", **whole)
                ns = team[1].ask("touch", **whole)["ns"]
            name, more = ("migratory", "") if switch else ("migratory_off", ", engine.migratory off")
            title = f"migratory page: read, then written{more}"
            self.figure(name, title, floor_of="one write fault").add_times(ns, floor)

    def duel(self, team: Team, floor: float) -> None:
        """Two writers that both want the same page, without and with taking turns."""
        page = self.pages
        one, other = team.all("duel", page=page, ms=DUEL_MS)
        figure = self.figure("duel", "duel of two writers: time without the page", floor_of="one write fault")
        figure.add_times([*one["ns"], *other["ns"]], floor)
        additions = sorted((one["additions"], other["additions"]))
        figure.note("additions_per_ms", sum(additions) / DUEL_MS)
        figure.note("loser_share", additions[0] / max(sum(additions), 1))
        turns = min(TURNS, self.pages)
        for parity, node in enumerate(team.nodes):
            node.tell("turns", page=page + 1, turns=turns, parity=parity)
        total = max(node.answer()["total_ns"] for node in team.nodes)
        figure = self.figure("turns", "taking turns in one word, a turn", floor_of="one write fault")
        figure.add_rate(total / turns / 1000, floor)

    def streams(self, floor: Floor) -> None:
        """Many pages in a row, with read-ahead, and pages that nobody has touched."""
        pages = max(self.pages, 1024)
        with self.team(2, [(5 * pages, 0)]) as team:
            team[0].ask("touch", first=0, pages=2 * pages, access="write")
            for name, title, first, shuffled in (
                ("sequential", "sequential stream", 0, False),
                ("random", "random stream", pages, True),
            ):
                ns = team[1].ask("touch", first=first, pages=pages, access="read", random=shuffled)["ns"]
                aim = None if shuffled else 0.8
                figure = self.figure(name, title, unit="MB/s", floor_of="raw TCP stream", aim=aim)
                figure.add_rate(pages * PAGE * 1000 / sum(ns), floor.stream_mb)
            zero = floor["local_zero"]
            ns = team[0].ask("touch", first=2 * pages, pages=pages, access="write")["ns"]
            figure = self.figure("zero_home", "untouched page of this home, on average", floor_of="local_zero")
            figure.add_rate(sum(ns) / len(ns) / 1000, zero)
            before = team[1].ask("counters")["counters"]
            ns = team[1].ask("touch", first=3 * pages, pages=pages, access="write")["ns"]
            after = team[1].ask("counters")["counters"]
            figure = self.figure("zero_away", "untouched page of another home, on average", floor_of="local_zero")
            figure.add_rate(sum(ns) / len(ns) / 1000, zero)
            figure.note("frames_per_page", (after["frames_sent"] - before["frames_sent"]) / pages)

    def sharers(self, floor: Floor) -> None:
        """Upgrades of a page that so many other nodes can read."""
        pages = max(self.pages // 8, 50)
        with self.team(max(SHARERS) + 1, [(pages * len(SHARERS), 0)], {"read_ahead": 0, "prefetch": 0}) as team:
            for step, sharers in enumerate(SHARERS):
                part: dict[str, Any] = {"first": step * pages, "pages": pages}
                team[0].ask("touch", **part, access="write")
                team.all("touch", only=range(1, sharers + 1), **part, access="read")
                ns = team[1].ask("touch", **part, access="write")["ns"]
                if sharers == 1:  # the same as upgrade_1, but beside 14 idle processes: the base of the others
                    base = percentile(ns, 50) / 1000
                    continue
                figure = self.figure(
                    f"upgrade_{sharers}",
                    f"upgrade, {sharers} sharers",
                    floor_of=f"tcp_frame + request to {sharers - 1} processes + local_drop + local_upgrade",
                )
                figure.add_times(ns, floor.upgrade(sharers))
            figure = self.figure(
                f"upgrade_{sharers}_to_1",
                f"upgrade, {sharers} sharers against 1",
                floor_of="upgrade with 1 sharer in the same cluster",
                aim=2.0,
            )
            figure.add_times(ns, base)

    def threads(self, _: Floor) -> None:
        """Faults a second of several threads of one node, with one userfaultfd context and with several."""
        pages = THREAD_PAGES if self.pages > THREAD_PAGES // 8 else THREAD_PAGES // 8
        for stripes in STRIPES:
            with self.team(
                2, [(pages * len(THREADS), 0)], {"read_ahead": 0, "prefetch": 0, "stripes": stripes}
            ) as team:
                team[0].ask("touch", first=0, pages=pages * len(THREADS), access="write")
                for step, threads in enumerate(THREADS):
                    touch = {"first": step * pages, "pages": pages, "access": "read", "random": True}
                    total = team[1].ask("threads", threads=threads, touch=touch)["total_ns"]
                    figure = self.figure(
                        f"threads_{threads}_stripes_{stripes}",
                        f"{threads} threads, {stripes} context{'s' if stripes > 1 else ''}",
                        unit="faults/s",
                        floor_of="one thread",
                    )
                    rate = pages * 1e9 / total
                    if threads == 1:
                        single = rate
                    figure.add_rate(rate, single)


def bench(rounds: int, pages: int, json_file: Path | None, *, transport: str = "tcp", quiet: bool) -> int:
    """Runs all rounds, prints the table, writes the file; 0."""
    progress = Progress() if quiet else Progress.on_stderr()
    measured = Bench(pages, transport)
    load_before = load()
    for number in range(1, rounds + 1):
        measured.round(progress, f"round {number} of {rounds}")
    figures = list(measured.figures.values())
    print_table(figure_table(f"memory between two processes over {transport.upper()}", figures), sys.stdout)
    if json_file is not None:
        table = {
            "schema": SCHEMA,
            "leviathan": __version__,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": machine_facts(),
            "load": {"before": load_before, "after": load()},
            "rounds": rounds,
            "pages": pages,
            "transport": transport,
            "figures": [figure.as_json() for figure in figures],
        }
        write_json(json_file, table)
    return 0
