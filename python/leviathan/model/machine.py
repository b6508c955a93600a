"""The description of one giant VM: what a user writes in TOML or Python, checked before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from leviathan.model.base import Options, Strict
from leviathan.model.cxl import Cxl
from leviathan.model.devices import Disk, Display, Network
from leviathan.model.platform import Accel, Arch, Cpu, CpuField, MachineType, NumaNode
from leviathan.model.sizes import GIB, MIB, Size, format_size, parse_size
from leviathan.model.switches import Switch

__all__ = ["MAX_NODES", "Engine", "LabOptions", "Machine", "NodeShare", "Pool", "Timeouts"]

MAX_NODES = 128
"""Each is a NUMA node of the guest, of which QEMU has as many (``MAX_NODES`` of its ``numa.h``)."""
MAX_LAB_MACHINES = 16
"""A cable between every two."""
MAX_CPUS = 254
"""Local APIC ids are 8 bits wide (xAPIC) and 255 means everybody."""
MIN_MEMORY = 128 * MIB
MIN_SHARE = 32 * MIB
SHARE_UNIT = 2 * MIB
"""Shares are cut at the size of a large page."""
LIMIT_MARGIN = 16
"""Limits add up to the guest's memory and one part in so many: engines stop filling a node below its limit."""
MAX_MEMORY = 960 * GIB
"""Above this, QEMU moves memory around the HyperTransport hole of AMD's address map."""


class NodeShare(Strict):
    """What one node contributes."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,30}$")] | None = None
    cpus: Annotated[int, Field(ge=1, le=MAX_CPUS)]
    memory: Size

    @field_validator("memory")
    @classmethod
    def _whole_large_pages(cls, memory: int) -> int:
        if memory % SHARE_UNIT or memory < MIN_SHARE:
            raise ValueError(f"a node's share is a multiple of 2M and at least {format_size(MIN_SHARE)}")
        return memory


class Pool(Strict):
    """Memory that all nodes map, for pages whose ownership bounces."""

    enabled: Annotated[bool, Switch(off=False, counter="promotions")] = True
    size: Size = 64 * MIB
    path: Annotated[str, Field(pattern=r"^/[^\n]+$")] | None = None
    """A file or DAX device that every node's machine has under this name: memory that they truly share, such as a
    region of CXL memory (``/dev/dax0.0``). Left out: the head makes one, for nodes on one machine."""


class Engine(Strict):
    """Tunables of the coherence engine; ``None`` leaves the engine's default.

    What switches a part of it off bears a ``Switch``: `lev bench guest` measures what each of them gains.
    """

    promote_after: Annotated[int, Field(ge=1)] | None = None
    """Move a page into the pool after so many ownership changes."""
    demote_after_ms: Annotated[int, Field(ge=0, le=3_600_000), Switch(off=0, counter="pages_demoted")] | None = None
    """Shortest time that a page stays in the pool, milliseconds, while others find no slot; 0: pages never leave it."""
    hold_us: Annotated[int, Field(ge=0, le=1_000_000), Switch(off=0, counter="holds")] | None = None
    """Shortest time that a granted page stays, microseconds."""
    stripes: Annotated[int, Field(ge=1, le=64)] | None = None
    """userfaultfd contexts that guest memory is striped over."""
    zero_block: Annotated[int, Field(ge=1, le=1 << 18), Switch(off=1, counter="zero_range_pages")] | None = None
    """Largest zero-fill at once, pages."""
    read_ahead: Annotated[int, Field(ge=0, le=512), Switch(off=0, counter="read_ahead_sent")] | None = None
    """Most pages sent along with one that is read, while reads go on in order; 0: none."""
    prefetch: Annotated[int, Field(ge=0, le=64), Switch(off=0, counter="prefetched")] | None = None
    """Most pages asked for at once while faults run through memory; 0: only the faulting one."""
    huge_pages: Annotated[bool, Switch(off=False, counter="blocks_loosened")] | None = None
    """Blocks of 2 MiB that only their home has touched are left to the kernel, which can back them with huge pages."""
    migratory: Annotated[bool, Switch(off=False, counter="upgrades_saved")] | None = None
    """Who asks to read a page that its readers write next gets the right to write it at once."""


class Timeouts(Strict):
    """Limits of every wait, seconds."""

    lab: Annotated[float, Field(gt=0)] = 120
    """A lab machine boots and its agent answers."""
    workers: Annotated[float, Field(gt=0)] = 30
    """A worker listens."""
    ready: Annotated[float, Field(gt=0)] = 60
    """The head has connected all workers and QEMU runs the first instruction."""
    boot: Annotated[float, Field(gt=0)] = 300
    """The guest's init is up."""
    stop: Annotated[float, Field(gt=0)] = 20
    """QEMU ends after the guest powered off."""
    room: Annotated[float, Field(ge=0)] = 60
    """A guest that stands still because no node has room for its memory goes on; 0: however long it takes."""


class LabOptions(Strict):
    """Lab machines, for hosts without usable KVM."""

    machines: Annotated[int, Field(ge=1, le=MAX_LAB_MACHINES)] = 1
    """Lab VMs; 1 holds all nodes, else each node has its own."""
    cpus: Annotated[int, Field(ge=1, le=64)] | None = None
    memory: Size | None = None


def _number_or_shares(value: Any) -> str:
    return "shares" if isinstance(value, list) else "number"


Nodes = Annotated[
    Annotated[int, Field(ge=0, le=MAX_NODES), Tag("number")]
    | Annotated[list[NodeShare], Field(min_length=1, max_length=MAX_NODES), Tag("shares")],
    Discriminator(_number_or_shares),
]


class Machine(Strict):
    """One machine: a giant VM over ``nodes``, or a plain QEMU on this host (``nodes = 0``).

    ``nodes`` is a number (equal shares), a list of shares, or 0: stock QEMU alone, under KVM where it runs, else TCG.
    Left out, it is 2; 0 for machines with CXL and for those of another architecture.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,30}$")] = "leviathan"
    arch: Arch = "x86_64"
    """Architecture of the guest."""
    machine_type: MachineType = "q35"
    """QEMU's machine; left out: ``q35`` for x86_64, ``virt`` for aarch64."""
    machine_options: Options = {}
    """More properties of QEMU's ``-machine``."""
    accel: Accel = "auto"
    """``auto``: KVM where it runs guests of this architecture, else TCG. Giant VMs always run under KVM."""
    cpu: CpuField = Cpu()
    """Model and features: a table, or words as QEMU's ``-cpu`` takes them."""
    cpus: Annotated[int, Field(ge=1, le=MAX_CPUS)] = 4
    memory: Size = GIB
    memory_max: Size | None = None
    """With memory slots: up to how much memory may be plugged in. CXL does not need it."""
    memory_slots: Annotated[int, Field(ge=0, le=256)] = 0
    nodes: Nodes = 2
    node_memory: Size | None = None
    """Most guest memory that each node of a giant VM keeps resident; left out: no limit."""
    overcommit: bool = False
    """Let the nodes' limits be less than the guest's memory together: a guest that fills them stands still."""
    numa: list[NumaNode] = []
    """NUMA nodes of a plain machine; those of a giant VM follow its nodes."""
    boot: Literal["auto", "kernel", "firmware"] = "auto"
    """``auto``: from disk by firmware if there are disks and no kernel is given, else a kernel."""
    kernel: Path | None = None
    """A bzImage or Image; left out: the distribution's cloud kernel."""
    initrd: Path | None = None
    """An initramfs of the user's own; left out: ours, which can run commands."""
    append: str = ""
    """More words for the kernel's command line."""
    firmware: Path | None = None
    """Firmware image (UEFI); left out: SeaBIOS on x86_64, the distribution's UEFI on aarch64 where ACPI needs it."""
    firmware_variables: Path | None = None
    """UEFI's variables, a file of this machine's own: both are then flash devices."""
    acpi: bool = True
    """ACPI tables; without them there is no CXL."""
    gic_version: Annotated[
        Literal["auto", "2", "3", "4", "max", "host"],
        BeforeValidator(
            lambda value: str(value) if isinstance(value, int) else value, json_schema_input_type=str | int
        ),
    ] = "auto"
    """Interrupt controller of ``virt``; ``auto``: 3."""
    reboot: Literal["auto", "cold", "warm"] = "auto"
    """A guest's reboot: ``cold`` starts QEMU anew, ``warm`` resets it. ``auto``: cold with CXL."""
    add: Path | None = None
    """A folder whose files go into the guest's root."""
    programs: list[Path] = []
    """Programs of this system that the guest gets, with the libraries they need."""
    cxl: Cxl | None = None
    disks: list[Disk] = []
    networks: list[Network] = []
    display: Display = Display()
    serial: list[str] | None = None
    """Serial ports as QEMU's ``-serial`` takes them: ``"mon:stdio"``; left out: one on the terminal."""
    monitor: list[str] = []
    """Human monitors as QEMU's ``-monitor`` takes them: ``"telnet:127.0.0.1:4444,server,nowait"``."""
    qmp: list[str] = []
    """Machine monitors as QEMU's ``-qmp`` takes them."""
    default_devices: bool = False
    """QEMU's own default devices: a network card, a VGA card, a serial port and more."""
    qemu: str = ""
    """QEMU's name or path; left out: ``qemu-system-`` and the architecture."""
    qemu_args: list[str] = []
    """More arguments for QEMU, as they are, at the end."""
    on: Literal["auto", "native", "lab"] = "auto"
    encrypt: Literal["auto", "on", "off"] = "auto"
    numa_distance: Annotated[int, Field(ge=11, le=254)] = 20
    pool: Pool = Pool()
    engine: Engine = Engine()
    lab: LabOptions = LabOptions()
    timeouts: Timeouts = Timeouts()

    @model_validator(mode="before")
    @classmethod
    def _depending_defaults(cls, data: Any) -> Any:
        """Defaults that follow from other fields."""
        if not isinstance(data, dict):
            return data
        arch = data.get("arch", "x86_64")
        changes: dict[str, Any] = {}
        if "nodes" not in data and (data.get("cxl") is not None or arch != "x86_64"):
            changes["nodes"] = 0
        if not data.get("qemu") and isinstance(arch, str):
            changes["qemu"] = f"qemu-system-{arch}"
        if data.get("machine_type") is None:
            changes["machine_type"] = "virt" if arch == "aarch64" else "q35"
        return data | changes

    @model_validator(mode="before")
    @classmethod
    def _totals_from_shares(cls, data: Any) -> Any:
        """Totals that are not given are the shares' sums; wrong shares are reported by their own fields."""
        if not isinstance(data, dict) or not isinstance(data.get("nodes"), list) or not data["nodes"]:
            return data
        try:
            shares = [
                (share.cpus, share.memory)
                if isinstance(share, NodeShare)
                else (int(share["cpus"]), parse_size(share["memory"]))
                for share in data["nodes"]
            ]
        except (KeyError, TypeError, ValueError):
            return data
        totals = {"cpus": sum(cpus for cpus, _ in shares), "memory": sum(memory for _, memory in shares)}
        return totals | data

    @model_validator(mode="after")
    def _shares_add_up(self) -> Self:
        if not MIN_MEMORY <= self.memory <= MAX_MEMORY:
            limits = f"from {format_size(MIN_MEMORY)} to {format_size(MAX_MEMORY)}"
            raise ValueError(f"memory = {format_size(self.memory)}: a guest has {limits}")
        if isinstance(self.nodes, int):
            if self.nodes > self.cpus:
                raise ValueError(f"{self.cpus} CPUs cannot be shared by {self.nodes} nodes: each runs at least one")
            if self.nodes and self.memory // self.nodes < MIN_SHARE:
                shared = f"{format_size(self.memory)} over {self.nodes} nodes"
                raise ValueError(f"memory = {shared}: each holds at least {format_size(MIN_SHARE)}")
            if self.memory % SHARE_UNIT:
                raise ValueError(f"memory = {self.memory} bytes is not a multiple of 2M")
            return self
        cpus = sum(share.cpus for share in self.nodes)
        memory = sum(share.memory for share in self.nodes)
        if cpus != self.cpus:
            raise ValueError(f"cpus = {self.cpus}, but the nodes' shares add up to {cpus}")
        if memory != self.memory:
            raise ValueError(
                f"memory = {format_size(self.memory)}, but the nodes' shares add up to {format_size(memory)}"
            )
        names = [share.name or f"node{index}" for index, share in enumerate(self.nodes)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two nodes are called {twice[0]}")
        return self

    @model_validator(mode="after")
    def _limits_hold_the_memory(self) -> Self:
        """Together the nodes can keep all of the guest's memory, and have the margin that moving pages takes."""
        limit, count = self.node_memory, len(self.shares())
        if limit is None:
            return self
        if self.stock:
            raise ValueError("node_memory: there are no nodes (nodes = 0), so leave it out")
        if limit < MIN_SHARE:
            raise ValueError(f"node_memory = {format_size(limit)}: a node holds at least {format_size(MIN_SHARE)}")
        cxl = sum(device.capacity for device in self.cxl.memory) if self.cxl else 0
        least = -(-(self.memory + cxl) * (LIMIT_MARGIN + 1) // LIMIT_MARGIN // count)
        if limit < least and not self.overcommit:
            needed = format_size(-(-least // SHARE_UNIT) * SHARE_UNIT)
            where = f"{count} node{'s' if count > 1 else ''}"
            raise ValueError(
                f"node_memory = {format_size(limit)} on {where} is too little for memory = {format_size(self.memory)}"
                f"{f' with {format_size(cxl)} of CXL' if cxl else ''} "
                f"and a sixteenth more, which moving pages takes: each needs {needed}"
            )
        return self

    @property
    def stock(self) -> bool:
        """True for the baseline: no facade, no workers."""
        return self.nodes == 0

    def shares(self) -> list[NodeShare]:
        """Every node's share, the head first, all with a name. The baseline has one share, the whole machine."""
        if not isinstance(self.nodes, int):
            shares = self.nodes
            return [s.model_copy(update={"name": s.name or f"node{i}"}) for i, s in enumerate(shares)]
        count = max(self.nodes, 1)
        each, more = divmod(self.cpus, count)
        memory = self.memory // count // SHARE_UNIT * SHARE_UNIT
        rest = self.memory - memory * count
        return [
            NodeShare(
                name=f"node{index}", cpus=each + (1 if index < more else 0), memory=memory + (rest if index == 0 else 0)
            )
            for index in range(count)
        ]
