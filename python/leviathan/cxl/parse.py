"""Reading what the guest's tools print: ``cxl list``, ``ndctl list``, and the kernel's own files.

The tools print what they find and leave out what they do not: nothing here is taken for granted but the shape of JSON.
A guest is a border of trust: what is no list, table or number where one is expected is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from leviathan.cxl.topology import Dax, Decoder, Memdev, Namespace, Node, Port, Region, Slot, Topology, Window
from leviathan.errors import LeviathanError

__all__ = ["GuestToolError", "Names", "parse_topology", "read_json"]

Table = Mapping[str, Any]


class GuestToolError(LeviathanError):
    """A tool in the guest failed, or printed what cannot be understood."""


class Names:
    """QEMU's names of what the guest sees, as far as its monitor tells them."""

    def __init__(
        self,
        memories: Mapping[int, str] | None = None,
        bridges: Mapping[int, str] | None = None,
        ports: Mapping[tuple[str, int], str] | None = None,
        switches: Mapping[str, str] | None = None,
    ) -> None:
        self.memories = memories or {}
        """By serial number."""
        self.bridges = bridges or {}
        """By PCI bus number."""
        self.ports = ports or {}
        """By the name of the bridge or switch, and the port number."""
        self.switches = switches or {}
        """By the name of the port that they are plugged into."""


def read_json(text: str, what: str) -> list[Any]:
    """The list that a tool printed; an empty output is an empty list. Raises ``GuestToolError``."""
    # The tools may complain before they print; what they print begins a line.
    match = re.search(r"^[\[{]", text, re.MULTILINE)
    if match is None:
        return []
    try:
        value, _ = json.JSONDecoder().raw_decode(text, match.start())
    except ValueError as error:
        raise GuestToolError(f"`{what}` printed no JSON in the guest: {error}: {text[:200].strip()}") from error
    return value if isinstance(value, list) else [value]


def parse_topology(
    cxl: str,
    ndctl: str = "",
    mounts: str = "",
    nodes: str = "",
    names: Names | None = None,
    *,
    poison: str = "",
    paths: str = "",
) -> Topology:
    """The topology from the outputs of ``cxl list -BDEMPRTX -i``, ``ndctl list -BNRD -i``, ``/proc/mounts`` and others.

    ``nodes`` holds lines ``NUMBER KIB CPUS``, ``poison`` the kernel's trace of the poison lists, ``paths`` the devices'
    places in sysfs (Linux before 6.3 does not say by which port a device is reached). Raises ``GuestToolError``.
    """
    reader = _Reader(names or Names(), _namespaces(ndctl, mounts), _poison(poison), _parents(paths))
    for item in read_json(cxl, "cxl list"):
        reader.take(_table(item))
    return Topology(
        windows=tuple(sorted(reader.windows, key=lambda window: window.decoder)),
        bridges=tuple(sorted(reader.bridges, key=lambda bridge: _bus(bridge.host))),
        regions=tuple(sorted(reader.regions, key=lambda region: region.name)),
        loose=tuple(reader.loose),
        nodes=tuple(_nodes(nodes)),
    )


class _Reader:
    def __init__(
        self,
        names: Names,
        namespaces: Mapping[str, tuple[Namespace, ...]],
        poison: Mapping[str, tuple[tuple[int, int, str], ...]],
        parents: Mapping[str, str],
    ) -> None:
        self._names = names
        self._poison = poison
        self._parents = parents
        self._hosts: dict[str, str] = {}
        self._namespaces = namespaces
        self.windows: list[Window] = []
        self.bridges: list[Port] = []
        self.regions: list[Region] = []
        self.loose: list[Memdev] = []

    def take(self, item: Table) -> None:
        """A bus, or a group of some: the tool prints groups when there is more than one kind of things."""
        if "bus" in item:
            for dport in _tables(item.get("dports")):
                pair = (_text(dport, "dport"), _text(dport, "alias"))
                self._hosts |= {name: next((each for each in pair if _bus(each) >= 0), name) for name in pair if name}
            for window in _children(item, "decoders"):
                self._window(window)
            for port in _children(item, "ports"):
                self.bridges.append(self._port(port, "bridge", self._names.bridges.get(_bus(self._host(port)))))
            # On a bus without bridges devices hang below the root itself.
            self.loose += [self._memdev(endpoint) for endpoint in _children(item, "endpoints")]
        elif "memdev" in item:
            self.loose.append(self._memdev({"memdev": item, "loose": True}))
        else:
            for value in item.values():
                for each in _tables(value):
                    self.take(each)

    def _host(self, item: Table, name: str = "host") -> str:
        """A bridge's host by its PCI name, which Linux before 6.3 gives as an alias."""
        host = _text(item, name)
        return self._hosts.get(host, host)

    def _parent(self, item: Table, host: str) -> str:
        """The downstream port that something hangs on."""
        return _text(item, "parent_dport") or self._parents.get(host, "")

    def _window(self, item: Table) -> None:
        decoder = _text(item, "decoder")
        targets = sorted(_tables(item.get("targets")), key=lambda target: _number(target, "position"))
        self.windows.append(
            Window(
                decoder=decoder,
                resource=_number(item, "resource"),
                size=_number(item, "size"),
                targets=tuple(self._host(target, "target") for target in targets),
                granularity=_number(item, "interleave_granularity") or 256,
                pmem=item.get("pmem_capable") is True,
                ram=item.get("volatile_capable") is True,
                free=_number(item, "max_available_extent"),
            )
        )
        self.regions += [self._region(region, decoder) for region in _children(item, "regions")]

    def _region(self, item: Table, decoder: str) -> Region:
        name = _text(item, "region")
        mappings = sorted(_tables(item.get("mappings")), key=lambda mapping: _number(mapping, "position"))
        return Region(
            name=name,
            # Linux before 6.3 has no other kind, and does not say so.
            kind=_text(item, "type") or "pmem",
            size=_number(item, "size"),
            ways=_number(item, "interleave_ways") or 1,
            granularity=_number(item, "interleave_granularity"),
            committed=item.get("decode_state") == "commit",
            decoder=decoder,
            resource=_number(item, "resource") or None,
            members=tuple(_text(mapping, "memdev") for mapping in mappings),
            daxes=tuple(_dax(device) for device in _tables(_table(item.get("daxregion")).get("devices"))),
            namespaces=self._namespaces.get(name, ()),
            enabled=item.get("state") != "disabled",
        )

    def _port(self, item: Table, kind: Any, own: str | None) -> Port:
        below: dict[str, Port | Memdev] = {}
        dports = sorted(_tables(item.get("dports")), key=lambda dport: _number(dport, "id"))
        ids = {
            _text(dport, "dport"): self._names.ports.get((own, _number(dport, "id"))) if own else None
            for dport in dports
        }
        for port in _children(item, "ports"):
            parent = self._parent(port, _text(port, "host"))
            below[parent] = self._port(port, "switch", self._names.switches.get(ids.get(parent) or ""))
        for endpoint in _children(item, "endpoints"):
            memdev = self._memdev(endpoint)
            # Two whose ports are not known must not hide each other.
            below[self._parent(endpoint, memdev.host) or memdev.name] = memdev
        slots = [
            Slot(name, _number(dport, "id"), below.pop(name, None), ids.get(name))
            for dport in dports
            if (name := _text(dport, "dport"))
        ]
        # Newer kernels do not list ports that are empty; QEMU knows of them.
        numbers = {slot.number for slot in slots}
        empty = {number: slot for (parent, number), slot in self._names.ports.items() if parent == own}
        slots += [Slot("", number, None, slot) for number, slot in empty.items() if number not in numbers]
        slots.sort(key=lambda slot: slot.number)
        self.loose += [child for child in below.values() if isinstance(child, Memdev)]
        return Port(
            name=_text(item, "port"),
            host=self._host(item),
            kind=kind,
            slots=tuple(slots),
            decoders=tuple(_decoder(decoder) for decoder in _children(item, "decoders")),
            id=own,
        )

    def _memdev(self, endpoint: Table) -> Memdev:
        item = _table(endpoint.get("memdev"))
        serial = _number(item, "serial")
        name = _text(item, "memdev")
        return Memdev(
            name=name,
            serial=serial,
            pmem=_number(item, "pmem_size"),
            ram=_number(item, "ram_size"),
            host=_text(item, "host"),
            enabled="loose" not in endpoint and item.get("state") != "disabled",
            decoders=tuple(_decoder(decoder) for decoder in _children(endpoint, "decoders")),
            media_errors=self._poison.get(name, ()),
            id=self._names.memories.get(serial),
        )


def _decoder(item: Table) -> Decoder:
    return Decoder(
        name=_text(item, "decoder"),
        committed=item.get("state") != "disabled" and "region" in item,
        region=_text(item, "region") or None,
        resource=_number(item, "resource") or None,
        size=_number(item, "size"),
        ways=_number(item, "interleave_ways") or 1,
        granularity=_number(item, "interleave_granularity"),
    )


def _dax(item: Table) -> Dax:
    node = item.get("target_node")
    return Dax(
        name=_text(item, "chardev"),
        size=_number(item, "size"),
        mode=_text(item, "mode"),
        node=node if isinstance(node, int) else None,
        online=_number(item, "online_memblocks"),
        blocks=_number(item, "total_memblocks"),
    )


def _namespaces(text: str, mounts: str) -> dict[str, tuple[Namespace, ...]]:
    """Namespaces by region: both kinds of region carry the same number."""
    mounted = {words[0]: words[1] for line in mounts.splitlines() if len(words := line.split()) > 1}
    found: dict[str, tuple[Namespace, ...]] = {}
    for region in _walk(read_json(text, "ndctl list"), "dev", "namespaces"):
        namespaces = []
        for item in _tables(region.get("namespaces")):
            block = _text(item, "blockdev") or None
            daxes = _tables(_table(item.get("daxregion")).get("devices"))
            device = block or next((_text(dax, "chardev") for dax in daxes), None) or _text(item, "chardev") or None
            # A namespace without a mode is the seed from which the next one is made.
            if _text(item, "mode") and _number(item, "size"):
                namespaces.append(
                    Namespace(
                        name=_text(item, "dev"),
                        mode=_text(item, "mode"),
                        size=_number(item, "size"),
                        device=device,
                        mount=mounted.get(f"/dev/{block}") if block else None,
                        enabled=item.get("state") != "disabled",
                    )
                )
        found[_text(region, "dev")] = tuple(sorted(namespaces, key=lambda namespace: namespace.name))
    return found


def _parents(paths: str) -> dict[str, str]:
    """What each PCI device hangs on: ``…/0000:0c:00.0/0000:0d:00.0/mem0`` says it of 0000:0d:00.0."""
    found: dict[str, str] = {}
    for path in paths.split():
        parts = path.split("/")
        found |= dict(zip(parts[1:], parts, strict=False))
    return found


_POISON = re.compile(r"cxl_poison: memdev=(\w+) .*?\bdpa=(0x[0-9a-f]+) dpa_length=(0x[0-9a-f]+|\d+) source=(\w+)")


def _poison(text: str) -> dict[str, tuple[tuple[int, int, str], ...]]:
    """Poisoned ranges by device, from the kernel's trace events."""
    found: dict[str, set[tuple[int, int, str]]] = {}
    for name, at, length, source in _POISON.findall(text):
        found.setdefault(name, set()).add((int(at, 16), int(length, 0), source))
    return {name: tuple(sorted(ranges)) for name, ranges in found.items()}


def _nodes(text: str) -> Iterator[Node]:
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0].isdecimal() and words[1].isdecimal():
            yield Node(int(words[0]), int(words[1]) << 10, words[2] if len(words) > 2 else "")


def _walk(value: Any, *keys: str) -> Iterator[Table]:
    """Every table below that has all of the keys."""
    if isinstance(value, list):
        for item in value:
            yield from _walk(item, *keys)
    elif isinstance(value, Mapping):
        if all(key in value for key in keys):
            yield value
        for item in value.values():
            yield from _walk(item, *keys)


def _children(item: Table, kind: str) -> list[Table]:
    """What is listed as ``KIND:PARENT``."""
    return [each for key, value in item.items() if key.startswith(f"{kind}:") for each in _tables(value)]


def _tables(value: Any) -> list[Table]:
    return [item for item in _list(value) if isinstance(item, Mapping)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _table(value: Any) -> Table:
    return value if isinstance(value, Mapping) else {}


def _text(item: Table, name: str) -> str:
    value = item.get(name)
    return value if isinstance(value, str) else ""


def _number(item: Table, name: str) -> int:
    value = item.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _bus(host: str) -> int:
    """``pci0000:0c`` -> 12; -1 for what is none."""
    match = re.fullmatch(r"pci[0-9a-f]{4}:([0-9a-f]{2})", host)
    return int(match[1], 16) if match else -1
