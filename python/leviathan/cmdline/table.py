"""The options of QEMU's system emulators, old and new, and which of them take a value.

From ``qemu-options.hx``; the removed ones from ``docs/about/removed-features.rst``.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ALIASES", "FLAGS", "REMOVED", "VALUED", "Removed", "names"]

ALIASES = {"M": "machine", "h": "help", "nouserconfig": "no-user-config", "gdb-stub": "gdb", "net-nic": "net"}

FLAGS = frozenset(
    """
    help version mem-prealloc audio-help snapshot usb nographic portrait full-screen win2k-hack no-fd-bootchk
    S s enable-kvm xen-attach xen-domid-restrict no-reboot no-shutdown daemonize only-migratable nodefaults
    no-user-config preconfig async-teardown enable-sync-profile semihosting perfmap jitdump
    """.split()  # noqa: SIM905 (read as words)
)

VALUED = frozenset(
    """
    machine cpu accel smp numa add-fd set global boot m mem-path k audio audiodev device name uuid fda fdb hda hdb hdc
    hdd cdrom blockdev drive mtdblock sd fsdev virtfs iscsi usbdevice display spice rotate vga g vnc acpitable smbios
    netdev nic net chardev tpmdev bios pflash kernel append initrd dtb shim compat fw_cfg serial parallel monitor qmp
    qmp-pretty mon debugcon pidfile overcommit gdb d D dfilter seed L xen-domid action loadvm option-rom rtc icount
    watchdog-action echr incoming sandbox readconfig trace plugin msg dump-vmstate object run-with semihosting-config
    prom-env qtest qtest-log
    """.split()  # noqa: SIM905 (read as words)
)


@dataclass(frozen=True, slots=True)
class Removed:
    """An option that QEMU no longer has."""

    since: str
    """The QEMU that lacks it first; "" if no released one ever had it."""
    valued: bool
    into: tuple[str, ...] | None
    """What to say instead; ``{}`` stands for the value. ``()``: nothing, it has no effect. ``None``: see ``why``."""
    why: str = ""


REMOVED = {
    "cxl-fixed-memory-window": Removed(
        "7.1", True, ("-machine", "{}"), "the window is a property of the machine: -M cxl-fmw.N.…"
    ),
    "no-acpi": Removed("9.0", False, ("-machine", "acpi=off")),
    "no-hpet": Removed("9.0", False, ("-machine", "hpet=off")),
    "no-kvm": Removed("5.2", False, ("-accel", "tcg")),
    "enable-hax": Removed("8.2", False, (), "HAXM is gone"),
    "no-kvm-irqchip": Removed("3.0", False, ("-machine", "kernel-irqchip=off")),
    "no-kvm-pit": Removed("2.12", False, (), "it had no effect"),
    "no-kvm-pit-reinjection": Removed("3.0", False, ("-global", "kvm-pit.lost_tick_policy=discard")),
    "tdf": Removed("2.12", False, (), "it had no effect"),
    "sdl": Removed("7.1", False, ("-display", "sdl")),
    "curses": Removed("7.1", False, ("-display", "curses")),
    "no-frame": Removed("2.12", False, (), "windows always have their frame"),
    "no-quit": Removed("7.0", False, ("-display", "default,window-close=off")),
    "alt-grab": Removed("7.1", False, ("-display", "sdl,grab-mod=lshift-lctrl-lalt")),
    "ctrl-grab": Removed("7.1", False, ("-display", "sdl,grab-mod=rctrl")),
    "show-cursor": Removed("6.0", False, ("-display", "default,show-cursor=on")),
    "std-vga": Removed("2.0", False, ("-vga", "std")),
    "cirrusvga": Removed("2.0", False, ("-vga", "cirrus")),
    "soundhw": Removed("7.1", True, ("-audio", "none,model={}"), "sound cards are devices, with -audio or -device"),
    "watchdog": Removed("7.2", True, ("-device", "{}")),
    "balloon": Removed("3.1", True, ("-device", "virtio-balloon")),
    "localtime": Removed("3.1", False, ("-rtc", "base=localtime")),
    "startdate": Removed("3.1", True, ("-rtc", "base={}")),
    "rtc-td-hack": Removed("3.1", False, ("-rtc", "driftfix=slew")),
    "nodefconfig": Removed("3.1", False, ("-no-user-config",)),
    "redir": Removed("3.1", True, None, "write -nic user,hostfwd=PROTOCOL:HOST:PORT-GUEST:PORT"),
    "tftp": Removed("3.1", True, ("-nic", "user,tftp={}")),
    "smb": Removed("3.1", True, ("-nic", "user,smb={}")),
    "bootp": Removed("3.1", True, ("-nic", "user,bootp={}")),
    "hdachs": Removed("2.12", True, None, "give the disk as -device ide-hd,drive=…,cyls=…,heads=…,secs=…"),
    "realtime": Removed("6.0", True, None, "write -overcommit mem-lock=on"),
    "tb-size": Removed("6.0", True, ("-accel", "tcg,tb-size={}")),
    "enable-fips": Removed("7.1", False, (), "the crypto library decides"),
    "writeconfig": Removed("7.1", True, None, "`lev import` writes a machine file"),
    "chroot": Removed("9.0", True, ("-run-with", "chroot={}")),
    "runas": Removed("10.0", True, ("-run-with", "user={}")),
    "async-teardown": Removed("9.0", False, ("-run-with", "async-teardown=on")),
    "singlestep": Removed("9.0", False, ("-accel", "tcg,one-insn-per-tb=on")),
    "old-param": Removed("10.2", False, (), "no current board needs it"),
    "audio-help": Removed("8.2", False, None, "see -audio help"),
    "portrait": Removed("9.2", False, (), "the boards that it was for are gone"),
    "rotate": Removed("9.2", True, (), "the boards that it was for are gone"),
    "local-cpu": Removed("", True, None, "GiantVM's QEMU alone had it"),
    "shm-path": Removed("", True, None, "GiantVM's QEMU alone had it"),
    "node-list": Removed("", True, None, "GiantVM's QEMU alone had it"),
}
"""Removed before a QEMU that we run (7.2), or in one of those since: both are brought to the form that all understand.
GiantVM's own are read by ``giant``."""


def names() -> frozenset[str]:
    """All of them."""
    return FLAGS | VALUED | frozenset(REMOVED) | frozenset(ALIASES)
