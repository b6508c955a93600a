"""Nodes without usable KVM: lab machines, QEMU TCG virtual machines in which KVM works."""

from leviathan.lab.channel import AgentError, ChannelLost, LabProcess
from leviathan.lab.host import LabHost
from leviathan.lab.lab import Lab, LabOptions
from leviathan.lab.machine import LabMachine

__all__ = ["AgentError", "ChannelLost", "Lab", "LabHost", "LabMachine", "LabOptions", "LabProcess"]
