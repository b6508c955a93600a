"""Memory of devices and where it is kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from leviathan.model.sizes import KIB, MIB, format_size
from leviathan.rules.finding import Finding, error, warning
from leviathan.rules.subject import Subject

__all__ = ["dynamic_regions", "files", "kept", "label_size", "memory_sizes", "no_memory", "shared_files"]

UNIT = 256 * MIB
SMALLEST_LABELS = 64 * KIB


def no_memory(subject: Subject) -> Iterator[Finding]:
    """QEMU: ``at least one memdev property must be set``."""
    for number, device in enumerate(subject.given.cxl.memory if subject.given.cxl else []):
        field = f"cxl.memory.{number}"
        if device.persistent is None and device.volatile is None and device.dynamic is None:
            remedy = 'give persistent, volatile or dynamic a size, such as "256M"'
            yield error("no-memory", field, "the device has no memory", remedy)


def memory_sizes(subject: Subject) -> Iterator[Finding]:
    """Anything else than a multiple of 256M: the guest shows no memory device at all, without a word."""
    for path, _, field, backing in subject.backings():
        if field in ("persistent", "volatile") and backing.size % UNIT:
            near = max(round(backing.size / UNIT), 1) * UNIT
            problem = (
                f"{format_size(backing.size)} is not a multiple of 256M: the guest would see no memory device at all"
            )
            yield error("memory-size", path, problem, f"use {format_size(near)}")


def dynamic_regions(subject: Subject) -> Iterator[Finding]:
    """QEMU: ``backend size is not multiple of region len`` and ``dynamic capacity must have a backing device``."""
    for number, device in enumerate(subject.cxl.memory):
        field = f"cxl.memory.{number}"
        if device.dynamic is None:
            if device.dynamic_regions is not None:
                yield error(
                    "dynamic-regions",
                    f"{field}.dynamic_regions",
                    "there is no dynamic capacity to cut",
                    "give dynamic too",
                )
            continue
        regions = device.dynamic_regions or 1
        if device.dynamic.size % (UNIT * regions):
            unit = UNIT * regions
            near = -(-device.dynamic.size // unit) * unit
            problem = (
                f"{format_size(device.dynamic.size)} cannot be cut into {regions} regions of a multiple of 256M each"
            )
            yield error("dynamic-regions", f"{field}.dynamic", problem, f"use {format_size(near)}")


def label_size(subject: Subject) -> Iterator[Finding]:
    """64K to 256M were tried and work."""
    for path, _, field, backing in subject.backings():
        if field == "labels" and backing.size < SMALLEST_LABELS:
            problem = f"{format_size(backing.size)} of label storage may be too small for a namespace"
            yield warning("label-size", path, problem, "use 64K or more; 1M is the default")


def kept(subject: Subject) -> Iterator[Finding]:
    """Persistent memory and labels belong in a shared file."""
    for path, _, field, backing in subject.backings():
        lasting = field in ("persistent", "labels")
        if backing.kind != "file" and backing.file is not None:
            remedy = 'use kind = "file", or leave file out'
            yield error("kept", f"{path}.file", f"memory of kind {backing.kind!r} has no file", remedy)
        elif lasting and backing.kind != "file":
            yield warning("kept", f"{path}.kind", "what the guest stores is lost when it ends", 'use kind = "file"')
        elif lasting and not backing.shared:
            problem = "without sharing, what the guest writes never reaches the file"
            yield warning("kept", f"{path}.shared", problem, "leave it out, or set it to true")


def files(subject: Subject) -> Iterator[Finding]:
    """Files as they are on this machine: QEMU creates a missing file, but no folder, and refuses a short one."""
    for path, _, _, backing in subject.backings():
        file = backing.file
        if backing.kind != "file" or file is None:
            continue
        field = f"{path}.file"
        if subject.directory is not None and file.parent == subject.directory and not file.exists():
            continue
        if file.is_dir():
            yield error("file", field, f"{file} is a folder", "name a file in it")
        elif not file.exists():
            if not file.parent.is_dir():
                yield error("file", field, f"there is no folder {file.parent}", f"make it: mkdir -p {file.parent}")
            elif not os.access(file.parent, os.W_OK):
                yield error("file", field, f"no file can be made in {file.parent}", "use a folder of your own")
        elif not os.access(file, os.R_OK | os.W_OK):
            yield error(
                "file", field, f"{file} cannot be read and written", f"give yourself the rights: chmod u+rw {file}"
            )
        elif file.is_file() and 0 < file.stat().st_size < backing.size:
            problem = f"{file} has {format_size(file.stat().st_size)}, the description says {format_size(backing.size)}"
            remedy = f"use its size, or make it longer: truncate -s {format_size(backing.size)} {file}"
            yield error("file", field, problem, remedy)
        elif file.is_file() and file.stat().st_size > backing.size:
            problem = (
                f"{file} has {format_size(file.stat().st_size)}; the guest sees its first {format_size(backing.size)}"
            )
            yield warning("file", field, problem, "use its size, unless that is meant")


def shared_files(subject: Subject) -> Iterator[Finding]:
    """QEMU gives two devices one file without a word; each overwrites what the other stored."""
    seen: dict[Path, str] = {}
    for number, disk in enumerate(subject.machine.disks):
        if not disk.readonly and not disk.snapshot:
            seen.setdefault(disk.file.absolute(), f"disks.{number}")
    for path, _, _, backing in subject.backings():
        if backing.kind != "file" or backing.file is None:
            continue
        file = backing.file.absolute()
        if file in seen:
            problem = f"{backing.file} is already used by {seen[file]}; each would overwrite the other"
            yield error("shared-files", f"{path}.file", problem, "give each a file of its own")
        seen.setdefault(file, path)
