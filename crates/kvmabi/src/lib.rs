//! The KVM API as QEMU speaks it: ioctl numbers, the shape of each call's argument, the `kvm_run` page, the
//! capabilities that Leviathan changes, CPUID flags by name.
//!
//! Source: `Documentation/virt/kvm/api.rst` and `include/uapi/linux/kvm.h` of Linux. Every number is asserted at
//! compile time against its encoded form.

pub mod capability;
pub mod cpuid;
pub mod ioctl;
pub mod os;
pub mod run_page;
pub mod shape;

pub use kvm_bindings as bindings;
