"""Disks: ``-hda``, ``-cdrom``, ``-drive`` with or without its ``-device``, flash, ``-boot``, ``-snapshot``."""

from __future__ import annotations

from typing import Any

from leviathan.cmdline.draft import Draft, Item, options_of, root_bus, switch
from leviathan.cmdline.keyval import KeyVal
from leviathan.errors import UsageError

__all__ = ["read_disks"]

SHORT = {"hda": 0, "hdb": 1, "hdc": 2, "hdd": 3, "cdrom": 2}
DEVICES = {
    "virtio-blk-pci": ("virtio", False),
    "virtio-blk": ("virtio", False),
    "ide-hd": ("ide", False),
    "ide-cd": ("ide", True),
    "scsi-hd": ("scsi", False),
    "scsi-cd": ("scsi", True),
    "nvme": ("nvme", False),
}
FORMATS = ("raw", "qcow2", "qcow", "vmdk", "vdi", "vpc", "vhdx")
CONTROLLERS = ("virtio-scsi-pci", "virtio-scsi")


def read_disks(draft: Draft) -> None:
    """All of them, in the order in which the machine numbers them."""
    found: list[tuple[int, dict[str, Any]]] = []
    for name in SHORT:
        for index, option in draft.options(name):
            disk: dict[str, Any] = {"file": _file(str(option), option.value), "interface": _default_interface(draft)}
            if name == "cdrom":
                disk |= {"cdrom": True}
                if draft.arch != "x86_64":
                    disk["interface"] = "auto"
            found.append((index, disk))
            draft.use(index)
    devices = {item.fields.get("drive"): item for item in draft.items("device") if "drive" in item.fields}
    flash: list[tuple[int, dict[str, Any]]] = []
    for item in list(draft.items("drive", driver_key="no-such-key")):
        _drive(draft, item, devices, found, flash)
    _flash(draft, flash)
    disks = [disk for _, disk in sorted(found, key=lambda each: each[0])]
    _scsi_controllers(draft, disks)
    if draft.flag("snapshot"):
        for disk in disks:
            disk["snapshot"] = True
    _boot_order(draft, disks)
    if disks:
        draft.data["disks"] = disks


def _default_interface(draft: Draft) -> str:
    return "ide" if draft.arch == "x86_64" else "virtio"


def _file(option: str, text: str | None) -> str:
    if not text:
        raise UsageError(
            f"{option}: the name of the image is missing", hint="write -drive file=disk.qcow2, for example"
        )
    return text


def _drive(
    draft: Draft,
    item: Item,
    devices: dict[str | None, Item],
    found: list[tuple[int, dict[str, Any]]],
    flash: list[tuple[int, dict[str, Any]]],
) -> None:
    fields = item.fields
    if fields.first is not None:
        raise UsageError(
            f"{item}: {fields.first} has no key",
            hint=f"write -drive file={fields.first}" if "." in fields.first else None,
        )
    interface = fields.take("if")
    if interface == "pflash":
        flash.append((item.index, {"file": fields.take("file"), "fields": fields}))
        return
    if interface not in (None, "virtio", "ide", "scsi", "none"):
        return
    disk = _disk(item)
    if interface == "none":
        device = devices.get(item.id)
        disk["name"] = item.id
        if device is None or not _device(disk, device, draft, len([d for _, d in found if d["interface"] == "ide"])):
            # A drive for a device that we do not know: both are QEMU's.
            return
        draft.use(device.index)
    else:
        disk["interface"] = interface or _default_interface(draft)
        if disk.get("cdrom") and draft.arch != "x86_64":
            disk["interface"] = "auto"
    for key in ("index", "bus", "unit", "id"):
        fields.take(key)
    if more := options_of(fields):
        disk["drive_options"] = more
    found.append((item.index, disk))
    draft.use(item.index)


def _disk(item: Item) -> dict[str, Any]:
    """The fields that all kinds of drives have."""
    fields = item.fields
    disk: dict[str, Any] = {"file": _file(str(item), fields.take("file"))}
    if (media := fields.take("media")) == "cdrom":
        disk["cdrom"] = True
    elif media not in (None, "disk"):
        raise UsageError(f"{item}: media={media} is neither disk nor cdrom", hint="write media=cdrom for a disc")
    kind = fields.take("format")
    if kind is not None:
        if kind not in FORMATS:
            raise UsageError(f"{item}: format={kind} is no format of an image", hint=f"there are {', '.join(FORMATS)}")
        disk["format"] = kind
    for key, field in (("readonly", "readonly"), ("read-only", "readonly"), ("snapshot", "snapshot")):
        value = fields.take(key)
        if value is not None:
            disk[field] = switch(f"-drive {key}=", value)
    return disk


def _device(disk: dict[str, Any], device: Item, draft: Draft, ide: int) -> bool:
    """Fills in what the guest's device says; false if it is none that a description has.

    ``ide`` disks came before. A device on a bus of another device's, which a description has no word for, is none.
    """
    kind = DEVICES.get(device.kind)
    own = device.fields
    if kind is None or not _usual_place(kind[0], own, draft, ide):
        return False
    disk["interface"] = kind[0]
    if kind[1]:
        disk["cdrom"] = True
    own.take("drive", "id")
    if own.get("serial") == disk["name"] and kind[0] == "nvme":
        own.take("serial")
    index = own.take("bootindex")
    if index is not None:
        disk["boot_index"] = int(index)
    if more := options_of(own):
        disk["options"] = more
    return True


def _usual_place(interface: str, own: KeyVal, draft: Draft, ide: int) -> bool:
    """Takes ``bus`` and ``unit`` away if they are what a description gives such a device anyway."""
    machine = draft.data["machine_type"]
    place = {"bus": root_bus(machine)}
    if interface == "ide":
        place = {"bus": f"ide.{ide // 2}", "unit": str(ide % 2)} if machine == "pc" else {"bus": f"ide.{ide}"}
    elif interface == "scsi":
        controllers = [item for item in draft.items("device") if item.kind in CONTROLLERS]
        known = {
            f"{item.id}.0" for item in controllers if item.id and not _without_place(item, root_bus(machine)).pairs
        }
        if own.get("bus") not in known:
            return False
        place = {"bus": own.get("bus") or ""}
    for key in ("bus", "unit"):
        if own.get(key) not in (None, place.get(key)):
            return False
    own.take("bus", "unit")
    return True


def _without_place(item: Item, bus: str) -> KeyVal:
    fields = item.fields_without("id")
    if fields.get("bus") == bus:
        fields.take("bus")
    return fields


def _scsi_controllers(draft: Draft, disks: list[dict[str, Any]]) -> None:
    """A plain controller comes with the disks on it; one that other devices use, too, stays QEMU's."""
    if not any(disk["interface"] == "scsi" for disk in disks):
        return
    buses = {item.fields.get("bus") for item in draft.items("device")}
    for item in draft.items("device"):
        if item.kind in CONTROLLERS and f"{item.id}.0" not in buses:
            plain = not _without_place(item, root_bus(draft.data["machine_type"])).pairs
            if plain:
                draft.use(item.index)


def _flash(draft: Draft, flash: list[tuple[int, dict[str, Any]]]) -> None:
    """Two flash drives are firmware and its variables; any other number goes to QEMU as it is."""
    for index, option in draft.options("pflash"):
        flash.append((index, {"file": option.value, "fields": KeyVal()}))
    flash.sort(key=lambda each: each[0])
    if len(flash) != 2 or "firmware" in draft.data or any(drive["file"] is None for _, drive in flash):
        return
    code, variables = flash[0][1], flash[1][1]
    for drive in (code, variables):
        fields: KeyVal = drive["fields"]
        if fields.take("format") not in (None, "raw"):
            return
        for key in ("unit", "index", "readonly", "read-only", "id"):
            fields.take(key)
        if fields.pairs:
            return
    draft.data["firmware"], draft.data["firmware_variables"] = code["file"], variables["file"]
    draft.used.update(index for index, _ in flash)


def _boot_order(draft: Draft, disks: list[dict[str, Any]]) -> None:
    """``-boot d``, ``-boot order=dc``: c (disk) and d (optical disc) become boot indices; the rest is QEMU's."""
    entries = list(draft.items("boot", driver_key="order"))
    if not entries:
        return
    order, rest = "", []
    for entry in entries:
        order = entry.kind or entry.fields.take("once") or order
        rest += entry.fields.pairs
    if any(letter not in "cdn" for letter in order) or "kernel" in draft.data:
        return
    place = 0
    for letter in order:
        for disk in disks:
            if letter in "cd" and bool(disk.get("cdrom")) == (letter == "d") and "boot_index" not in disk:
                disk["boot_index"] = place
                place += 1
    if "n" in order:
        return
    for entry in entries:
        draft.use(entry.index)
    if rest:
        draft.extra += ["-boot", str(KeyVal(None, rest))]
