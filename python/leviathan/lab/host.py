"""A lab machine as a place where node programs run."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from leviathan.errors import LaunchError
from leviathan.images.labimage import BIN_DIR
from leviathan.lab.channel import AgentError, ChannelLost, LabProcess, Reply
from leviathan.lab.machine import LabMachine
from leviathan.launch.host import HostFacts, Sink

__all__ = ["LabHost"]

PROBE_SECONDS = 30.0
TRANSFER_SECONDS = 120.0


class LabHost:
    """Implements ``launch.host.Host`` through the agent in a lab machine."""

    def __init__(self, machine: LabMachine, address: str, qemu: str | None) -> None:
        self.name = machine.name
        self.bin_dir = BIN_DIR
        self.address = address
        self.machine = machine
        self.qemu = qemu
        """Path of QEMU in the machine."""
        self._info: Reply | None = None
        self._facts: HostFacts | None = None
        self._place: tuple[str, ...] = ()

    def on_cpus(self, cpus: Sequence[int]) -> LabHost:
        """The same machine, as a place whose programs stay on some of its CPUs."""
        host = copy.copy(self)
        host._place = ("taskset", "-c", ",".join(map(str, cpus)))
        return host

    @property
    def shared_pool(self) -> str | None:
        """File in the machine to map for the memory that all lab machines share; ``None`` without one."""
        path = self.info().get("shared_pool")
        return str(path) if path else None

    def info(self) -> Reply:
        """What the agent says about its machine; asked once."""
        if self._info is None:
            self._info = self.machine.channel.call("info")["info"]
        return self._info

    def facts(self) -> HostFacts:
        """What the machine can do: ``lev-node probe`` run there, else whether the devices open."""
        if self._facts is None:
            info = self.info()
            found = HostFacts(
                kvm=info.get("kvm"),
                userfaultfd=info.get("userfaultfd"),
                cpus=int(info["cpus"]),
                memory_free=int(info["memory_free"]),
                tsc_khz=0,
                cpu_vendor=str(info["cpu_vendor"]),
                kernel=str(info["kernel"]),
            )
            self._facts = self._probe(found)
        return self._facts

    def _probe(self, opened: HostFacts) -> HostFacts:
        out: list[bytes] = []
        err: list[bytes] = []
        try:
            process = self.spawn([f"{self.bin_dir}/lev-node", "probe"], stdout=out.append, stderr=err.append)
        except ChannelLost:
            raise
        except AgentError:
            # No lev-node in this machine's image.
            return opened
        code = process.wait(PROBE_SECONDS)
        try:
            data = json.loads(b"".join(out))
            return replace(
                opened, kvm=data["kvm"], userfaultfd=data["userfaultfd"], tsc_khz=int(data.get("tsc_khz") or 0)
            )
        except (ValueError, KeyError, TypeError) as error:
            said = b"".join(err or out).decode(errors="replace").strip()[-400:]
            text = f"{self.name}: `lev-node probe` ended with {code} and no usable answer: {said or error}"
            raise LaunchError(text) from error

    def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdout: Sink | None = None,
        stderr: Sink | None = None,
        stdin: bool = False,
        pty: tuple[int, int] | None = None,
    ) -> LabProcess:
        """Starts a program. With ``pty`` (rows, columns) it has a terminal, whose bytes go to ``stdout``, raw."""
        return self.machine.channel.spawn([*self._place, *argv], env or {}, stdout, stderr, stdin, pty)

    def put(self, path: str, data: bytes, mode: int = 0o600) -> None:
        """Writes a file, folders included."""
        self.machine.channel.put(path, data, mode, TRANSFER_SECONDS)

    def get(self, path: str) -> bytes:
        """Contents of a file."""
        return self.machine.channel.get(path, TRANSFER_SECONDS)

    def close(self) -> None:
        """Ends every program started here and removes what was put there; the machine goes on."""
        if self.machine.running:
            try:
                self.machine.channel.call("clear")
            except ChannelLost:
                return
