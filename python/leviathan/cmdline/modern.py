"""Old spellings brought to the form that all QEMUs we run understand, each with a note."""

from __future__ import annotations

from leviathan.cmdline.keyval import KeyVal, Pair, truth
from leviathan.cmdline.notes import Notes
from leviathan.cmdline.options import CommandLine, Option, parse_words
from leviathan.cmdline.table import REMOVED
from leviathan.errors import UsageError

__all__ = ["modernize"]

GIANT = ("local-cpu", "shm-path", "node-list")


def modernize(line: CommandLine, notes: Notes) -> None:
    """Replaces, in place, what QEMU has removed or renamed. Raises ``UsageError`` for what has no successor."""
    result: list[Option] = []
    windows = 0
    for option in line.options:
        if option.name == "cxl-fixed-memory-window":
            result.append(_window(option, windows, notes))
            windows += 1
        elif option.name in REMOVED and option.name not in GIANT:
            result += _removed(option, notes)
        elif option.name == "machine":
            result += _machine(option, giant=line.has("local-cpu"), kvm=_kvm(line), notes=notes)
        elif option.name == "device":
            result.append(_device(option, notes))
        elif option.name == "chardev":
            result.append(_chardev(option, notes))
        else:
            result.append(option)
    line.options = result


def _removed(option: Option, notes: Notes) -> list[Option]:
    rule = REMOVED[option.name]
    if option.name == "balloon" and option.value == "none":
        return []
    why = f"removed in QEMU {rule.since}" + (f": {rule.why}" if rule.why else "")
    if rule.into is None:
        raise UsageError(f"{option}: {why.split(':')[0]}", hint=rule.why)
    words = [word.replace("{}", option.value or "") for word in rule.into]
    notes.changed(str(option), why, " ".join(words) or "left out")
    return parse_words(words).options


def _window(option: Option, number: int, notes: Notes) -> Option:
    fields = KeyVal.parse(option.value or "", implied=False)
    prefix = f"cxl-fmw.{number}."
    pairs = [Pair(prefix + pair.key.removeprefix(prefix), pair.value) for pair in fields.pairs]
    new = Option("machine", str(KeyVal(None, pairs)))
    notes.changed(str(option), "this spelling is of the branches before CXL came to QEMU 7.1", str(new))
    return new


def _kvm(line: CommandLine) -> bool:
    accelerators = [
        *line.values("accel"),
        *(KeyVal.parse(value).get("accel") or "" for value in line.values("machine")),
    ]
    return line.has("enable-kvm") or any(word.startswith("kvm") for word in accelerators)


def _machine(option: Option, *, giant: bool, kvm: bool, notes: Notes) -> list[Option]:
    fields = KeyVal.parse(option.value or "")
    irqchip = fields.get("kernel-irqchip") or fields.get("kernel_irqchip")
    if giant and irqchip is not None and irqchip != "split":
        fields.take("kernel-irqchip", "kernel_irqchip")
        since = (
            "removed in QEMU 8.0" if truth(irqchip) is False else "one kernel cannot hold the APICs of several nodes"
        )
        notes.changed(
            f"-machine kernel-irqchip={irqchip}",
            since,
            "kernel-irqchip=split with local APICs outside the kernel, which every giant VM has",
        )
    elif irqchip is not None and truth(irqchip) is False:
        fields.take("kernel-irqchip", "kernel_irqchip")
        if kvm:
            fields.pairs.append(Pair("kernel-irqchip", "split"))
        into = "kernel-irqchip=split" if kvm else "left out: without KVM it has no effect"
        notes.changed(f"-machine kernel-irqchip={irqchip}", "removed in QEMU 8.0", into)
    if fields.first is None and not fields.pairs:
        return []
    return [Option("machine", str(fields))]


def _device(option: Option, notes: Notes) -> Option:
    fields = KeyVal.parse(option.value or "")
    if (fields.first or fields.get("driver")) != "cxl-type3" or "memdev" not in fields:
        return option
    if "persistent-memdev" in fields or "volatile-memdev" in fields:
        raise UsageError(
            f"{option}: memdev= is the old name of persistent-memdev=; both are given",
            hint="remove memdev=, and say persistent-memdev= or volatile-memdev=",
        )
    fields.pairs = [Pair("persistent-memdev", pair.value) if pair.key == "memdev" else pair for pair in fields.pairs]
    name = fields.get("id") or "cxl-type3"
    notes.changed(
        f"{name}: memdev=", "a device now says whether its memory is persistent or volatile", "persistent-memdev="
    )
    return Option("device", str(fields))


def _chardev(option: Option, notes: Notes) -> Option:
    fields = KeyVal.parse(option.value or "")
    new = {"tty": "serial", "parport": "parallel"}.get(fields.first or "")
    if new is None:
        return option
    notes.changed(f"-chardev {fields.first}", "the name was removed in QEMU 8.0", f"-chardev {new}")
    fields.first = new
    return Option("chardev", str(fields))
