"""Counts primes with several processes that share memory: python examples/primes.py [LIMIT] [NODES].

One byte for each odd number lies in the region. Node 0 sieves the small primes, which all others then read; blocks of
the rest are claimed one by one with an addition that is atomic between the processes: nobody waits for a slow one.
"""

from __future__ import annotations

import math
import sys
import time

from leviathan import dsm

CLAIMED, FOUND = 0, 8
FLAGS = 4096
BLOCK = 1 << 18


def strike(flags: memoryview, prime: int, first: int, end: int) -> None:
    """Marks the odd multiples of `prime` among the numbers 2 * i + 1, `first` <= i < `end`."""
    start = max(prime * prime // 2, first + (prime // 2 - first) % prime)
    if start < end:
        flags[start:end:prime] = bytes(len(range(start, end, prime)))


def work(region: dsm.Region, limit: int) -> int:
    flags = memoryview(region)[FLAGS : FLAGS + limit // 2]
    small = math.isqrt(limit) // 2 + 1
    if region.node == 0:
        flags[:small] = b"\1" * small
        flags[0] = 0  # 1 is no prime
        for index in range(1, small):
            if flags[index]:
                strike(flags, 2 * index + 1, 0, small)
    region.barrier()
    primes = [2 * index + 1 for index in range(1, small) if flags[index]]
    claimed = 0
    while (first := small + region.add(CLAIMED, 1) * BLOCK) < len(flags):
        end = min(first + BLOCK, len(flags))
        flags[first:end] = b"\1" * (end - first)
        for prime in primes:
            strike(flags, prime, first, end)
        region.add(FOUND, bytes(flags[first:end]).count(1))
        claimed += 1
    region.barrier()
    faults = region.statistics()
    print(
        f"node {region.node}: {claimed} blocks, {faults['faults_read']} read and {faults['faults_write']} write faults,"
        f" half of them within {faults['fault_p50_ns'] / 1000:.0f} us",
        file=sys.stderr,
    )
    return 1 + len(primes) + region.load(FOUND)  # 1: the number 2


def main(limit: int, nodes: int) -> int:
    start = time.monotonic()
    results = dsm.run_local(work, nodes, FLAGS + limit // 2, limit)
    assert len(set(results)) == 1, results
    print(f"{results[0]} primes below {limit}")
    print(f"{nodes} processes, {time.monotonic() - start:.1f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    sys.exit(main(*(numbers + [20_000_000, 4][len(numbers) :])))
