"""What `lev bench guest` has its guests do: shell commands, and the numbers in what these print.

All programs are the distribution's own, but for the counters, which are a check of ours. Commands run as root with
busybox around them; a number that cannot be found is a failure of the program, whatever its exit code.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = [
    "BOOT",
    "FIGURES",
    "WORKLOADS",
    "Figures",
    "Workload",
    "WrongOutput",
    "counter_seconds",
    "redis_rates",
    "stress_rate",
    "uptime_seconds",
]

Figures = Mapping[str, float]
"""Numbers of one run by the names of ``FIGURES``."""
COUNTER_ROUNDS = 200_000
"""Of each thread and placement."""
REDIS_REQUESTS = 2000
REDIS_CLIENTS = 8
MEMORY_METHOD = "rand-set"
"""One of stress-ng's ways to fill memory; going through all of them, its operations would not be alike."""


class WrongOutput(Exception):
    """A program did not print the number that it was run for."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that is measured."""

    title: str
    unit: str

    @property
    def is_rate(self) -> bool:
        """Whether more is better."""
        return self.unit != "s"

    def slowdown(self, value: float, base: float) -> float:
        """How many times as slow as ``base`` a value is; both are above 0."""
        return base / value if self.is_rate else value / base


FIGURES = {
    "boot": Figure("kernel boot, QEMU's start to init", "s"),
    "compress": Figure("zstd, a thread for each CPU", "s"),
    "memory": Figure("stress-ng, memory of each CPU's own", "ops/s"),
    "futex": Figure("stress-ng, futexes", "ops/s"),
    "counters": Figure("shared counters", "s"),
    "redis-set": Figure("redis, SET over loopback", "ops/s"),
    "redis-get": Figure("redis, GET over loopback", "ops/s"),
}


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of work and how its result is read."""

    name: str
    figures: tuple[str, ...]
    command: Callable[[int], str] | None
    """Shell, for stressors of so many seconds; ``None``: the boot itself, which takes no command."""
    read: Callable[[str, str], Figures]
    """From standard output and standard error. Raises ``WrongOutput``."""


def _positive(value: str | float, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < float("inf"):
        raise WrongOutput(f"{what} is {value!r}, no number above 0")
    return number


def uptime_seconds(output: str, _errors: str = "") -> Figures:
    """From two lines, each what /proc/uptime said: before and after."""
    lines = [line.split() for line in output.splitlines() if line.strip()]
    if len(lines) != 2 or not all(lines):
        raise WrongOutput(f"two times were to be printed, not {output.strip()[-80:]!r}")
    begin, end = (_positive(line[0], "the guest's uptime") for line in lines)
    return {"compress": _positive(end - begin, "the time taken")}


def stress_rate(stressor: str, figure: str) -> Callable[[str, str], Figures]:
    """Reader of `stress-ng --metrics`: operations in a second of real time, by all instances together."""

    def read(output: str, errors: str) -> Figures:
        # stress-ng: metrc: [136] futex   22347   5.01   0.95   8.89   4464.37   2272.31   98.23   2636
        found = re.search(rf"metrc: \[\d+\] {re.escape(stressor)} +(\d+(?: +[0-9.]+){{5,}})", output + "\n" + errors)
        if found is None:
            said = "".join((errors.strip() or output.strip()).splitlines()[-1:])
            raise WrongOutput(f"stress-ng printed no metrics of {stressor}: {said or 'nothing'}")
        return {figure: _positive(found[1].split()[4], f"stress-ng's rate of {stressor}")}

    return read


def counter_seconds(output: str, _errors: str = "") -> Figures:
    """From `lev-guest counters --json`: the seconds of all placements together."""
    total, passed = 0.0, False
    for line in output.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and found.get("check") == "counters":
            total += _positive(found.get("seconds", 0), "the counters' time")
            if failures := found.get("failures"):
                raise WrongOutput(f"counters: {'; '.join(map(str, failures))}")
        elif isinstance(found, dict) and "result" in found:
            passed = found["result"] == "pass"
    if not passed or not total:
        raise WrongOutput(f"lev-guest did not end with a pass: {output.strip()[-200:]}")
    return {"counters": total}


def redis_rates(output: str, _errors: str = "") -> Figures:
    """From `redis-benchmark --csv -t set,get`: requests a second of each test."""
    lines = output.splitlines()
    head = next((number for number, line in enumerate(lines) if line.startswith('"test","rps"')), None)
    rows = list(csv.DictReader(io.StringIO("\n".join(lines[head:])))) if head is not None else []
    rates = {f"redis-{row['test'].lower()}": row["rps"] for row in rows}
    if missing := [name for name in ("redis-set", "redis-get") if name not in rates]:
        raise WrongOutput(f"redis-benchmark printed no {' and no '.join(missing)}: {output.strip()[-200:]}")
    return {name: _positive(rates[name], f"redis-benchmark's rate of {name}") for name in ("redis-set", "redis-get")}


def _nothing(_output: str, _errors: str) -> Figures:
    return {}


# The programs themselves are the data: some 13 MB that are neither trivial nor random, the same in every guest.
COMPRESS = """
cat /usr/bin/stress-ng /usr/bin/redis-* /usr/bin/zstd > /tmp/data || exit
cat /proc/uptime
zstd -q -3 -T$(nproc) -B1M -f /tmp/data -o /tmp/packed || exit
cat /proc/uptime
zstd -q -d -c /tmp/packed | cmp - /tmp/data || { echo 'what zstd packed is not what it was given' >&2; exit 1; }
rm /tmp/data /tmp/packed
"""
# Server and clients on the first and the last CPU, which belong to different nodes if there are several.
REDIS = f"""
redis-server --save '' --appendonly no --bind 127.0.0.1 --server_cpulist 0 > /tmp/redis.log 2>&1 &
server=$!
try=0
until [ "$(redis-cli ping 2> /dev/null)" = PONG ]; do
    try=$((try + 1))
    kill -0 $server 2> /dev/null && [ $try -lt 100 ] || {{ tail -n 3 /tmp/redis.log >&2; exit 1; }}
    usleep 100000
done
taskset -c $(($(nproc) - 1)) redis-benchmark --csv -t set,get -n {REDIS_REQUESTS} -c {REDIS_CLIENTS}
code=$?
kill $server
wait $server
exit $code
"""


def _stress(words: str) -> Callable[[int], str]:
    return lambda seconds: f"stress-ng {words} --timeout {seconds} --metrics"


BOOT = Workload("boot", ("boot",), None, _nothing)
WORKLOADS = (
    BOOT,
    Workload("compress", ("compress",), lambda _: COMPRESS, uptime_seconds),
    Workload(
        "memory",
        ("memory",),
        _stress(f"--vm $(nproc) --vm-bytes 16M --vm-method {MEMORY_METHOD}"),
        stress_rate("vm", "memory"),
    ),
    # Each is two processes. Only wakes within 5 us after the wait began are counted (stress-futex.c): two processes
    # that share a CPU hardly have any, so every process gets a CPU of its own.
    Workload("futex", ("futex",), _stress("--futex $(( ($(nproc) + 1) / 2 ))"), stress_rate("futex", "futex")),
    Workload(
        "counters", ("counters",), lambda _: f"lev-guest counters --rounds {COUNTER_ROUNDS} --json", counter_seconds
    ),
    Workload("redis", ("redis-set", "redis-get"), lambda _: REDIS, redis_rates),
)
"""In the order in which a guest does them."""
