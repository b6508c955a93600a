//! Frames between nodes over UCX: shared memory, TCP, InfiniBand, RoCE, whatever UCX finds on the machines.
//!
//! A [`Link`] belongs to one node and reaches all others. It authenticates nobody: nodes first make the channels of
//! `lev-transport`, and tell each other their [`Link::introduction`] over those. Each introduction holds a random token for
//! one peer, which every message of that peer must present. What UCX carries is in the clear.
//!
//! With the feature `libucx` it loads UCX; without it [`Link::start`] says that it cannot. See `docs/design/0017-ucx.md`.
#![deny(unsafe_code)]

#[cfg(not(feature = "libucx"))]
mod absent;
#[cfg(feature = "libucx")]
#[allow(unsafe_code)]
mod bell;
#[cfg_attr(not(feature = "libucx"), allow(dead_code))]
mod envelope;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
#[cfg(feature = "libucx")]
mod hub;
#[cfg(feature = "libucx")]
mod link;
#[cfg(feature = "libucx")]
mod orders;
#[cfg_attr(not(feature = "libucx"), allow(dead_code))]
mod sequence;
#[cfg(feature = "libucx")]
#[allow(unsafe_code)]
mod worker;

#[cfg(not(feature = "libucx"))]
pub use absent::Link;
pub use error::UcxError;
#[cfg(feature = "libucx")]
pub use link::Link;

use lev_wire::frame::Header;
use lev_wire::NodeId;

/// Bytes that a [`Link`] keeps for a slow peer before it gives it up.
pub const QUEUE_LIMIT: usize = 64 << 20;

/// Whether this build has UCX in it.
pub const AVAILABLE: bool = cfg!(feature = "libucx");

/// Hears what comes over a [`Link`]. Called on the link's own thread, one call at a time; it must not wait for long.
pub trait Ear: Send + Sync {
    /// A frame of `from`: whole, and in the order in which it sent them.
    fn frame(&self, from: NodeId, header: Header, payload: &[u8]);

    /// Messages have gone to `node` and back. Told once.
    fn met(&self, node: NodeId);

    /// The way to `node` has ended; nothing comes from it any more. Told once.
    fn lost(&self, node: NodeId, why: UcxError);
}
