//! Facts about the host that both head and worker need.

use lev_kvmabi::{ioctl, os};
use std::io;

/// Rate of the host's time-stamp counter as KVM knows it, kHz: what a vCPU of this VM gets.
///
/// # Errors
/// The kernel's errno; `ENOTTY` before Linux 5.18, which answers for single vCPUs only.
pub fn tsc_khz(vm_fd: i32) -> io::Result<u32> {
    // SAFETY: GET_TSC_KHZ takes nothing.
    let khz = unsafe { os::ioctl(vm_fd, ioctl::GET_TSC_KHZ, 0)? };
    u32::try_from(khz).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}
