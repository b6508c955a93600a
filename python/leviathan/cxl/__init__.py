"""CXL from the outside: what a running guest has made of its topology, and changing it.

``topology`` and ``parse`` hold what ``cxl``, ``ndctl`` and ``daxctl`` say in the guest, joined with QEMU's names;
``order`` knows which order of devices an interleave set needs; ``tree`` and ``picture`` show it; ``guest``,
``actions``, ``inject`` and ``hotplug`` drive a running VM.
"""
