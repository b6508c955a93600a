"""Boots a machine over two nodes and runs commands in it: python examples/commands.py [NODES]."""

from __future__ import annotations

import sys

import leviathan


def main(nodes: int) -> int:
    machine = leviathan.Machine(cpus=max(nodes, 2), memory="512M", nodes=nodes)
    with leviathan.run(machine, progress=True) as vm:
        print("CPUs:", vm.run("nproc", check=True).stdout.strip())
        print("kernel:", vm.run("uname -r", check=True).stdout.strip())
        result = vm.run("lev-guest counters --rounds 20000", timeout=300)
        print(result.stdout, end="")
    return result.exit_code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 2))
