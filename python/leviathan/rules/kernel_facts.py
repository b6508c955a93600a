"""What a kernel's files tell about it."""

from __future__ import annotations

import re
from pathlib import Path

from leviathan.rules.subject import KernelFacts

__all__ = ["kernel_facts", "parse_config", "tick_hz"]

_SETTING = re.compile(r"^CONFIG_(\w+)=(.*)$", re.MULTILINE)


def parse_config(text: str) -> dict[str, str]:
    """A kernel configuration as a table without ``CONFIG_``; strings lose their quotes."""
    return {name: value.strip('"') for name, value in _SETTING.findall(text)}


def kernel_facts(release: str, image: Path | None = None) -> KernelFacts:
    """Facts of a kernel, with the configuration that distributions put beside its image.

    ``vmlinuz-RELEASE`` tells a release, too. A kernel built from a tree has its configuration at the top: ``.config``.
    """
    release = release.removeprefix("vmlinuz-")
    if image is None:
        return KernelFacts(release)
    beside = [image.parent / f"config-{release}", image.with_name(image.name.replace("vmlinuz", "config"))]
    # arch/x86/boot/bzImage, arch/arm64/boot/Image
    beside += [image.resolve().parents[3] / ".config"] if len(image.resolve().parents) > 3 else []
    for path in beside:
        if path != image and path.is_file():
            try:
                return KernelFacts(release, parse_config(path.read_text(encoding="utf-8", errors="replace")))
            except OSError:
                continue
    return KernelFacts(release)


def tick_hz(release: str, image: Path | None) -> int:
    """How often the kernel's clock ticks, CONFIG_HZ; 0: its configuration is not at hand."""
    rate = (kernel_facts(release, image).config or {}).get("HZ", "")
    return int(rate) if rate.isdecimal() else 0
