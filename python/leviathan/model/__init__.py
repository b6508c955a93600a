"""Typed descriptions of machines: sizes, shares, layout, files."""

from leviathan.model.cxl import Backing, Cxl, CxlMemory, HostBridge, RootPort, Switch, SwitchPort, Window
from leviathan.model.devices import Disk, Display, Forward, Network
from leviathan.model.layout import HomeRange, homes, vcpus
from leviathan.model.load import load_machine, make_machine, parse_settings
from leviathan.model.machine import Engine, LabOptions, Machine, NodeShare, Pool, Timeouts
from leviathan.model.platform import Cpu, NumaNode
from leviathan.model.sizes import format_size, parse_size

__all__ = [
    "Backing",
    "Cpu",
    "Cxl",
    "CxlMemory",
    "Disk",
    "Display",
    "Engine",
    "Forward",
    "HomeRange",
    "HostBridge",
    "LabOptions",
    "Machine",
    "Network",
    "NodeShare",
    "NumaNode",
    "Pool",
    "RootPort",
    "Switch",
    "SwitchPort",
    "Timeouts",
    "Window",
    "format_size",
    "homes",
    "load_machine",
    "make_machine",
    "parse_settings",
    "parse_size",
    "vcpus",
]
