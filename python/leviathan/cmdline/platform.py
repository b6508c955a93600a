"""Machine, CPUs, memory, NUMA nodes, boot: what ``-machine``, ``-cpu``, ``-smp``, ``-m``, ``-numa``, ``-kernel``…."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from leviathan.cmdline.draft import Draft, Item, amount, number, options_of, switch
from leviathan.cmdline.keyval import KeyVal, Pair
from leviathan.errors import UsageError

__all__ = ["read_boot", "read_cpu", "read_machine", "read_memory", "read_numa", "read_smp"]

VERSIONED = re.compile(r"(?:pc-(?P<q35>q35)|pc-i440(?P<pc>fx)|(?P<virt>virt))-(?P<version>[\w.]+)")
MEBIBYTE = 1 << 20
QEMU_MEMORY = "128M"
DEFAULT_MEMORY = "1G"
TYPES = ("q35", "pc", "virt")
NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")


def read_machine(draft: Draft) -> None:
    """``-machine``, ``-accel``, ``-enable-kvm``, ``-name``. Windows (``cxl-fmw``) are left in the draft, raw."""
    merged = KeyVal()
    windows_in = set()
    for index, option in draft.options("machine"):
        fields = KeyVal.parse(option.value or "")
        if fields.first is not None:
            fields.pairs.insert(0, Pair("type", fields.first))
        for pair in fields.pairs:
            if pair.key.startswith("cxl-fmw"):
                windows_in.add(index)
            merged.pairs.append(pair)
        draft.use(index)
    if len(windows_in) > 1:
        draft.notes.changed(
            "cxl-fmw in more than one -machine", "QEMU wants all windows in one (“used inconsistently”)", "one -machine"
        )
    _machine_type(draft, merged.take("type"))
    _accelerator(draft, merged.take("accel"))
    for key, field, read in FIELDS:
        value = merged.take(key)
        if value is not None:
            draft.data[field] = read(f"-machine {key}=", value)
    cxl = merged.take("cxl")
    draft.cxl_on = None if cxl is None else switch("-machine cxl=", cxl)
    draft.windows = [pair for pair in merged.pairs if pair.key.startswith("cxl-fmw")]
    merged.pairs = [pair for pair in merged.pairs if not pair.key.startswith("cxl-fmw")]
    if merged.pairs:
        draft.data["machine_options"] = options_of(merged)
    _name(draft)


def _text(_what: str, value: str) -> str:
    return value


FIELDS: tuple[tuple[str, str, Callable[[str, str], Any]], ...] = (
    ("gic-version", "gic_version", _text),
    ("acpi", "acpi", switch),
)


def _machine_type(draft: Draft, kind: str | None) -> None:
    aliases = {"pc-q35": "q35", "i440fx": "pc"}
    if kind is None and draft.arch != "x86_64":
        raise UsageError(
            f"-machine is missing: QEMU has no default for {draft.arch}", hint="write -machine virt, and -cpu max"
        )
    if kind is None:
        kind = "pc"
        if any(item.kind == "pxb-cxl" for item in draft.items("device")):
            draft.notes.changed("no -machine", "QEMU's default, pc, has no CXL", "q35")
            kind = "q35"
    kind = aliases.get(kind, kind)
    if match := VERSIONED.fullmatch(kind):
        plain = "q35" if match["q35"] else "pc" if match["pc"] else "virt"
        draft.notes.kept(f"-machine {kind}", f"a {plain} as QEMU {match['version']} had it")
        draft.extra += ["-machine", kind]
        kind = plain
    if kind not in TYPES:
        raise UsageError(
            f"-machine {kind}: Leviathan describes q35 and pc (x86_64) and virt (aarch64)",
            hint="a machine of another type is QEMU's own: run it without lev",
        )
    if (kind == "virt") != (draft.arch == "aarch64"):
        right = "virt" if draft.arch == "aarch64" else "q35"
        raise UsageError(
            f"-machine {kind} is not a machine of qemu-system-{draft.arch}",
            hint=f"write -machine {right}, or run qemu-system-{'aarch64' if kind == 'virt' else 'x86_64'}",
        )
    draft.data["machine_type"] = kind


def _accelerator(draft: Draft, accel: str | None) -> None:
    asked = accel.split(":") if accel else []
    for item in draft.items("accel", driver_key="accel"):
        asked.append(item.kind)
        draft.use(item.index)
        for pair in item.fields.pairs:
            draft.notes.warn(str(item), f"{pair.key} is not kept: the accelerator is chosen by Leviathan")
    if draft.flag("enable-kvm"):
        asked.append("kvm")
    known = [word for word in asked if word in ("kvm", "tcg")]
    for word in asked:
        if word not in known:
            draft.notes.warn(f"accel={word}", "Leviathan runs QEMU under KVM or TCG", "auto")
    if asked:
        draft.data["accel"] = known[0] if len(set(known)) == 1 == len(set(asked)) else "auto"


def _name(draft: Draft) -> None:
    for item in draft.items("name", driver_key="guest"):
        if NAME.fullmatch(item.kind) and not item.fields.pairs:
            draft.data["name"] = item.kind
            draft.use(item.index)


def read_cpu(draft: Draft) -> None:
    """``-cpu``."""
    value = draft.last("cpu")
    if value is None:
        return
    model, *features = value.split(",")
    table: dict[str, bool | int | str] = {}
    for word in features:
        # QEMU cuts features at every comma; there is no doubling here.
        if word.startswith(("+", "-")) and "=" not in word:
            table[word[1:]] = word[0] == "+"
        else:
            table |= options_of(KeyVal.parse(word, implied=False))
    draft.data["cpu"] = {"model": model} | ({"features": table} if table else {})


def _merged(draft: Draft, name: str, implied: str) -> KeyVal:
    """All of an option that QEMU merges when it is given several times; ``implied`` is the key of a leading value."""
    merged = KeyVal()
    for index, option in draft.options(name):
        fields = KeyVal.parse(option.value or "")
        if fields.first is not None:
            fields.pairs.insert(0, Pair(implied, fields.first))
        merged.pairs += fields.pairs
        draft.use(index)
    return merged


def read_smp(draft: Draft) -> None:
    """``-smp``: CPUs and their topology."""
    merged = _merged(draft, "smp", "cpus")
    parts = {}
    for key in ("sockets", "cores", "threads"):
        value = merged.take(key)
        if value is not None:
            parts[key] = number(f"-smp {key}=", value)
    given = merged.take("cpus")
    most = merged.get("maxcpus")
    product = 1
    for count in parts.values():
        product *= count
    cpus = number("-smp", given) if given is not None else product if parts else int(most or 1)
    if cpus < 1 or 0 in parts.values():
        raise UsageError("-smp: a count of 0 means nothing (QEMU 9.0 refuses it)", hint="leave it out, or write 1")
    limit = number("-smp maxcpus=", most) if most is not None else cpus
    if limit < cpus:
        raise UsageError(
            f"-smp {cpus},maxcpus={limit}: there are more CPUs than maxcpus",
            hint=f"write -smp {cpus}; maxcpus is for CPUs that are plugged in later",
        )
    if len(parts) == 3 and product != limit:
        factors = " * ".join(f"{count} {key}" for key, count in parts.items())
        raise UsageError(
            f"-smp {cpus}: {factors} make {product} CPUs, not {limit}",
            hint=f"write -smp {cpus} alone, or numbers whose product is {limit}",
        )
    if parts and limit % product:
        raise UsageError(f"-smp {cpus}: {limit} CPUs cannot be cut into {product} equal parts")
    draft.data["cpus"] = cpus
    if parts:
        draft.data.setdefault("cpu", {}).update(parts)
    if merged.pairs:
        draft.extra += ["-smp", str(merged)]
        draft.notes.kept(f"-smp {merged}", "passed on")


def read_memory(draft: Draft) -> None:
    """``-m``."""
    merged = _merged(draft, "m", "size")
    size, most, slots = merged.take("size"), merged.take("maxmem"), merged.take("slots")
    if merged.pairs:
        raise UsageError(f"-m: {merged.pairs[0].key} is not a field of -m", hint="write -m 4G,maxmem=8G,slots=4")
    if size is None:
        why = f"QEMU would give {QEMU_MEMORY}, too little for a distribution's kernel"
        draft.notes.changed("no -m", why, DEFAULT_MEMORY)
    draft.data["memory"] = amount("-m", size if size is not None else DEFAULT_MEMORY, MEBIBYTE)
    if most is not None:
        draft.data["memory_max"] = amount("-m maxmem=", most, MEBIBYTE)
        if draft.data["memory_max"] < draft.data["memory"]:
            raise UsageError(
                f"-m {size},maxmem={most}: maxmem is less than the memory",
                hint="maxmem is memory plus what may be plugged in; CXL does not need it",
            )
    if slots is not None:
        draft.data["memory_slots"] = number("-m slots=", slots)


def read_numa(draft: Draft) -> None:
    """``-numa`` with simple memory backends; anything more goes to QEMU as it is, all of it."""
    entries = list(draft.items("numa", driver_key="type"))
    if not entries:
        return
    backends = {item.id: item for item in draft.items("object", driver_key="qom-type")}
    nodes: dict[int, dict[str, Any]] = {}
    taken: list[int] = [entry.index for entry in entries]
    for entry in entries:
        if entry.kind == "node":
            understood = _numa_node(draft, entry, backends, nodes, taken)
        else:
            understood = entry.kind == "dist" and _numa_distance(entry, nodes)
        if not understood:
            draft.notes.kept(str(entry), "Leviathan's NUMA nodes cannot say this; all -numa options are passed on")
            return
    count = len(nodes)
    if sorted(nodes) != list(range(count)):
        raise UsageError(f"-numa: nodes are {sorted(nodes)}; they count from 0 without gaps")
    draft.data["numa"] = [
        {key: value for key, value in nodes[node].items() if key != "distances"}
        | ({"distances": _row(nodes, node)} if any(each["distances"] for each in nodes.values()) else {})
        for node in range(count)
    ]
    draft.used.update(taken)


def _numa_node(
    draft: Draft,
    entry: Item,
    backends: dict[str | None, Item],
    nodes: dict[int, dict[str, Any]],
    taken: list[int],
) -> bool:
    fields = entry.fields
    given = fields.take("nodeid")
    node = number("-numa nodeid=", given) if given is not None else len(nodes)
    cpus = [pair.value or "" for pair in fields.pairs if pair.key == "cpus"]
    fields.take("cpus")
    memory, backend = fields.take("mem"), fields.take("memdev")
    if node in nodes:
        raise UsageError(f"{entry}: node {node} is there twice")
    nodes[node] = {"distances": {}} | ({"cpus": ",".join(cpus)} if cpus else {})
    if memory is not None:
        nodes[node]["memory"] = amount("-numa mem=", memory, MEBIBYTE)
        draft.notes.changed(str(entry), "mem= was removed in QEMU 5.1", "a memory backend of the node")
    if backend is not None:
        item = backends.get(backend)
        if item is None:
            raise UsageError(
                f"{entry}: there is no -object with id={backend}",
                hint=f"add it: -object memory-backend-ram,id={backend},size=1G, say",
            )
        own = item.fields.copy()
        own.take("id")
        size = own.take("size")
        if item.kind != "memory-backend-ram" or own.pairs or size is None:
            return False
        nodes[node]["memory"] = amount(f"-object {backend} size=", size)
        taken.append(item.index)
    return not fields.pairs


def _numa_distance(entry: Item, nodes: dict[int, dict[str, Any]]) -> bool:
    source, target, value = (entry.fields.take(key) for key in ("src", "dst", "val"))
    if source is None or target is None or value is None:
        raise UsageError(f"{entry}: a distance has src=, dst= and val=", hint="write -numa dist,src=0,dst=1,val=20")
    if int(source) not in nodes:
        raise UsageError(f"{entry}: node {source} comes first", hint="put -numa node before -numa dist")
    nodes[int(source)]["distances"][int(target)] = number("-numa val=", value)
    return not entry.fields.pairs


def _row(nodes: dict[int, dict[str, Any]], node: int) -> list[int]:
    """Distances of one node; what is not given is as the other way round, else QEMU's default."""
    return [
        nodes[node]["distances"].get(other, 10 if other == node else nodes[other]["distances"].get(node, 20))
        for other in range(len(nodes))
    ]


def read_boot(draft: Draft) -> None:
    """``-kernel``, ``-initrd``, ``-append``, ``-bios``, ``-no-reboot``."""
    for name, field in (("kernel", "kernel"), ("initrd", "initrd"), ("append", "append"), ("bios", "firmware")):
        value = draft.last(name)
        if value is not None:
            draft.data[field] = value
    if "kernel" not in draft.data:
        for name in ("initrd", "append"):
            if name in draft.data:
                raise UsageError(
                    f"-{name} without -kernel: firmware boots from disk and takes neither from here",
                    hint="add -kernel FILE, or set them in the guest's boot loader",
                )
        draft.data["boot"] = "firmware"
    else:
        _kernel_notes(draft)
    if draft.flag("no-reboot"):
        draft.data["reboot"] = "cold"


def _kernel_notes(draft: Draft) -> None:
    """What is added where a kernel is given alone."""
    append = draft.data.get("append", "")
    if draft.data["nodes"] == 0 and "console=" not in append:
        why = "it names no console=" if append else "missing"
        draft.notes.changed("-append", why, "the serial port's, so that the guest's messages are seen")
    if "initrd" not in draft.data and "root=" not in append:
        draft.notes.changed("-kernel", "neither -initrd nor root= in -append", "Leviathan's initramfs, with a shell")
