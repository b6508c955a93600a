//! Host time, and the guest's time-stamp counter.
//!
//! All vCPUs show one TSC: `guest = head's host TSC + offset`. A worker's offset differs from the head's by the distance
//! between the two host counters, which the nodes measure (minimum round trip). The offset is a vCPU attribute of KVM
//! (`KVM_VCPU_TSC_OFFSET`, Linux 5.16) and is set on the vCPU's own thread, because a vCPU's descriptor is locked
//! while it runs.

use lev_kvmabi::{ioctl, os};
use std::io;

/// Pairs of clock and counter for one reading.
const READINGS: usize = 64;

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

/// Rate of the host's counter in kHz, measured for 50 ms: for hosts whose KVM does not tell.
///
/// Each reading stands between two of the clock, and the closest pair of several counts. So a busy machine does no harm:
/// kernels that measure at boot in a machine that gets no time see half of the rate.
#[must_use]
pub fn measure_khz() -> u32 {
    let first = reading();
    std::thread::sleep(std::time::Duration::from_millis(50));
    khz_between(first, reading())
}

/// Clock in ns and counter at one moment.
fn reading() -> (u64, u64) {
    let close = (0..READINGS).map(|_| {
        let before = monotonic_ns();
        let counter = host_tsc();
        let after = monotonic_ns();
        (after - before, (before + (after - before) / 2, counter))
    });
    close
        .min_by_key(|(width, _)| *width)
        .map_or((0, 0), |(_, at)| at)
}

fn khz_between(first: (u64, u64), last: (u64, u64)) -> u32 {
    let (ns, ticks) = (
        last.0.saturating_sub(first.0),
        last.1.saturating_sub(first.1),
    );
    u128::from(ticks)
        .saturating_mul(1_000_000)
        .checked_div(u128::from(ns))
        .and_then(|khz| u32::try_from(khz).ok())
        .unwrap_or(0)
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
    fn a_rate_is_ticks_by_time_and_nothing_without_time() {
        assert_eq!(
            khz_between((1_000, 5_000), (1_001_000, 2_405_000)),
            2_400_000
        );
        assert_eq!(khz_between((7, 5), (7, 9)), 0);
        assert_eq!(khz_between((7, 9), (9, 5)), 0);
    }

    #[test]
    fn two_measurements_agree() {
        let rates = [measure_khz(), measure_khz()].map(f64::from);
        assert!(rates[0] > 100_000.0, "{rates:?}");
        assert!((rates[0] / rates[1] - 1.0).abs() < 0.01, "{rates:?}");
    }

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
