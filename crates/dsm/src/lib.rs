//! Coherent guest memory: runs the protocol of `lev-coherence` on userfaultfd.
//!
//! An [`Engine`] owns the guest pages of one node. Page faults arrive through userfaultfd, frames of other nodes
//! through [`Engine::on_frame`]; both become events of the page's state machine, whose actions become system calls
//! and frames. See `docs/design/0004-coherence.md`.

mod act;
mod ahead;
mod api;
mod batch;
mod copies;
mod core;
mod counters;
mod discards;
mod engine;
mod error;
mod evict;
mod fault;
mod frames;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod gate;
mod hold;
mod inspect;
mod intake;
mod leave;
mod loose;
mod lost;
mod mappings;
mod memory;
mod pool;
mod pool_file;
mod prefetch;
mod replace;
mod room;
mod runs;
mod segment;
mod siege;
mod stats;
mod streams;
mod tape;
pub mod threads;
mod turns;

pub use api::{
    Activity, Backing, EngineConfig, Look, LookAtThreads, PageLink, PoolMapping, SegmentSpec,
};
pub use counters::{Counters, HotPage, LATENCY_BUCKETS};
pub use engine::Engine;
pub use error::DsmError;
pub use frames::FRAME_KINDS;
pub use pool_file::PoolFileError;
pub use room::RoomEvent;
pub use tape::trace_clock_ns;
