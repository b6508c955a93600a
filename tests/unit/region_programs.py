"""Functions that run in the processes of a region; they must be importable there."""

from __future__ import annotations

import os
import time

from leviathan.dsm import Region


def squares(region: Region) -> float:
    view = memoryview(region).cast("d")
    view[region.node] = region.node**2
    region.barrier()
    return sum(view[: region.nodes])


def count_together(region: Region, additions: int) -> int:
    for _ in range(additions):
        region.add(0, 1)
    region.barrier()
    return region.load(0)


def fail(region: Region, victim: int) -> None:
    if region.node == victim:
        raise ZeroDivisionError("on purpose")
    region.barrier()


def vanish(region: Region, victim: int) -> None:
    if region.node == victim:
        os._exit(3)
    region.barrier()


def touch_after_close(region: Region) -> None:
    view = memoryview(region)
    region.close()
    view[0] = 1


def touch_after_loss(region: Region) -> None:
    if region.node == 1:
        region.store(4096, 7)
    region.barrier()
    if region.node == 1:
        # Not before the other one has left the barrier, which would say that node 1 is lost, too.
        while region.load(8192 - 8) == 0:
            time.sleep(0.01)
        os._exit(3)
    region.store(8192 - 8, 1)
    view = memoryview(region)
    while True:
        view[4096]
        time.sleep(0.01)


def touch_in_child(region: Region) -> int:
    view = memoryview(region)
    view[0] = 1
    child = os.fork()
    if child == 0:
        view[0] = 2
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def with_numpy(region: Region) -> float:
    import numpy

    grid = numpy.frombuffer(region, dtype=numpy.float64).reshape(-1, 512)
    mine = grid[region.node :: region.nodes]
    mine[:] = numpy.arange(512) + region.node
    region.barrier()
    return float(grid.sum())
