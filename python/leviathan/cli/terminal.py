"""One terminal of a giant VM: the head's, which has the guest's console, or another node's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from leviathan.cli.run import run_console
from leviathan.cmdline.giant import Part
from leviathan.errors import LeviathanError
from leviathan.model import Machine
from leviathan.terminals.hello import Hello
from leviathan.terminals.hosts import (
    await_workers,
    check_address,
    check_kvm,
    read_identity,
    serve_node,
    worker_addresses,
)
from leviathan.terminals.post import Post
from leviathan.terminals.worker import hold_node
from leviathan.vm.life import Elsewhere, Life
from leviathan.vm.progress import Progress
from leviathan.vm.signals import stop_signals

__all__ = ["run_terminal"]


class _Shared(Progress):
    """Progress that the other terminals see, too."""

    post: Post | None = None

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """A named step around a block."""
        self._tell(f"{name} …")
        with super().step(name):
            yield
        self._tell(f"{name}: {self.steps[-1].seconds:.1f} s")

    def _tell(self, text: str) -> None:
        if self.post is not None:
            self.post.tell(text)


def run_terminal(
    machine: Machine, part: Part, *, secret: Path | None = None, timeout: float | None = None, quiet: bool = False
) -> int:
    """Runs this node's part until the VM ends. Returns the exit code; raises a ``LeviathanError``."""
    if not part.one_host:
        return _on_several_hosts(machine, part, secret, timeout=timeout, quiet=quiet)
    if secret is not None:
        _say("--secret-file is not needed: all nodes are on this machine")
    check_address(part)
    mine = Hello.mine(part, machine.memory)
    if part.node != 0:
        with stop_signals():
            return hold_node(mine, _say, timeout=timeout)
    progress = _Shared(None if quiet else sys.stderr)
    with stop_signals(), Post(mine, progress.note) as post:
        for node in post.missing():
            start = node * part.cpus
            progress.note(f"node {node} is missing: start it in another terminal, the same command with start={start}")
        post.wait_for_all()
        progress.post = post
        try:
            code = run_console(machine, timeout=timeout, progress=progress, begin=lambda life: _watch(post, life))
        except LeviathanError as error:
            post.finish(error.exit_code, error.message, error.hint)
            raise
        post.finish(code, "the VM has ended")
        return code


def _on_several_hosts(machine: Machine, part: Part, secret: Path | None, *, timeout: float | None, quiet: bool) -> int:
    identity = read_identity(secret, part)
    check_address(part)
    check_kvm(part)
    with stop_signals():
        if part.node != 0:
            return serve_node(part, identity, _say)
        await_workers(part, _say, timeout)
        elsewhere = Elsewhere(identity, worker_addresses(part))
        return run_console(machine, timeout=timeout, quiet=quiet, elsewhere=elsewhere)


def _watch(post: Post, life: Life) -> None:
    """From now on a terminal that goes takes its node along."""
    post.on_lost = life.lose_node
    # Those that went in between.
    for node in post.missing():
        life.lose_node(node, "its terminal ended")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
