"""Types of the compiled module; the code is ``crates/native``."""

from types import TracebackType
from typing import Self, final

__all__ = [
    "Region",
    "Seat",
    "check_cluster",
    "engine_defaults",
    "measure_trace",
    "merge_traces",
    "read_trace",
    "replay_trace",
    "simulate",
    "summarize_trace",
    "version",
]

def version() -> str:
    """Version of the workspace that the module was built from."""

def check_cluster(text: str) -> None:
    """Raises ``ValueError`` (with line and column) if the head could not read this cluster description."""

def engine_defaults() -> str:
    """The engine's tunables with their defaults, as JSON."""

def simulate(scenario: str) -> str:
    """Runs a scenario (``Scenario`` of ``crates/sim``, JSON) through the simulator; its ``Outcome`` as JSON.

    Raises ``ValueError`` with the field that is wrong.
    """

def merge_traces(parts: list[bytes]) -> bytes:
    """Joins the traces of the nodes of one run into one, in the order of the head's clock.

    Raises ``ValueError``: the number of the trace, and the offset at which it is wrong.
    """

def read_trace(data: bytes) -> tuple[str, bytes]:
    """What a trace says of itself, as JSON, and its events in the order of their time, 24 bytes each.

    ``leviathan.trace.Trace`` is easier to use. Raises ``ValueError`` with the offset at which it is wrong.
    """

def measure_trace(data: bytes) -> str:
    """How its program shares memory (``Mix`` of ``crates/sim``), as JSON. Raises ``ValueError``."""

def replay_trace(data: bytes, options: str) -> str:
    """Drives the simulator with a trace; ``options``: ``Replay`` of ``crates/sim``, JSON; its ``Outcome`` as JSON.

    Raises ``ValueError`` with the offset or the field that is wrong.
    """

def summarize_trace(data: bytes, hottest: int) -> str:
    """What is in a trace (``Summary`` of ``crates/trace``), as JSON; the ``hottest`` pages are named.

    Raises ``ValueError`` with the offset at which it is wrong.
    """

@final
class Seat:
    """A place in a region that is about to be made: this process listens there for the nodes before it."""

    def __new__(cls, address: str) -> Self:
        """Listens at ``address`` (``HOST:PORT``; port 0: any free one). Raises ``StartError``."""

    @property
    def address(self) -> str:
        """Where it listens, ``HOST:PORT``."""

    def join(self, cluster: str, node: int, timeout: float) -> Region:
        """Joins as ``node`` of the region that ``cluster`` (JSON) describes; ``leviathan.dsm.join`` is easier to use.

        Raises ``ValueError`` if the description cannot be read or the seat was used, else as ``leviathan.dsm.join``.
        """

@final
class Region:
    """Memory that several processes share: a writable buffer of bytes, coherent page by page.

    ``memoryview(region)`` and ``numpy.frombuffer(region, dtype)`` see it without a copy; it is zero at first. A
    touch may wait for another node, with the interpreter's lock held as for any access of Python; methods that
    wait release it.

    After ``close``, and when a node is lost, the memory is inaccessible: every call raises, and *touching* a view that
    is still there ends the process with a segmentation fault, because what it would read would be wrong. A child
    made by ``fork`` has no access either.
    """

    @property
    def node(self) -> int:
        """Number of this process among the nodes, from 0."""

    @property
    def nodes(self) -> int:
        """How many nodes there are."""

    def __len__(self) -> int:
        """Bytes, whole pages."""

    def __buffer__(self, flags: int, /) -> memoryview:
        """The memory as bytes. Raises ``BufferError`` after ``close`` or a loss."""

    def barrier(self, timeout: float = 60.0) -> None:
        """Waits until every node has called this as often; one thread of a process at a time.

        What anybody wrote before, everybody sees after. Raises ``NodeLost``, ``TimeOver`` naming who is missing.
        """

    def load(self, offset: int) -> int:
        """The 64-bit word at byte ``offset``, a multiple of 8. Raises ``IndexError``."""

    def store(self, offset: int, value: int) -> None:
        """Sets the 64-bit word at byte ``offset`` to ``value``, 0 to 2^64 - 1."""

    def add(self, offset: int, value: int) -> int:
        """Adds to the word at byte ``offset``, modulo 2^64, as one step between all nodes; what it was before."""

    def compare_exchange(self, offset: int, expected: int, value: int) -> int:
        """Sets the word at byte ``offset`` to ``value`` if it is ``expected``, as one step; what it was before."""

    def statistics(self) -> dict[str, int]:
        """The engine's counters in this process, and bounds of p50 and p99 of the faults that needed another node.

        ``faults_…`` by kind, ``pages_…``, ``frames_…``, ``bytes_…``; ``fault_p50_ns``, ``fault_p99_ns``: 0 if none.
        """

    def close(self, timeout: float = 60.0) -> None:
        """Leaves: waits until all nodes do. Raises ``NodeLost``, ``TimeOver``; the region is left all the same."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Closes after a block that ended in order; after an exception leaves at once: a loss for the others."""
