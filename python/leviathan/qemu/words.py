"""Words of a QEMU command line: ``driver,key=value,…`` with QEMU's own quoting."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["escape", "join", "on_off", "option"]


def escape(value: object) -> str:
    """A value within ``key=value,…``: commas are doubled."""
    return str(value).replace(",", ",,")


def on_off(value: object) -> str:
    """A value as QEMU writes it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return escape(value)


def join(driver: str, properties: Mapping[str, object | None], more: Mapping[str, object] | None = None) -> str:
    """``driver,key=value,…``; properties that are ``None`` are left out; ``more`` are the description's ``options``."""
    parts = [driver] if driver else []
    parts += [f"{key}={on_off(value)}" for key, value in properties.items() if value is not None]
    parts += [f"{key}={on_off(value)}" for key, value in (more or {}).items()]
    return ",".join(parts)


def option(
    flag: str, driver: str, properties: Mapping[str, object | None], more: Mapping[str, object] | None = None
) -> list[str]:
    """Two arguments: ``-device driver,key=value,…``."""
    return [flag, join(driver, properties, more)]
