//! Whether KVM hands the x2APIC registers to user space.
//!
//! Without an in-kernel local APIC, KVM treats MSRs 0x800-0x8ff as invalid; `KVM_CAP_X86_USER_SPACE_MSR` with the reason
//! "invalid" turns that into an exit. One exit and no instruction emulation an access: cheaper than the APIC page.

use kvm_bindings as k;
use lev_kvmabi::{ioctl, os};

/// Asks a VM to report invalid MSR accesses; false if its kernel cannot (before Linux 5.10).
#[must_use]
pub fn enable(vm_fd: i32) -> bool {
    let mut capability = k::kvm_enable_cap {
        cap: k::KVM_CAP_X86_USER_SPACE_MSR,
        ..Default::default()
    };
    capability.args[0] = u64::from(k::KVM_MSR_EXIT_REASON_INVAL);
    // SAFETY: ENABLE_CAP takes a kvm_enable_cap.
    unsafe { os::ioctl_with(vm_fd, ioctl::ENABLE_CAP, &mut capability) }.is_ok()
}
