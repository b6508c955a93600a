"""``lev cxl``: the CXL memory of a running VM, from the outside."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leviathan.errors import UsageError

if TYPE_CHECKING:
    from leviathan.cxl.guest import CxlGuest
    from leviathan.cxl.topology import Memdev, Namespace, Region, Topology

__all__ = ["app"]

app = typer.Typer(name="cxl", help="CXL memory of a running VM: show it, use it, break it.", no_args_is_help=True)
dcd_app = typer.Typer(name="dcd", help="Extents of dynamic capacity.", no_args_is_help=True)
app.add_typer(dcd_app)

Name = Annotated[str, typer.Argument(metavar="VM", help="The VM's name, as `lev list` shows it.")]
Device = Annotated[
    str, typer.Argument(metavar="DEVICE", help="A memory device by its name, serial number, or the guest's name.")
]
RegionName = Annotated[str, typer.Argument(metavar="REGION", help="A region, such as region0.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]
SizeOption = Annotated[str | None, typer.Option("--size", metavar="SIZE", help="Such as 512M; left out: all.")]


def _guest(name: str) -> CxlGuest:
    from leviathan.cxl.guest import CxlGuest
    from leviathan.named.client import Client

    return CxlGuest(Client(name))


def _size(text: str | None, option: str = "--size") -> int | None:
    from leviathan.model.sizes import parse_size

    if text is None:
        return None
    try:
        return parse_size(text)
    except ValueError as error:
        raise UsageError(f"{option} {text}: {error}") from error


def _print(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def _table(value: Region | Namespace | Memdev | Topology) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(value)


@app.command("list")
def list_devices(name: Name, as_json: AsJson = False) -> None:
    """Show the memory devices: what they are, where they are, what they are part of."""
    from leviathan.cxl.listing import device_table, devices_json

    topology = _guest(name).topology()
    if as_json:
        _print(devices_json(topology))
        return
    from leviathan.cli.tables import print_table

    print_table(device_table(topology), sys.stdout)


@app.command()
def show(
    name: Name,
    svg: Annotated[Path | None, typer.Option("--svg", metavar="FILE", help="Draw it into an SVG file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the topology, from bridge to region to namespace to NUMA node, and what of it is committed."""
    if svg is not None and not svg.resolve().parent.is_dir():
        raise UsageError(f"--svg: there is no folder {svg.resolve().parent}")
    topology = _guest(name).topology()
    if svg is not None:
        from leviathan.cxl.graph import make_graph
        from leviathan.cxl.picture import svg as draw

        try:
            svg.write_text(draw(make_graph(topology), f"CXL of {name}"), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--svg: cannot write {svg}: {error.strerror}") from error
    if as_json:
        _print(_table(topology))
    elif svg is None:
        from leviathan.cxl.tree import tree

        sys.stdout.write(tree(topology, f"CXL of {name}"))


@app.command("create-region")
def create_region(
    name: Name,
    devices: Annotated[
        list[str] | None,
        typer.Argument(metavar="[DEVICE…]", help="In any order: the right one is found. Left out: all that are free."),
    ] = None,
    kind: Annotated[str | None, typer.Option("--type", metavar="pmem|ram", help="Left out: by the devices.")] = None,
    size: SizeOption = None,
    window: Annotated[
        str | None, typer.Option("--window", metavar="DECODER", help="Such as decoder0.0; left out: the one that fits.")
    ] = None,
    granularity: Annotated[
        int | None, typer.Option("--granularity", metavar="BYTES", help="256 to 16384; left out: the window's.")
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option("--as", metavar="system-ram|devdax", help="What volatile memory becomes; left out: the kernel's."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a region, interleaved over several devices in the order that their bridges need."""
    from leviathan.cxl import actions

    if kind not in (None, "pmem", "ram"):
        raise UsageError(f"--type {kind}: there are pmem and ram")
    plan, region = actions.create_region(
        _guest(name),
        devices or [],
        kind=kind,
        window=window,
        size=_size(size),
        granularity=granularity,
        mode=mode,
    )
    if as_json:
        _print(_table(region))
        return
    from leviathan.cxl.words import region_words

    over = ", ".join(device.label for device in plan.devices)
    print(f"{region.name}: {', '.join(region_words(region))}, over {over}")


@app.command("destroy-region")
def destroy_region(
    name: Name,
    region: RegionName,
    force: Annotated[bool, typer.Option("--force", "-f", help="Unmount what is mounted.")] = False,
) -> None:
    """Take a region apart. What persistent memory holds stays in it."""
    from leviathan.cxl import actions

    actions.destroy_region(_guest(name), region, force=force)


@app.command()
def namespace(
    name: Name,
    region: Annotated[str, typer.Argument(metavar="REGION", help="A region; with --destroy a namespace.")],
    mode: Annotated[str, typer.Option("--mode", metavar="fsdax|devdax|sector|raw", help="What it is.")] = "fsdax",
    size: SizeOption = None,
    mkfs: Annotated[str | None, typer.Option("--mkfs", metavar="ext4|xfs", help="Make a file system in it.")] = None,
    mount: Annotated[str | None, typer.Option("--mount", metavar="DIR", help="Mount it there in the guest.")] = None,
    destroy: Annotated[bool, typer.Option("--destroy", help="Destroy the namespace and what it holds.")] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="With --destroy: unmount it first.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a namespace on a region of persistent memory."""
    from leviathan.cxl import actions

    guest = _guest(name)
    if destroy:
        actions.destroy_namespace(guest, region, force=force)
        return
    made = actions.create_namespace(guest, region, mode=mode, size=_size(size), file_system=mkfs, mount=mount)
    if as_json:
        _print(_table(made))
        return
    from leviathan.cxl.words import namespace_words

    print(f"{made.name}: {', '.join(namespace_words(made))}")


@app.command()
def online(
    name: Name,
    region: RegionName,
    mode: Annotated[str, typer.Option("--as", metavar="system-ram|devdax", help="What it becomes.")] = "system-ram",
    off: Annotated[bool, typer.Option("--off", help="Take it out of its NUMA node instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a region of volatile memory memory of a NUMA node, and wait until it is."""
    from leviathan.cxl import actions

    guest = _guest(name)
    done = actions.set_offline(guest, region) if off else actions.online(guest, region, mode=mode)
    if as_json:
        _print(_table(done))
        return
    from leviathan.cxl.words import dax_words

    for dax in done.daxes:
        print(f"{dax.name}: {', '.join(dax_words(dax))}")


@app.command()
def poison(
    name: Name,
    device: Device,
    offset: Annotated[str, typer.Option("--offset", metavar="BYTES", help="Where in the device.")] = "0",
    length: Annotated[str, typer.Option("--length", metavar="BYTES", help="A multiple of 64.")] = "64",
    clear: Annotated[bool, typer.Option("--clear", help="Clear it, by the guest's kernel.")] = False,
    as_json: AsJson = False,
) -> None:
    """Poison a range of a device, and see that the guest lists it."""
    from leviathan.cxl import inject
    from leviathan.cxl.guest import find_memdev

    guest = _guest(name)
    start, count = _bytes(offset, "--offset"), _bytes(length, "--length")
    if clear:
        inject.clear_poison(guest, device, start, count)
        topology = guest.topology()
    else:
        topology = inject.inject_poison(guest, device, start, count)
    memdev = find_memdev(device, topology)
    if as_json:
        _print([{"offset": at, "length": size, "source": source} for at, size, source in memdev.media_errors])
        return
    for at, size, source in memdev.media_errors:
        print(f"{memdev.label}: {size} bytes at {at:#x}, {source.lower()}")


@app.command()
def event(
    name: Name,
    device: Device,
    kind: Annotated[
        str,
        typer.Argument(metavar="KIND", help="general-media, dram, memory-module, correctable or uncorrectable."),
    ],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A field by QEMU's name. Repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a device report an event, and print what the guest's kernel traced of it."""
    from leviathan.cxl import inject

    lines = inject.inject_event(_guest(name), device, kind, _settings(settings or []))
    if as_json:
        _print(lines)
        return
    for line in lines:
        print(line)
    if not lines and kind in inject.TRACED:
        print("the guest traced nothing within 10 s", file=sys.stderr)


@app.command()
def hotplug(
    name: Name,
    size: SizeOption = None,
    port: Annotated[
        str | None, typer.Option("--port", metavar="PORT", help="An empty one; left out: the first.")
    ] = None,
    persistent: Annotated[
        Path | None, typer.Option("--persistent", metavar="FILE", help="Persistent memory kept in FILE.")
    ] = None,
    device_name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="The device's name.")] = None,
    serial: Annotated[str | None, typer.Option("--serial", metavar="N", help="Its serial number.")] = None,
    remove: Annotated[str | None, typer.Option("--remove", metavar="DEVICE", help="Unplug this device.")] = None,
    as_json: AsJson = False,
) -> None:
    """Plug a memory device into an empty port, or unplug one; return when the guest has noticed."""
    from leviathan.cxl import hotplug as plugging
    from leviathan.cxl.words import memory_words

    guest = _guest(name)
    if remove is not None:
        done = plugging.unplug(guest, remove)
    else:
        count = _size(size)
        if count is None:
            raise UsageError("a device needs its --size", hint="--size 256M; or --remove DEVICE")
        done = plugging.plug(
            guest,
            count,
            persistent=None if persistent is None else str(persistent.resolve()),
            port=port,
            name=device_name,
            serial=None if serial is None else _bytes(serial, "--serial"),
        )
    if as_json:
        _print(_table(done))
        return
    print(f"{'removed ' if remove else ''}{done.label}: {', '.join(memory_words(done))}")


Length = Annotated[str, typer.Option("--length", metavar="SIZE", help="Such as 128M.")]
Offset = Annotated[str, typer.Option("--offset", metavar="SIZE", help="In the dynamic region.")]
DynamicRegion = Annotated[int, typer.Option("--region", metavar="N", help="Dynamic region of the device.")]


@dcd_app.command("add")
def dcd_add(
    name: Name,
    device: Device,
    length: Length,
    offset: Offset = "0",
    region: DynamicRegion = 0,
) -> None:
    """Offer an extent to the guest. No distribution's kernel up to 7.2 takes it: it stays pending."""
    from leviathan.cxl import hotplug as plugging

    extent = (_bytes(offset, "--offset"), _bytes(length, "--length"))
    plugging.add_extent(_guest(name), device, region, [extent])


@dcd_app.command("release")
def dcd_release(
    name: Name,
    device: Device,
    length: Length,
    offset: Offset = "0",
    region: DynamicRegion = 0,
) -> None:
    """Take an extent back."""
    from leviathan.cxl import hotplug as plugging

    extent = (_bytes(offset, "--offset"), _bytes(length, "--length"))
    plugging.release_extent(_guest(name), device, region, [extent])


def _bytes(text: str, option: str) -> int:
    """``4096``, ``0x1000`` or ``1M``."""
    try:
        return int(text, 0)
    except ValueError:
        size = _size(text, option)
        assert size is not None
        return size


def _settings(words: list[str]) -> dict[str, Any]:
    """``NAME=VALUE``: numbers where they look like some."""
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UsageError(f"--set {word}: write NAME=VALUE")
        try:
            found[name] = int(value, 0)
        except ValueError:
            found[name] = value
    return found
