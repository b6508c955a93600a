//! The run loop of a vCPU, the same code on the head and on a worker, with its local APIC in user space.
//!
//! The loop is the edge between three things: the kernel's `KVM_RUN`, the pure APIC of `lev-apic`, and whoever called
//! (QEMU through the facade, or a worker's thread for QEMU on another node). Rules that hold everywhere:
//!
//! - Only the vCPU's own thread touches its KVM descriptor while it runs; others post events and kick.
//! - The kick signal is blocked in a vCPU thread except inside `KVM_RUN` and `ppoll`, so no kick is lost.
//! - Nothing here allocates or takes a lock that QEMU could hold.

pub mod call;
pub mod cell;
pub mod clock;
mod door;
pub mod fabric;
pub mod guest_clock;
pub mod kick;
mod loiter;
pub mod reset;
pub mod run_loop;
pub mod stats;
pub mod x2apic;

pub use cell::{MpState, Vcpu};
pub use fabric::{Doorbell, Fabric, InterruptLink};
pub use run_loop::{Caller, Outcome, Runner};
