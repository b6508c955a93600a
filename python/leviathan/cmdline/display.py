"""Screen, serial ports and monitors: ``-nographic``, ``-display``, ``-vnc``, ``-vga``, ``-serial``, ``-monitor``…."""

from __future__ import annotations

from typing import Any

from leviathan.cmdline.draft import Draft, root_bus
from leviathan.cmdline.keyval import KeyVal
from leviathan.errors import UsageError
from leviathan.qemu.devices import INPUT_DEVICES

__all__ = ["read_display"]

CARDS = {
    "VGA": "std",
    "virtio-vga": "virtio",
    "virtio-gpu-pci": "virtio",
    "qxl-vga": "qxl",
    "cirrus-vga": "cirrus",
    "vmware-svga": "vmware",
    "ramfb": "ramfb",
}
WINDOWS = ("none", "gtk", "sdl", "curses", "spice-app", "egl-headless")
ADAPTERS = ("none", "std", "virtio", "qxl", "cirrus", "vmware")
LOCAL_VNC = "127.0.0.1:0"


def read_display(draft: Draft, *, screen: bool) -> None:
    """Everything that shows the guest. ``screen``: this machine has one that a window can open on."""
    display: dict[str, Any] = {}
    nographic = draft.flag("nographic")
    explicit = nographic or draft.line.has("display") or draft.line.has("vnc") or draft.line.has("spice")
    for index, option in draft.options("display"):
        _display(draft, index, option.value or "", display)
    vnc = draft.last("vnc")
    if vnc is not None:
        display["vnc"] = _vnc(vnc)
    vga = draft.last("vga")
    if vga is not None:
        if vga not in ADAPTERS:
            raise UsageError(f"-vga {vga} is no adapter", hint=f"there are {', '.join(ADAPTERS)}")
        display["adapter"] = vga
    if nographic and display.get("window", "none") == "none":
        display.pop("window", None)
    defaults = not draft.line.has("nodefaults")
    if vga is None:
        _adapter(draft, display, defaults=defaults)
    if not explicit and defaults:
        if screen:
            display["window"] = "gtk"
        else:
            display["vnc"] = LOCAL_VNC
            draft.notes.changed(
                "no -display, -vnc or -nographic",
                "QEMU would open a window, and there is no screen here",
                f"-vnc {LOCAL_VNC}",
            )
    if display:
        draft.data["display"] = display
    _ports(draft, nographic=nographic, defaults=defaults)


def _adapter(draft: Draft, display: dict[str, Any], *, defaults: bool) -> None:
    """A graphics card given as a device. Without one, and without QEMU's defaults, there is none."""
    bus = root_bus(draft.data["machine_type"])
    for item in draft.items("device"):
        adapter = CARDS.get(item.kind)
        plain = not item.fields.pairs or (item.fields.get("bus") == bus and len(item.fields.pairs) == 1)
        if adapter is not None and plain and "adapter" not in display:
            display["adapter"] = adapter
            draft.use(item.index)
    if "adapter" not in display:
        if not defaults and (display.get("vnc") or display.get("window", "none") != "none"):
            display["adapter"] = "none"
    elif draft.arch == "aarch64":
        words = [(item.index, str(item.option.value)) for item in draft.items("device")]
        found = [index for index, value in words if value in INPUT_DEVICES]
        if len(found) == len(INPUT_DEVICES) // 2:
            draft.used.update(found)


def _vnc(value: str) -> str | None:
    return None if value == "none" else value


def _display(draft: Draft, index: int, value: str, display: dict[str, Any]) -> None:
    fields = KeyVal.parse(value)
    kind = fields.first
    if kind is None and "vnc" in fields:
        vnc = fields.take("vnc") or ""
        display["vnc"] = ",".join([vnc, *map(str, fields.pairs)])
        draft.use(index)
    elif kind in WINDOWS and not fields.pairs:
        display["window"] = kind
        draft.use(index)
    elif kind not in (*WINDOWS, "dbus", "cocoa", "default", "vnc"):
        raise UsageError(f"-display {value} is no display", hint=f"there are {', '.join(WINDOWS)} and vnc=:0")


def _ports(draft: Draft, *, nographic: bool, defaults: bool) -> None:
    """Serial ports and monitors with QEMU's defaults for them made explicit."""
    serial = [option.value or "" for _, option in draft.options("serial")]
    monitor = [option.value or "" for _, option in draft.options("monitor")]
    qmp = [option.value or "" for _, option in draft.options("qmp")]
    for name in ("serial", "monitor", "qmp"):
        draft.last(name)
    # As in QEMU: a port that has the monitor on it, or `-monitor none`, takes the default monitor's place.
    monitored = bool(monitor or qmp) or any(port.startswith("mon:") for port in serial) or draft.line.has("mon")
    if not serial and nographic and defaults:
        serial = ["stdio" if monitored else "mon:stdio"]
    elif serial and nographic and defaults and not monitored:
        monitor = ["stdio"]
    monitor = [port for port in monitor if port != "none"]
    if serial or not defaults:
        draft.data["serial"] = [] if serial == ["none"] else serial
    if monitor:
        draft.data["monitor"] = monitor
    if qmp:
        draft.data["qmp"] = qmp
    on_terminal = [port for port in (*serial, *monitor, *qmp) if port in ("stdio", "mon:stdio")]
    if len(on_terminal) > 1:
        raise UsageError(
            f"{' and '.join(on_terminal)} both want this terminal",
            hint="give one of them mon:stdio: serial port and monitor together, Ctrl-A C switches",
        )
