"""What machines boot: kernels, the guest's initramfs and the lab machine's."""
