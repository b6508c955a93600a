"""What makes an installed system a good guest of several nodes: kernel words from the firmware's tables, late CPUs.

The head cannot reach the command line of a kernel that boots from its own disk. It hands its words over as an SMBIOS
string instead (`leviathan.qemu.command.HANDED_WORDS`), GRUB adds them to its own, and a unit of the system's starts the
CPUs that they leave for later. Under any other machine there is no such string, and nothing changes.
"""

from __future__ import annotations

from leviathan.qemu.command import HANDED_WORDS

__all__ = ["GRUB_SCRIPT", "GRUB_VARIABLE", "LATE_CPUS", "LATE_CPUS_UNIT"]

GRUB_VARIABLE = "lev_words"
GRUB_SCRIPT = f"""\
insmod smbios
insmod regexp
# OEM strings: the byte at offset 4 is their number, and so names the last one.
if smbios --type 11 --get-string 4 --set lev_handed; then
    regexp --set 1:{GRUB_VARIABLE} '^{HANDED_WORDS.replace(".", "[.]")}(.*)$' "$lev_handed"
fi
"""
"""Stands in front of GRUB's menu entries, whose kernel lines use the variable; empty if nothing was handed over.

Without such a string GRUB says so. The script therefore comes first of all, when only the screen is there, which the
menu clears.
"""
LATE_CPUS_UNIT = "leviathan-late-cpus.service"
LATE_CPUS = r"""[Unit]
Description=Start the CPUs that the boot left for later
ConditionKernelCommandLine=lev.cpus=late
After=basic.target
Before=systemd-user-sessions.service

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'left=600; while :; do missing=; for cpu in /sys/devices/system/cpu/cpu*/online; do \
    read -r state < $$cpu; [ $$state = 1 ] || echo 1 2>/dev/null > $$cpu || missing=$$cpu; done; \
    [ $$missing ] || exit 0; [ $$((left -= 1)) -gt 0 ] || { echo $$missing stays 0 >&2; exit 1; }; sleep 1; done'
"""
"""Before anybody logs in, so that nobody sees a machine with half of its CPUs.

Linux starts no CPU while a driver looks at a PCI device (`pci_call_probe` in drivers/pci/pci-driver.c: EBUSY), which
takes many seconds on slow nodes, and gives a CPU up that does not come within 10 s; asked again, it does both. So this
asks for ten minutes.
"""
