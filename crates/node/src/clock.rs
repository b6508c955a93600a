//! The rate of the guest's time-stamp counter on this node: the head's.

use crate::worker::Refusal;
use lev_kvmabi::bindings as k;
use lev_kvmabi::{ioctl, os};
use lev_vcpu::clock::TscScale;

/// Up to so many parts per million two counters count as equal: kernels measure their rates no better, and what is left is
/// followed as drift.
const TOLERANCE_PPM: u64 = 1000;

/// What this node does to its counter to show the guest's rate.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    guest_khz: u32,
    scale: Option<TscScale>,
}

impl Rate {
    /// For a host whose counter runs at `host_khz`, in a guest of `guest_khz`.
    ///
    /// # Errors
    /// The rates differ and the processor cannot scale.
    pub fn new(vm_fd: i32, host_khz: u32, guest_khz: u32) -> Result<Self, Refusal> {
        // SAFETY: CHECK_EXTENSION takes a number.
        let control = unsafe {
            os::ioctl(
                vm_fd,
                ioctl::CHECK_EXTENSION,
                k::KVM_CAP_TSC_CONTROL as usize,
            )
        };
        Self::choose(host_khz, guest_khz, control.is_ok_and(|answer| answer > 0))
    }

    fn choose(host_khz: u32, guest_khz: u32, can_scale: bool) -> Result<Self, Refusal> {
        let difference = u64::from(host_khz.abs_diff(guest_khz)) * 1_000_000;
        if difference <= u64::from(guest_khz) * TOLERANCE_PPM {
            return Ok(Self {
                guest_khz,
                scale: None,
            });
        }
        let scale = can_scale
            .then(|| TscScale::of_this_host(host_khz, guest_khz))
            .flatten();
        let message = || {
            format!(
                "its time-stamp counter runs at {host_khz} kHz, the head's at {guest_khz} kHz, and its processor cannot \
                 scale it: use machines of one type, because a guest must see one clock"
            )
        };
        if scale.is_none() {
            return Err(Refusal::because(libc::EOPNOTSUPP, message()));
        }
        Ok(Self { guest_khz, scale })
    }

    /// The host's counter at the guest's rate.
    pub fn apply(&self, counter: u64) -> u64 {
        self.scale.map_or(counter, |scale| scale.apply(counter))
    }

    /// Gives a new vCPU the guest's rate.
    ///
    /// # Errors
    /// KVM's errno.
    pub fn give(&self, vcpu_fd: i32) -> std::io::Result<()> {
        if self.scale.is_some() {
            // SAFETY: SET_TSC_KHZ takes a number.
            unsafe { os::ioctl(vcpu_fd, ioctl::SET_TSC_KHZ, self.guest_khz as usize)? };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_another_rate_are_scaled_or_refused_with_numbers() {
        let near = Rate::choose(2_400_100, 2_400_000, false).unwrap();
        assert_eq!(near.apply(12_345), 12_345);
        let refused = Rate::choose(3_000_000, 2_400_000, false).unwrap_err();
        assert!(refused.message.contains("3000000 kHz") && refused.message.contains("2400000 kHz"));
        let scaled = Rate::choose(3_000_000, 2_400_000, true).unwrap();
        assert_eq!(scaled.apply(3_000_000_000) / 1000, 2_399_999);
    }
}
