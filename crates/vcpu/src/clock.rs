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

/// How KVM turns the host's counter into one of another rate, on processors that can (`KVM_CAP_TSC_CONTROL`).
///
/// The same fixed-point numbers as in the kernel (`arch/x86/kvm/x86.c`): at counts of days, any other rounding would be off
/// by microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TscScale {
    ratio: u64,
    fraction_bits: u32,
}

impl TscScale {
    /// From the host's rate to the guest's, on a processor whose ratio has so many fraction bits: AMD 32 (APM volume 2, 15.30.5),
    /// Intel 48 (SDM volume 3, 25.6.5). `None`: a rate of 0, or a ratio that does not fit.
    #[must_use]
    pub fn new(host_khz: u32, guest_khz: u32, fraction_bits: u32) -> Option<Self> {
        let ratio = (u128::from(guest_khz) << fraction_bits).checked_div(u128::from(host_khz))?;
        Some(Self {
            ratio: u64::try_from(ratio).ok().filter(|ratio| *ratio > 0)?,
            fraction_bits,
        })
    }

    /// For this host's processor.
    #[must_use]
    pub fn of_this_host(host_khz: u32, guest_khz: u32) -> Option<Self> {
        let intel = crate::call::supported_cpuid().is_ok_and(|leaves| {
            let vendor = leaves.iter().find(|leaf| leaf.function == 0);
            vendor.is_some_and(|leaf| leaf.ebx.to_le_bytes() == *b"Genu")
        });
        Self::new(host_khz, guest_khz, if intel { 48 } else { 32 })
    }

    /// The counter at the guest's rate.
    #[must_use]
    pub fn apply(&self, counter: u64) -> u64 {
        ((u128::from(counter) * u128::from(self.ratio)) >> self.fraction_bits) as u64
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_scaled_as_the_kernel_does() {
        let same = TscScale::new(2_400_000, 2_400_000, 48).unwrap();
        assert_eq!(same.apply(u64::MAX), u64::MAX);
        let faster = TscScale::new(2_000_000, 3_000_000, 32).unwrap();
        assert_eq!(faster.apply(2_000_001), 3_000_001);
        // A third of 2^32 is not whole: the kernel rounds the ratio down, and so do we.
        let third = TscScale::new(3_000_000, 1_000_000, 32).unwrap();
        assert_eq!(third.apply(3 << 32), 3 * 0x5555_5555);
        assert_eq!(TscScale::new(0, 1, 32), None);
        assert_eq!(TscScale::new(u32::MAX, 1, 0), None);
    }
}
