"""The topology as a tree of text, from bridge to memory device and from window to what its regions became."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from leviathan.cxl import words
from leviathan.cxl.topology import Memdev, Port, Region, Topology

__all__ = ["tree"]


@dataclass(slots=True)
class _Line:
    text: str
    below: list[_Line] = field(default_factory=list)


def tree(topology: Topology, title: str) -> str:
    """Lines with a line break behind each."""
    roots = [*_hardware(topology), *_memory(topology)]
    if topology.nodes:
        nodes = [_Line(_join(f"node {node.number}", words.node_words(node))) for node in topology.nodes]
        roots.append(_Line("NUMA nodes", nodes))
    if not topology.bridges and not topology.loose:
        roots.append(_Line("the guest sees no CXL"))
    return "".join(f"{line}\n" for line in [title, *_draw(roots)])


def _hardware(topology: Topology) -> list[_Line]:
    lines = [_port(bridge, topology, "host bridge") for bridge in topology.bridges]
    if topology.loose:
        lines.append(_Line("without a host bridge", [_memdev(each, topology) for each in topology.loose]))
    return lines


def _port(port: Port, topology: Topology, kind: str) -> _Line:
    line = _Line(_join(f"{kind} {port.label}", [port.name, port.host, words.decoders_words(port.decoders)]))
    slot_kind = "root port" if port.kind == "bridge" else "port"
    for slot in port.slots:
        name = f"{slot_kind} {slot.id or slot.number}"
        if slot.child is None:
            line.below.append(_Line(f"{name}: empty"))
        elif isinstance(slot.child, Memdev):
            line.below.append(_Line(name, [_memdev(slot.child, topology)]))
        else:
            line.below.append(_Line(name, [_port(slot.child, topology, "switch")]))
    return line


def _memdev(memdev: Memdev, topology: Topology) -> _Line:
    line = _Line(_join(memdev.label, words.memory_words(memdev)))
    for region in topology.region_of(memdev):
        position = f", position {region.members.index(memdev.name)} of {region.ways}" if region.ways > 1 else ""
        state = "committed" if region.committed else "NOT committed"
        line.below.append(_Line(f"in {region.name}{position}: {state}"))
    return line


def _memory(topology: Topology) -> Iterator[_Line]:
    for window in topology.windows:
        line = _Line(_join(f"window {window.decoder}", words.window_words(topology, window)))
        line.below = [_region(region, topology) for region in topology.regions if region.decoder == window.decoder]
        yield line


def _region(region: Region, topology: Topology) -> _Line:
    line = _Line(_join(region.name, words.region_words(region)))
    labels = [memdev.label if (memdev := topology.memdev(name)) else name for name in region.members]
    line.below.append(_Line(f"over {', '.join(labels)}"))
    line.below += [_Line(_join(each.name, words.namespace_words(each))) for each in region.namespaces]
    line.below += [_Line(_join(each.name, words.dax_words(each))) for each in region.daxes]
    if region.kind == "pmem" and not region.namespaces:
        line.below.append(_Line("no namespace"))
    return line


def _join(name: str, rest: Sequence[str]) -> str:
    return f"{name}: {', '.join(word for word in rest if word)}"


def _draw(lines: Sequence[_Line], indent: str = "") -> Iterator[str]:
    for line in lines:
        last = line is lines[-1]
        yield f"{indent}{'└─' if last else '├─'} {line.text}"
        yield from _draw(line.below, indent + ("   " if last else "│  "))
