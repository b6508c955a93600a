"""One coherent region of memory for processes on several machines: the engine of guest memory as a library.

Every process sees the region as ordinary memory, through the buffer protocol: ``memoryview(region)``,
``numpy.frombuffer(region, dtype=…)``. Touching a page that is elsewhere fetches it; writing a page takes it from the
others. Between any two accesses the order is that of threads on one x86 machine.

>>> from leviathan import dsm
>>> def work(region):  # doctest: +SKIP
...     view = memoryview(region).cast("d")
...     view[region.node] = region.node ** 2
...     region.barrier()
...     return sum(view[: region.nodes])
>>> dsm.run_local(work, nodes=4, size="64K")  # doctest: +SKIP
[14.0, 14.0, 14.0, 14.0]

Over several machines each process calls ``join`` with the same description (see ``Description``).
"""

from __future__ import annotations

from leviathan._native import Region, Seat
from leviathan.dsm.description import Description
from leviathan.dsm.join import join
from leviathan.dsm.local import run_local, run_local_over

__all__ = ["Description", "Region", "Seat", "join", "run_local", "run_local_over"]
