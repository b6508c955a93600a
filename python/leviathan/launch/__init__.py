"""Starting programs on nodes: one small interface, ``Host``, and its implementations."""

from leviathan.errors import LaunchError
from leviathan.launch.host import Host, HostFacts, Process, Sink

__all__ = ["Host", "HostFacts", "LaunchError", "Process", "Sink"]
