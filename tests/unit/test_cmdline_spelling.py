"""Fields of a description, in the words of a command line."""

from __future__ import annotations

import pytest

from leviathan.cmdline.spelling import OPTIONS, spelled
from leviathan.model import Machine, make_machine

MACHINE = make_machine(
    {
        "schema": 1,
        "cxl": {
            "memory": [{"name": "d0", "persistent": "256M"}, {"volatile": "256M"}],
            "host_bridges": [{"name": "hb", "root_ports": ["rp0", "rp1"]}],
            "switches": [{"name": "us", "root_port": "rp1", "ports": [{"name": "dp0"}, {}]}],
            "windows": [{"targets": ["hb"]}],
        },
    }
)


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("machine_type", "-machine"),
        ("memory_max", "-m maxmem="),
        ("cxl.windows.0.targets.1", "cxl-fmw.0.targets.1"),
        ("cxl.windows.2.granularity", "cxl-fmw.2.interleave-granularity"),
        ("cxl.host_bridges.0.bus", "bus_nr= of -device pxb-cxl,id=hb"),
        ("cxl.host_bridges.0.root_ports", "-device pxb-cxl,id=hb"),
        ("cxl.host_bridges.0.root_ports.1.slot", "slot= of -device cxl-rp,id=rp1"),
        ("cxl.switches.0.root_port", "bus= of -device cxl-upstream,id=us"),
        ("cxl.switches.0.ports.0.port", "port= of -device cxl-downstream,id=dp0"),
        ("cxl.memory.0", "-device cxl-type3,id=d0"),
        ("cxl.memory.0.persistent.file", "persistent-memdev= of -device cxl-type3,id=d0"),
        # Without an id, or beyond what is there, it has no name of its own.
        ("cxl.memory.1.volatile", None),
        ("cxl.memory.7.volatile", None),
        ("cxl.switches.0.ports.1.port", None),
        ("cxl.windows", None),
        ("disks.0.file", None),
    ],
)
def test_a_field_has_the_option_that_says_it(field: str, words: str | None) -> None:
    assert spelled(MACHINE, field) == words


def test_every_field_that_has_an_option_is_a_field() -> None:
    for field in OPTIONS:
        here: object = Machine()
        for name in field.split("."):
            here = getattr(here, name)


def test_a_machine_without_cxl_has_none_of_its_words() -> None:
    assert spelled(Machine(), "cxl.memory.0.port") is None
