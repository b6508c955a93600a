"""Networks: ``-netdev`` with its ``-device``, ``-nic``, the old ``-net``, and QEMU's default card."""

from __future__ import annotations

import re
from typing import Any

from leviathan.cmdline.draft import Draft, Item, options_of, root_bus
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
        network = _card(card, draft)
        if network is not None and _backend(draft, network, backend):
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


def _card(card: Item, draft: Draft) -> dict[str, Any] | None:
    """The guest's card; ``None`` if it is none, or on a bus that a description has no word for."""
    fields = card.fields
    if card.kind not in CARDS or fields.get("bus") not in (None, root_bus(draft.data["machine_type"])):
        return None
    network: dict[str, Any] = {"name": fields.get("netdev"), "model": ALIASES.get(card.kind, card.kind)}
    fields.take("netdev", "id", "bus")
    mac = fields.take("mac")
    if mac is not None:
        network["mac"] = mac
    if more := options_of(fields):
        network["options"] = more
    return network


def _backend(draft: Draft, network: dict[str, Any], item: Item) -> bool:
    """Fills in what the card is plugged into; false if a description has no such thing."""
    kind, fields = item.kind, item.fields
    if kind not in KINDS:
        return False
    network["kind"] = kind
    fields.take("id")
    forwards = [pair.value or "" for pair in fields.pairs if pair.key == "hostfwd"]
    fields.take("hostfwd")
    if forwards:
        network["forward"] = [_forward(text) for text in forwards]
    for key, field, of in (("ifname", "interface", "tap"), ("br", "bridge", "bridge")):
        if kind == of and (value := fields.take(key)) is not None:
            network[field] = value
    if kind == "tap":
        _tap_scripts(draft, item)
    if more := options_of(fields):
        network["backend_options"] = more
    return True


def _tap_scripts(draft: Draft, item: Item) -> None:
    """Without a word QEMU runs a script of the system's as root; a description runs none without a word."""
    fields = item.fields
    if fields.get("script") == "no" and fields.get("downscript") == "no":
        fields.take("script", "downscript")
    elif "script" not in fields:
        draft.notes.changed(str(item), "QEMU would run /etc/qemu-ifup", "script=no: set up the interface yourself")


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
    if not _backend(draft, network, item):
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
    nic = nics[0].fields
    for fields in (nic, backends[0].fields):
        fields.take("vlan", "name")
    model = nic.take("model") or DEFAULT_CARD[draft.data["machine_type"]]
    network: dict[str, Any] = {"model": ALIASES.get(model, model)}
    mac = nic.take("macaddr")
    if mac is not None:
        network["mac"] = mac
    _backend(draft, network, backends[0])
    draft.use(nics[0].index)
    draft.use(backends[0].index)
    draft.notes.changed(f"{nics[0]} {backends[0]}", "the old way to write a network", "one of networks")
    return [network]
