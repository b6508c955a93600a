//! What the engine asks of its surroundings and what it is told: plain types, no behaviour.

use crate::DsmError;
use lev_wire::cluster::EngineOptions;
use lev_wire::frame::Header;
use lev_wire::{NodeId, PageNumber};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// The transport of the engine: the way to the other nodes. The engine never sees a socket.
///
/// What an implementation promises, and all that the protocol relies on:
///
/// - **whole**: a frame arrives as it was sent (header and bytes of its parts), or not at all;
/// - **in order for each pair**: frames from one node to another arrive in the order of the calls, one at a time, at
///   [`Engine::on_frame`](crate::Engine::on_frame). Between different pairs nothing is promised;
/// - **complete until the end**: a frame is lost only if the pair is cut, after which nothing arrives on it any more in
///   that direction. A cut is told to the owner of the engine, who ends the VM or calls
///   [`Engine::peer_lost`](crate::Engine::peer_lost); never here;
/// - **without waiting**: `send` queues what the peer does not take at once.
///
/// Implementations: node channels over TCP (`PagePeers` of `lev-mesh`), UCX beside them (`lev-ucx`, chosen in `lev-region`), and a
/// network in memory that delays, reorders and cuts as much as this allows (`tests/faulty`).
pub trait PageLink: Send + Sync {
    /// Sends one frame to node `to`: `header`, then `parts` one after the other (`header.len` is their sum). Called with
    /// page locks held: it must neither wait for the peer nor call back into the engine. The parts are read during the call
    /// only, and their pages are present: no fault is served meanwhile.
    fn send(&self, to: NodeId, header: Header, parts: &[&[u8]]);
}

/// What the threads that work on this node's memory do at this moment; hints. See [`Engine::take_turns`](crate::Engine::take_turns).
#[derive(Clone, Copy, Debug)]
pub struct Activity {
    /// None of them works: what this node holds is of no use to it now.
    pub asleep: bool,
    /// Time since one of them called a thread of another node, for whose answer it may wait.
    pub since_call: Duration,
    /// They run, but only wait for other nodes, as far as one can see.
    pub waits: bool,
}

/// How closely to look at threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// What is known is enough.
    Glance,
    /// Find out whether they only wait, which costs them something.
    Closely,
    /// Forget what was found out: they do something else now.
    Anew,
}

/// Says what threads do now.
pub type LookAtThreads = Box<dyn Fn(Look) -> Activity + Send + Sync>;

/// Memory that is the same on all nodes: a memfd, the resource file of a shared memory device, a dax device.
/// Pages of guest memory are mapped onto it one by one, `MAP_SHARED | MAP_FIXED`.
#[derive(Debug)]
pub struct PoolMapping {
    /// The file to map.
    pub fd: OwnedFd,
    /// First byte of the pool in the file, a multiple of the page size.
    pub offset: u64,
    /// Bytes; the engine uses whole pages only.
    pub len: u64,
}

/// How to start an [`Engine`](crate::Engine).
pub struct EngineConfig {
    /// This node.
    pub me: NodeId,
    /// Nodes of the cluster; ids are `0..nodes`.
    pub nodes: u16,
    /// Tunables.
    pub options: EngineOptions,
    /// The hot-page pool; the same on all nodes or absent on all nodes.
    pub pool: Option<PoolMapping>,
    /// Called once at most, from any thread, when the engine can no longer keep memory coherent: end the VM.
    pub on_fatal: Box<dyn Fn(DsmError) + Send + Sync>,
}

/// What guest memory is made of in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Private anonymous memory (`MAP_PRIVATE | MAP_ANONYMOUS`).
    Anonymous,
    /// Shared memory of a tmpfs file or memfd (`MAP_SHARED`).
    Shmem,
}

/// A run of guest memory that becomes coherent.
#[derive(Clone, Debug)]
pub struct SegmentSpec {
    /// Number of the first page.
    pub first_page: PageNumber,
    /// Pages in the segment.
    pub pages: u64,
    /// Where the segment is mapped in this process, aligned to a page, readable and writable.
    pub local: *mut u8,
    /// Homes in page order: so many pages at that node; the counts add up to `pages`.
    pub homes: Vec<(u64, NodeId)>,
    /// What is mapped at `local`.
    pub backing: Backing,
}

// SAFETY: `local` is an address that the engine uses only through system calls and volatile copies, from any
// thread; the owner of the mapping keeps it in place until `Engine::stop`.
unsafe impl Send for SegmentSpec {}
