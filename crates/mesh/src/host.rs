//! Facts about the host that both head and worker need.

use lev_kvmabi::{ioctl, os};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Rate of the host's time-stamp counter as KVM knows it, kHz.
#[must_use]
pub fn tsc_khz() -> Option<u32> {
    let device = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .ok()?;
    // SAFETY: CREATE_VM and CREATE_VCPU take numbers and give new descriptors; GET_TSC_KHZ takes nothing.
    unsafe {
        let vm = OwnedFd::from_raw_fd(os::ioctl(device.as_raw_fd(), ioctl::CREATE_VM, 0).ok()?);
        let vcpu = OwnedFd::from_raw_fd(os::ioctl(vm.as_raw_fd(), ioctl::CREATE_VCPU, 0).ok()?);
        let khz = os::ioctl(vcpu.as_raw_fd(), ioctl::GET_TSC_KHZ, 0).ok()?;
        u32::try_from(khz).ok()
    }
}
