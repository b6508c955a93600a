"""What Python writes, the Rust side reads: the cluster file and the engine's tunables."""

from __future__ import annotations

import json

import pytest

import leviathan
from leviathan import _native
from leviathan.model import Engine, Machine, NodeShare
from leviathan.vm.cluster import MASK, Identity, cluster_file, masked, secret_file


def cluster(machine: Machine, **changes: object) -> dict[str, object]:
    workers = [f"127.0.0.1:{4000 + node}" for node in range(1, len(machine.shares()))]
    whole = cluster_file(machine, Identity.new(), workers, pooled=machine.pool.enabled, events="/e", report="/r")
    return whole | changes


@pytest.mark.parametrize(
    "machine",
    [
        Machine(),
        Machine(nodes=1, cpus=1),
        Machine(nodes=16, cpus=32, memory="4G", encrypt="off", pool={"enabled": False}),
        Machine(nodes=[NodeShare(cpus=1, memory="512M"), NodeShare(cpus=3, memory="3G", name="big")]),
        Machine(
            engine=Engine(
                promote_after=5, hold_us=0, stripes=3, zero_block=1, read_ahead=0, prefetch=0, migratory=False
            )
        ),
        Machine(engine=Engine(huge_pages=False, demote_after_ms=0)),
    ],
)
def test_the_head_can_read_every_cluster_file(machine: Machine) -> None:
    _native.check_cluster(json.dumps(cluster(machine)))


@pytest.mark.parametrize("change", [{"nodes": 3}, {"surprise": 1}, {"encrypt": "maybe"}, {"pool": {"path": None}}])
def test_a_cluster_file_that_the_head_cannot_read_is_refused_with_its_place(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="line 1 column"):
        _native.check_cluster(json.dumps(cluster(Machine(), **change)))


def test_tunables_have_the_engine_s_names() -> None:
    # The limit of a node's memory is a field of the machine: it is checked against the guest's memory.
    assert set(json.loads(_native.engine_defaults())) - {"node_memory"} == set(Engine.model_fields)


def test_the_head_comes_first_and_has_no_address() -> None:
    nodes = cluster(Machine(cpus=4, nodes=3))["nodes"]
    assert nodes == [
        {"name": "node0", "address": None, "vcpus": [0, 1]},
        {"name": "node1", "address": "127.0.0.1:4001", "vcpus": [2]},
        {"name": "node2", "address": "127.0.0.1:4002", "vcpus": [3]},
    ]


def test_identities_are_new_and_hide_their_secret() -> None:
    one, other = Identity.new(), Identity.new()
    assert one.secret != other.secret
    assert (len(one.run_id), len(one.secret)) == (32, 64)
    assert one.secret not in repr(one)
    whole = cluster_file(Machine(nodes=1), one, [], pooled=True, events="", report="")
    assert one.secret not in json.dumps(masked(whole))
    assert masked(whole)["secret"] == MASK
    assert json.loads(secret_file(one, 3)) == {"run_id": one.run_id, "secret": one.secret, "node": 3}


def test_one_version() -> None:
    assert leviathan.__version__ == _native.version()
