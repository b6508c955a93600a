"""Networks: ``-netdev`` with its ``-device``, ``-nic``, the old ``-net``, and QEMU's default card."""

from __future__ import annotations

import re
from typing import Any

from leviathan.cmdline.draft import Draft, Item, options_of
from leviathan.cmdline.keyval import KeyVal, Pair
from leviathan.errors import UsageError

__all__ = ["read_networks"]

CARDS = frozenset(
    """
    virtio-net-pci virtio-net virtio-net-pci-non-transitional virtio-net-pci-transitional e1000 e1000e e1000-82545em igb
    rtl8139 ne2k_pci pcnet vmxnet3 i82551 i82557b i82559er
    """.split()  # noqa: SIM905 (read as words)
)
ALIASES = {"virtio": "virtio-net-pci", "virtio-net": "virtio-net-pci"}
DEFAULT_CARD = {"q35": "e1000e", "pc": "e1000", "virt": "virtio-net-pci"}
KINDS = ("user", "tap", "bridge")
_FORWARD = re.compile(
    r"(?:(?P<protocol>tcp|udp))?:(?P<address>[^:]*):(?P<host>\d+)-(?P<guest_address>[^:]*):(?P<guest>\d+)"
)


def read_networks(draft: Draft) -> None:
    """All cards, those of ``-device`` first in their order, then ``-nic`` and ``-net``."""
    networks: list[dict[str, Any]] = []
    asked = any(draft.line.has(name) for name in ("netdev", "nic", "net"))
    cards = {item.fields.get("netdev"): item for item in draft.items("device") if "netdev" in item.fields}
    for backend in list(draft.items("netdev", driver_key="type")):
        card = cards.get(backend.id)
        if card is None:
            draft.notes.warn(str(backend), "no -device uses it: the guest has no card for it")
            continue
        network = _card(card)
        if network is not None and _backend(network, backend.kind, backend.fields):
            networks.append(network)
            draft.use(card.index)
            draft.use(backend.index)
    for item in list(draft.items("nic", driver_key="type")):
        networks += _nic(draft, item)
    networks += _old_net(draft)
    if not asked and not draft.line.has("nodefaults"):
        card_name = DEFAULT_CARD[draft.data["machine_type"]]
        networks.append({"kind": "user", "model": card_name})
    if networks:
        draft.data["networks"] = networks


def _card(card: Item) -> dict[str, Any] | None:
    if card.kind not in CARDS:
        return None
    fields = card.fields
    fields.take("netdev")
    network: dict[str, Any] = {"model": ALIASES.get(card.kind, card.kind)}
    for key, field in (("id", "name"), ("mac", "mac")):
        value = fields.take(key)
        if value is not None:
            network[field] = value
    if more := options_of(fields):
        network["options"] = more
    return network


def _backend(network: dict[str, Any], kind: str, fields: KeyVal) -> bool:
    """Fills in what the card is plugged into; false if a description has no such thing."""
    if kind not in KINDS:
        return False
    network["kind"] = kind
    name = fields.take("id")
    del name
    forwards = [pair.value or "" for pair in fields.pairs if pair.key == "hostfwd"]
    fields.take("hostfwd")
    if forwards:
        network["forward"] = [_forward(text) for text in forwards]
    for key, field, of in (("ifname", "interface", "tap"), ("br", "bridge", "bridge")):
        if kind == of and (value := fields.take(key)) is not None:
            network[field] = value
    if more := options_of(fields):
        network["backend_options"] = more
    return True


def _forward(text: str) -> dict[str, Any]:
    match = _FORWARD.fullmatch(text)
    if match is None:
        raise UsageError(
            f"hostfwd={text}: not a forwarded port", hint="write hostfwd=tcp:127.0.0.1:2222-:22 (this machine's first)"
        )
    return {
        "protocol": match["protocol"] or "tcp",
        "host": int(match["host"]),
        "guest": int(match["guest"]),
        "address": match["address"],
        "guest_address": match["guest_address"],
    }


def _nic(draft: Draft, item: Item) -> list[dict[str, Any]]:
    if item.kind == "none":
        draft.use(item.index)
        return []
    fields = item.fields
    model = fields.take("model") or DEFAULT_CARD[draft.data["machine_type"]]
    network: dict[str, Any] = {"model": ALIASES.get(model, model)}
    mac = fields.take("mac")
    if mac is not None:
        network["mac"] = mac
    fields.take("netdev", "id")
    if not _backend(network, item.kind, fields):
        return []
    draft.use(item.index)
    return [network]


def _old_net(draft: Draft) -> list[dict[str, Any]]:
    """``-net nic,… -net user,…``: cards and backends on one hub, in the common case of one of each."""
    entries = list(draft.items("net", driver_key="type"))
    if [entry.kind for entry in entries] == ["none"]:
        draft.use(entries[0].index)
        return []
    nics = [entry for entry in entries if entry.kind == "nic"]
    backends = [entry for entry in entries if entry.kind != "nic"]
    if len(nics) != 1 or len(backends) != 1 or backends[0].kind not in KINDS:
        return []
    nic, backend = nics[0].fields, backends[0].fields
    for fields in (nic, backend):
        fields.take("vlan", "name")
    model = nic.take("model") or DEFAULT_CARD[draft.data["machine_type"]]
    network: dict[str, Any] = {"model": ALIASES.get(model, model)}
    mac = nic.take("macaddr")
    if mac is not None:
        network["mac"] = mac
    _backend(network, backends[0].kind, KeyVal(None, [Pair(p.key, p.value) for p in backend.pairs]))
    draft.use(nics[0].index)
    draft.use(backends[0].index)
    draft.notes.changed(f"{nics[0]} {backends[0]}", "the old way to write a network", "one of networks")
    return [network]
