"""The guest's platform: CPU model and features, NUMA nodes."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from leviathan.model.base import Options, Strict
from leviathan.model.sizes import Size

__all__ = ["Accel", "Arch", "Cpu", "CpuField", "MachineType", "NumaNode", "cpu_numbers", "parse_cpu"]

Arch = Literal["x86_64", "aarch64"]
MachineType = Literal["q35", "pc", "virt"]
Accel = Literal["auto", "kvm", "tcg"]

_CPUS = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")


class Cpu(Strict):
    """The CPU that the guest sees."""

    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    """QEMU's name of the model; left out: ``host`` under KVM, ``max`` under TCG."""
    features: Options = {}
    """Features turned on and off by QEMU's names: ``hypervisor = false``, ``phys-bits = 40``."""
    sockets: Annotated[int, Field(ge=1)] | None = None
    cores: Annotated[int, Field(ge=1)] | None = None
    threads: Annotated[int, Field(ge=1)] | None = None


def parse_cpu(text: str) -> dict[str, Any]:
    """``"max,hypervisor=off,+avx"``, as QEMU's ``-cpu`` takes it, as the table of ``Cpu``."""
    model, *words = text.split(",")
    features: dict[str, bool | str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals and name[:1] in ("+", "-"):
            features[name[1:]] = name[0] == "+"
        elif not equals:
            features[name] = True
        else:
            features[name] = {"on": True, "off": False}.get(value, value)
    return {"model": model, "features": features}


def _cpu(value: Any) -> Any:
    return parse_cpu(value) if isinstance(value, str) else value


CpuField = Annotated[Cpu, BeforeValidator(_cpu, json_schema_input_type=str | Cpu)]


def cpu_numbers(text: str) -> list[int]:
    """``"0-2,5"`` as numbers, in ascending order. Raises ``ValueError``."""
    if not text:
        return []
    if _CPUS.fullmatch(text) is None:
        raise ValueError(f"{text!r} does not list CPUs; write them as 0-3 or 0,2,4-5")
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if int(last or first) < int(first) or int(last or first) > 4095:
            raise ValueError(f"{part} is no range of CPUs; write the smaller number first")
        numbers += range(int(first), int(last or first) + 1)
    return sorted(numbers)


def _cpu_list(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        cpu_numbers(value)
    return value


class NumaNode(Strict):
    """One NUMA node of a machine that runs on one host."""

    cpus: Annotated[str, BeforeValidator(_cpu_list, json_schema_input_type=str | int)] = ""
    """Its CPUs: ``"0-1"``; left out: a node without CPUs."""
    memory: Size | None = None
    """Its part of the machine's memory; left out: a node without memory."""
    distances: list[Annotated[int, Field(ge=10, le=255)]] = []
    """From this node to nodes 0, 1, 2…: 10 to itself. Left out: QEMU's (10 and 20)."""
