//! Host time, and the guest's time-stamp counter.
//!
//! All vCPUs show one TSC: `guest = head's host TSC + offset`. A worker's offset differs from the head's by the distance
//! between the two host counters, which the nodes measure (minimum round trip). The offset is a vCPU attribute of KVM
//! (`KVM_VCPU_TSC_OFFSET`, Linux 5.16) and is set on the vCPU's own thread, because a vCPU's descriptor is locked
//! while it runs.

use lev_kvmabi::{ioctl, os};
use std::io;

/// Nanoseconds of CLOCK_MONOTONIC.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a valid clock and a valid place for the time.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The host's time-stamp counter, now.
#[must_use]
pub fn host_tsc() -> u64 {
    // SAFETY: every x86-64 processor has RDTSC; the fence keeps it from running ahead.
    unsafe {
        core::arch::x86_64::_mm_lfence();
        core::arch::x86_64::_rdtsc()
    }
}

/// Sets a vCPU's TSC offset: `guest = host + offset`, modulo 2^64.
///
/// # Errors
/// The kernel's errno; `ENXIO` before Linux 5.16.
pub fn set_tsc_offset(vcpu_fd: i32, offset: u64) -> io::Result<()> {
    let mut attribute = kvm_bindings::kvm_device_attr {
        flags: 0,
        group: kvm_bindings::KVM_VCPU_TSC_CTRL,
        attr: u64::from(kvm_bindings::KVM_VCPU_TSC_OFFSET),
        addr: std::ptr::from_ref(&offset) as u64,
    };
    // SAFETY: the call takes a kvm_device_attr whose `addr` points to a u64 that lives through it.
    unsafe { os::ioctl_with(vcpu_fd, ioctl::SET_DEVICE_ATTR, &mut attribute) }.map(|_| ())
}
