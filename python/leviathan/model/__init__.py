"""Typed descriptions of machines: sizes, shares, layout, files."""

from leviathan.model.layout import HomeRange, homes, vcpus
from leviathan.model.load import load_machine, make_machine, parse_settings
from leviathan.model.machine import Engine, LabOptions, Machine, NodeShare, Pool, Timeouts
from leviathan.model.sizes import format_size, parse_size

__all__ = [
    "Engine",
    "HomeRange",
    "LabOptions",
    "Machine",
    "NodeShare",
    "Pool",
    "Timeouts",
    "format_size",
    "homes",
    "load_machine",
    "make_machine",
    "parse_settings",
    "parse_size",
    "vcpus",
]
