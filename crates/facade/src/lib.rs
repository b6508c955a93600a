//! The facade: preloaded into an unmodified QEMU, it answers the KVM API for a machine whose vCPUs and memory are on
//! several nodes.
//!
//! Borders of trust: QEMU's pointers are taken at its word, as the kernel would (it is our own process); what workers send is
//! checked by the channels and by the shapes of the calls; what the guest does reaches us only through decoded exits.
//!
//! Rules in this process: no output but through `fail` and the events file; errno is kept; no panic crosses into C;
//! own threads block all signals; children do not inherit the preload.

mod clock;
mod discard;
mod doorbell;
mod entry;
mod exports;
mod fail;
mod irqfd;
mod kept;
mod local_vcpu;
mod memory;
mod remote_vcpu;
mod routes;
mod set_up;
mod table;
mod tape;
mod vm;
mod vm_calls;
mod watch;
