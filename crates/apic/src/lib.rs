//! Local APICs and interrupt routing in user space, without I/O, clocks or `unsafe`.
//!
//! The virtual machine's KVM has no interrupt chip; every vCPU's local APIC is a
//! [`LocalApic`] on the node that runs the vCPU. What the other nodes must know of it, so
//! that any of them can resolve any destination, is its [`ApicView`], replicated on change
//! and kept in a [`Router`].
//!
//! Rules come from the Intel Software Developer's Manual volume 3, chapter 11 ("SDM 11.x"
//! in the comments), and agree with the AMD Programmer's Manual volume 2, chapter 16,
//! unless a comment says otherwise. Where both manuals leave a choice, the behaviour that
//! guests know from KVM was chosen.
//!
//! Time is passed in: nanoseconds of one monotonic clock, the same for all calls on one APIC.
//! Nothing here panics on any input, and nothing allocates except [`Router::new`] and
//! [`Router::set`].
#![forbid(unsafe_code)]

mod base;
mod effects;
mod interrupt;
mod local;
mod mmio;
mod page;
mod priority;
mod register;
mod router;
mod targets;
mod timer;
mod vectors;
mod view;
mod x2apic;

pub use base::{Mode, IA32_APIC_BASE};
pub use effects::{Accepted, Effects, Eoi, IgnoreReason};
pub use interrupt::{DeliveryMode, Destination, Interrupt, Trigger, BROADCAST};
pub use local::{LocalApic, LocalSource};
pub use page::PAGE_LEN;
pub use router::Router;
pub use targets::{Targets, TargetsIter, MAX_VCPUS};
pub use timer::{BUS_FREQUENCY_HZ, MIN_PERIOD_NS};
pub use view::ApicView;
