"""The topology as a graph in columns: window, bridge, port, memory device, region, namespace or DAX device, use."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from leviathan.cxl import words
from leviathan.cxl.topology import Dax, Memdev, Port, Region, Topology

__all__ = ["Box", "Column", "Edge", "Graph", "make_graph"]

State = Literal["plain", "committed", "idle", "error"]
Column = tuple[int, int, str]
"""Order, order within that (levels of switches), heading."""
WINDOW: Column = (0, 0, "window")
BRIDGE: Column = (1, 0, "host bridge")
DEVICE: Column = (3, 0, "memory device")
REGION: Column = (4, 0, "region")
SPACE: Column = (5, 0, "namespace, DAX")
USE: Column = (6, 0, "used as")


def _level(level: int) -> tuple[Column, Column]:
    """Columns of a bridge or switch and of its ports; bridges are level 0."""
    if level == 0:
        return BRIDGE, (2, 0, "root port")
    return (2, 2 * level - 1, "switch"), (2, 2 * level, "switch port")


@dataclass(frozen=True, slots=True)
class Box:
    """One box of the picture."""

    key: str
    column: Column
    title: str
    lines: tuple[str, ...]
    state: State


@dataclass(frozen=True, slots=True)
class Edge:
    """A line between two boxes; ``committed``: decoders on the way are, so data flow."""

    start: str
    end: str
    committed: bool


@dataclass(slots=True)
class Graph:
    """Boxes in the order in which they are stacked, and edges."""

    boxes: dict[str, Box] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)

    def box(self, key: str, column: Column, title: str, lines: list[str], state: State) -> str:
        """Adds a box, once."""
        self.boxes.setdefault(key, Box(key, column, title, tuple(line for line in lines if line), state))
        return key

    def edge(self, start: str, end: str, *, committed: bool) -> None:
        """Adds an edge, once; committed if any of its kind is."""
        for index, edge in enumerate(self.edges):
            if (edge.start, edge.end) == (start, end):
                self.edges[index] = Edge(start, end, edge.committed or committed)
                return
        self.edges.append(Edge(start, end, committed))


def make_graph(topology: Topology) -> Graph:
    """The whole picture."""
    graph = Graph()
    for window in topology.windows:
        used = any(region.committed for region in topology.regions if region.decoder == window.decoder)
        parts = words.window_words(topology, window)
        lines = [f"{parts[0]} {parts[1]}", *parts[3:-2], parts[-2], parts[-1]]
        key = graph.box(f"window:{window.decoder}", WINDOW, window.decoder, lines, "committed" if used else "idle")
        for bridge in topology.bridges:
            if bridge.host in window.targets:
                mine = {memdev.name for memdev in bridge.memdevs()}
                live = any(
                    region.committed and region.decoder == window.decoder and mine & set(region.members)
                    for region in topology.regions
                )
                graph.edge(key, f"port:{bridge.host}", committed=live)
    for bridge in topology.bridges:
        _port(graph, topology, bridge, 0)
    for memdev in topology.loose:
        _memdev(graph, topology, memdev)
    for region in topology.regions:
        _region(graph, topology, region)
    return graph


def _port(graph: Graph, topology: Topology, port: Port, level: int) -> str:
    column, slots = _level(level)
    live = any(decoder.committed for decoder in port.decoders) or _live(topology, port)
    lines = [port.host, words.decoders_words(port.decoders)]
    key = graph.box(f"port:{port.host}", column, port.label, lines, "committed" if live else "idle")
    for slot in port.slots:
        title = slot.id or f"{'root port' if port.kind == 'bridge' else 'port'} {slot.number}"
        child = slot.child
        slot_live = child is not None and _live(topology, child)
        lines = [slot.name] if child is not None else ["empty"]
        slot_key = graph.box(
            f"slot:{port.host}:{slot.number}", slots, title, lines, "committed" if slot_live else "idle"
        )
        graph.edge(key, slot_key, committed=slot_live)
        if isinstance(child, Memdev):
            graph.edge(slot_key, _memdev(graph, topology, child), committed=slot_live)
        elif child is not None:
            graph.edge(slot_key, _port(graph, topology, child, level + 1), committed=slot_live)
    return key


def _live(topology: Topology, what: Port | Memdev) -> bool:
    """Some region below is committed."""
    below = [what] if isinstance(what, Memdev) else list(what.memdevs())
    return any(region.committed for memdev in below for region in topology.region_of(memdev))


def _memdev(graph: Graph, topology: Topology, memdev: Memdev) -> str:
    state: State = "committed" if _live(topology, memdev) else "idle"
    if memdev.media_errors or not memdev.enabled:
        state = "error"
    return graph.box(f"mem:{memdev.name}", DEVICE, memdev.label, words.memory_words(memdev), state)


def _region(graph: Graph, topology: Topology, region: Region) -> None:
    state: State = "committed" if region.committed else "idle"
    key = graph.box(f"region:{region.name}", REGION, region.name, words.region_words(region), state)
    for member in region.members:
        graph.edge(f"mem:{member}", key, committed=region.committed)
    for namespace in region.namespaces:
        lines = words.namespace_words(namespace)
        space = graph.box(f"space:{namespace.name}", SPACE, namespace.name, lines[:3], "committed")
        graph.edge(key, space, committed=region.committed)
        if namespace.mount:
            use = graph.box(f"mount:{namespace.mount}", USE, namespace.mount, ["file system"], "committed")
            graph.edge(space, use, committed=True)
    for dax in region.daxes:
        _dax(graph, topology, region, key, dax)


def _dax(graph: Graph, topology: Topology, region: Region, key: str, dax: Dax) -> None:
    ram = dax.mode == "system-ram"
    live = dax.online > 0 if ram else True
    lines = words.dax_words(dax)
    space = graph.box(f"space:{dax.name}", SPACE, dax.name, lines, "committed" if live else "idle")
    graph.edge(key, space, committed=region.committed)
    if ram and dax.node is not None:
        node = next((node for node in topology.nodes if node.number == dax.node), None)
        lines = words.node_words(node) if node else ["not there yet"]
        title = f"NUMA node {dax.node}"
        use = graph.box(f"node:{dax.node}", USE, title, lines, "committed" if live else "idle")
        graph.edge(space, use, committed=live)
