"""Traces of guest memory: what happened to which page, when and on which node.

``Trace.load(path)`` reads what ``lev trace record`` wrote::

    trace = Trace.load("boot.trace")
    for event in trace:
        print(event.at_ns, event.node, event.kind, hex(event.page))

and with NumPy ``numpy.frombuffer(trace.data, DTYPE)`` is all of it in one array. The layout of a file is in
``docs/design/0016-traces.md``.
"""

from leviathan.trace.read import DTYPE, Event, Home, Kind, Trace

__all__ = ["DTYPE", "Event", "Home", "Kind", "Trace"]
