"""How parts of a topology are said, in the tree as in the picture."""

from __future__ import annotations

from leviathan.cxl.topology import Dax, Decoder, Memdev, Namespace, Node, Region, Topology, Window
from leviathan.model.sizes import format_size

__all__ = [
    "bridges_of",
    "dax_words",
    "decoders_words",
    "memory_words",
    "namespace_words",
    "node_words",
    "region_words",
    "window_words",
]


def size(count: int) -> str:
    """Bytes as people say them; whole MiB stay exact."""
    if count >= 1 << 30 and count % (1 << 30) == 0:
        return f"{count >> 30} GiB"
    if count % (1 << 20) == 0:
        return f"{count >> 20} MiB"
    return f"{count / (1 << 20):.1f} MiB" if count >= 1 << 20 else format_size(count)


def interleave(ways: int, granularity: int) -> str:
    """``2-way every 256`` for an interleave set."""
    return f"{ways}-way every {granularity} bytes" if ways > 1 else ""


def bridges_of(topology: Topology, window: Window) -> list[str]:
    """Names of a window's targets, in its order."""
    labels = {bridge.host: bridge.label for bridge in topology.bridges}
    return [labels.get(target, target) for target in window.targets]


def window_words(topology: Topology, window: Window) -> list[str]:
    """What a window is."""
    kinds = " and ".join(kind for kind, can in (("pmem", window.pmem), ("ram", window.ram)) if can) or "nothing"
    return [
        size(window.size),
        f"at {window.resource:#x}",
        f"to {', '.join(bridges_of(topology, window))}",
        *([interleave(len(window.targets), window.granularity)] if len(window.targets) > 1 else []),
        f"takes {kinds}",
        f"{size(window.free)} free",
    ]


def memory_words(memdev: Memdev) -> list[str]:
    """What a memory device is."""
    words = [memdev.name, f"serial {memdev.serial:#x}"]
    words += [f"pmem {size(memdev.pmem)}"] if memdev.pmem else []
    words += [f"ram {size(memdev.ram)}"] if memdev.ram else []
    if not memdev.enabled:
        words.append("no path to a host bridge")
    if memdev.media_errors:
        words.append(f"{len(memdev.media_errors)} poisoned")
    return words


def decoders_words(decoders: tuple[Decoder, ...]) -> str:
    """``1 of 4 decoders committed``."""
    committed = sum(decoder.committed for decoder in decoders)
    return f"{committed} of {len(decoders)} decoders committed" if decoders else "passes through, no decoders"


def region_words(region: Region) -> list[str]:
    """What a region is, its state first."""
    words = ["committed" if region.committed else "NOT committed", region.kind, size(region.size)]
    words += [interleave(region.ways, region.granularity)] if region.ways > 1 else []
    words += [f"at {region.resource:#x}"] if region.resource else []
    return words if region.enabled else [*words, "disabled"]


def namespace_words(namespace: Namespace) -> list[str]:
    """What a namespace is."""
    words = [namespace.mode, size(namespace.size)]
    words += [f"/dev/{namespace.device}"] if namespace.device else []
    words += [f"mounted on {namespace.mount}"] if namespace.mount else []
    return words if namespace.enabled else [*words, "disabled"]


def dax_words(dax: Dax) -> list[str]:
    """What a DAX device is used as."""
    words = [dax.mode, size(dax.size)]
    if dax.mode == "system-ram":
        words.append(f"{dax.online} of {dax.blocks} blocks online")
    if dax.node is not None:
        words.append(f"NUMA node {dax.node}")
    return words


def node_words(node: Node) -> list[str]:
    """What a NUMA node has."""
    return [size(node.size), f"CPUs {node.cpus}" if node.cpus else "no CPUs"]
