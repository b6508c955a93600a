"""Changing a guest's CXL memory: regions, namespaces, NUMA nodes. Each does all that it needs, in the right order."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence

from leviathan.cxl.guest import CxlGuest
from leviathan.cxl.order import Plan, plan_region
from leviathan.cxl.parse import GuestToolError, read_json
from leviathan.cxl.topology import Dax, Namespace, Region, Topology
from leviathan.errors import TimeOver, UsageError
from leviathan.model.sizes import format_size

__all__ = [
    "create_namespace",
    "create_region",
    "destroy_namespace",
    "destroy_region",
    "online",
    "set_offline",
]

SETTLE_SECONDS = 60.0
APPEAR_SECONDS = 15.0
POLL_SECONDS = 0.3
MODES = ("fsdax", "devdax", "sector", "raw")
BLOCKS = "/sys/devices/system/memory/auto_online_blocks"


def create_region(
    guest: CxlGuest,
    devices: Sequence[str],
    *,
    kind: str | None = None,
    window: str | None = None,
    size: int | None = None,
    granularity: int | None = None,
    mode: str | None = None,
) -> tuple[Plan, Region]:
    """Makes a region over devices named in any order. ``mode`` of volatile memory: ``system-ram`` or ``devdax``.

    Without devices: all that are free and of ``kind``. Raises ``UsageError``, ``GuestToolError``.
    """
    topology = guest.topology()
    named = guest.memdevs(devices, topology)
    if not named:
        named = [
            memdev
            for memdev in topology.memdevs()
            if memdev.enabled
            and not topology.region_of(memdev)
            and (memdev.ram if kind == "ram" else memdev.pmem if kind == "pmem" else True)
        ]
        if not named:
            raise UsageError("every memory device is part of a region", hint="lev cxl destroy-region VM REGION")
    plan = plan_region(topology, named, kind=kind, window=window, size=size, granularity=granularity)
    if mode is not None and plan.kind != "ram":
        raise UsageError(f"--as {mode} is for volatile memory", hint="persistent memory: lev cxl namespace VM REGION")
    if mode is not None:
        _auto_online(guest, mode)
    before = {region.name for region in topology.regions}
    made = read_json(guest.tool(plan.arguments()), "cxl create-region")
    name = next((str(item["region"]) for item in made if isinstance(item, dict) and "region" in item), None)
    after = guest.topology()
    region = next((each for each in after.regions if each.name == name or each.name not in before), None)
    if region is None:
        raise GuestToolError("`cxl create-region` ended well, but the guest has no new region")
    if mode is not None:
        region = online(guest, region.name, mode=mode)
    return plan, region


def destroy_region(guest: CxlGuest, name: str, *, force: bool = False) -> None:
    """Takes a region apart: unmounts, takes memory out of its NUMA node, then destroys it.

    What is mounted is only unmounted with ``force``. Labels of persistent memory stay. Raises ``UsageError``.
    """
    region = guest.region(name, guest.topology())
    mounted = [namespace for namespace in region.namespaces if namespace.mount]
    if mounted and not force:
        where = ", ".join(f"{each.name} on {each.mount}" for each in mounted)
        raise UsageError(f"{name} is in use: {where}", hint="--force unmounts it")
    for namespace in mounted:
        guest.tool(["umount", f"/dev/{namespace.device}"])
    if any(dax.mode == "system-ram" for dax in region.daxes):
        set_offline(guest, name)
    for dax in region.daxes:
        guest.run(f"daxctl disable-device {shlex.quote(dax.name)}")
    if region.namespaces:
        guest.run(f"ndctl disable-region {shlex.quote(name)}")
    guest.run(f"cxl disable-region -f {shlex.quote(name)}")
    guest.tool(["cxl", "destroy-region", "-f", name])


def create_namespace(
    guest: CxlGuest,
    name: str,
    *,
    mode: str = "fsdax",
    size: int | None = None,
    file_system: str | None = None,
    mount: str | None = None,
) -> Namespace:
    """Makes a namespace on a region of persistent memory; with a file system and mounted, if wanted."""
    if mode not in MODES:
        raise UsageError(f"--mode {mode}: there are {', '.join(MODES)}")
    region = guest.region(name, guest.topology())
    if region.kind != "pmem":
        raise UsageError(f"{name} is volatile memory, which has no namespaces", hint=f"lev cxl online VM {name}")
    if mode == "devdax" and (file_system or mount):
        raise UsageError("a devdax namespace holds no file system", hint="--mode fsdax")
    argv = ["ndctl", "create-namespace", "-m", mode, "-r", name]
    argv += ["-M", "dev"] if mode in ("fsdax", "devdax") else []
    argv += ["-s", str(size)] if size else []
    made = read_json(guest.tool(argv), "ndctl create-namespace")
    dev = next((str(item["dev"]) for item in made if isinstance(item, dict) and "dev" in item), "")
    namespace = _namespace(guest.topology(), dev)
    if file_system:
        # DAX needs blocks of a page's size; small file systems would get smaller ones.
        extra = ["-q", "-b", "4096"] if file_system.startswith("ext") else []
        guest.tool([f"mkfs.{file_system}", *extra, f"/dev/{namespace.device}"])
    if mount:
        guest.tool(["mkdir", "-p", mount])
        guest.tool(["mount", *(["-o", "dax"] if mode == "fsdax" else []), f"/dev/{namespace.device}", mount])
        namespace = _namespace(guest.topology(), dev)
    return namespace


def destroy_namespace(guest: CxlGuest, name: str, *, force: bool = False) -> None:
    """Destroys a namespace and what is stored in it. One that is mounted only with ``force``."""
    namespace = _namespace(guest.topology(), name)
    if namespace.mount and not force:
        raise UsageError(f"{name} is mounted on {namespace.mount}", hint="--force unmounts it")
    if namespace.mount:
        guest.tool(["umount", namespace.mount])
    guest.tool(["ndctl", "destroy-namespace", "-f", name])


def online(guest: CxlGuest, name: str, *, mode: str = "system-ram", timeout: float = SETTLE_SECONDS) -> Region:
    """Makes a region of volatile memory memory of a NUMA node, or a ``devdax`` device. Waits until it is."""
    if mode not in ("system-ram", "devdax"):
        raise UsageError(f"--as {mode}: there are system-ram and devdax")
    dax = _await_dax(guest, name)
    if mode == "devdax" and dax.mode == "system-ram":
        set_offline(guest, name)
    if dax.mode != mode:
        _auto_online(guest, mode)
        argv = ["daxctl", "reconfigure-device", "-m", mode, "-f", dax.name]
        done = guest.run(shlex.join(argv))
        # The kernel that onlines by itself makes the tool stop, with the work done.
        if done.exit_code != 0 and "auto-online" not in done.stderr:
            raise GuestToolError(f"`{shlex.join(argv)}` failed in the guest: {done.stderr.strip()[-300:]}")
    elif mode == "system-ram" and dax.online < dax.blocks:
        guest.run(f"daxctl online-memory {dax.name}")
    return _settled(guest, name, mode, timeout)


def set_offline(guest: CxlGuest, name: str) -> Region:
    """Takes a region's memory out of its NUMA node. Raises ``GuestToolError`` while the kernel cannot move it away."""
    region = guest.region(name, guest.topology())
    dax = _dax(region)
    if dax.mode == "system-ram" and dax.online:
        guest.tool(["sh", "-c", f"echo offline > {BLOCKS}"])
        guest.tool(["daxctl", "offline-memory", dax.name])
    return guest.region(name, guest.topology())


def _auto_online(guest: CxlGuest, mode: str) -> None:
    """What the kernel does with new memory: nothing, or online without data of its own, so that it can go again."""
    guest.tool(["sh", "-c", f"echo {'offline' if mode == 'devdax' else 'online_movable'} > {BLOCKS}"])


def _settled(guest: CxlGuest, name: str, mode: str, timeout: float) -> Region:
    """Onlining goes on in the background."""
    end = time.monotonic() + timeout
    while True:
        region = guest.region(name, guest.topology())
        dax = region.daxes[0] if region.daxes else None
        if dax is not None and dax.mode == mode and (mode == "devdax" or (dax.blocks and dax.online == dax.blocks)):
            return region
        if time.monotonic() >= end:
            now = f"{dax.mode}, {dax.online} of {dax.blocks} blocks online" if dax else "without a DAX device"
            raise TimeOver(f"{name} did not become {mode} within {timeout:g} s: it is {now}")
        time.sleep(POLL_SECONDS)


def _await_dax(guest: CxlGuest, name: str) -> Dax:
    """The region's DAX device, which comes a moment after the region."""
    end = time.monotonic() + APPEAR_SECONDS
    while True:
        region = guest.region(name, guest.topology())
        if region.kind != "ram" or region.daxes or time.monotonic() >= end:
            return _dax(region)
        time.sleep(POLL_SECONDS)


def _dax(region: Region) -> Dax:
    if region.kind != "ram":
        raise UsageError(
            f"{region.name} is persistent memory", hint=f"lev cxl namespace VM {region.name} --mode fsdax or devdax"
        )
    if not region.daxes:
        raise GuestToolError(
            f"{region.name} ({format_size(region.size)}) has no DAX device", hint="the guest's kernel needs dax_cxl"
        )
    return region.daxes[0]


def _namespace(topology: Topology, name: str) -> Namespace:
    found: list[Namespace] = [each for region in topology.regions for each in region.namespaces]
    for namespace in found:
        if namespace.name == name:
            return namespace
    there = ", ".join(each.name for each in found)
    raise UsageError(f"there is no namespace {name}", hint=f"the guest has {there or 'none'}")
