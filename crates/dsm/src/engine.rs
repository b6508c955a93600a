//! The engine's public face.

use crate::{Counters, DsmError, EngineConfig, PageLink, SegmentSpec};
use lev_wire::frame::Header;
use lev_wire::{NodeId, PageNumber};
use std::ops::Range;
use std::sync::Arc;

/// The memory engine of one node.
pub struct Engine {
    _private: (),
}

impl Engine {
    /// Opens userfaultfd and starts the handler threads ("lev-fault-N", all signals blocked).
    ///
    /// # Errors
    /// No permission for userfaultfd, a kernel without write-protection, a configuration that cannot work.
    pub fn start(config: EngineConfig, link: Arc<dyn PageLink>) -> Result<Arc<Self>, DsmError> {
        let _ = (config, link);
        Err(DsmError::Config("not written yet"))
    }

    /// Makes a segment known and reports which of its pages already have contents here, as ranges of page numbers.
    /// From now on the first touch of an absent page waits until [`Engine::activate`].
    ///
    /// # Errors
    /// Misaligned or overlapping segment, homes that do not cover it, a failed registration.
    pub fn prepare(&self, spec: SegmentSpec) -> Result<Vec<Range<u64>>, DsmError> {
        let _ = spec;
        Err(DsmError::Stopped)
    }

    /// Starts coherence of the segment that begins at `first_page`. Pages in `populated_on_head` belong to the head
    /// at first; all others are zero at their homes. Workers activate first, the head last.
    ///
    /// # Errors
    /// No prepared segment begins there, or a range leaves it.
    pub fn activate(
        &self,
        first_page: PageNumber,
        populated_on_head: &[Range<u64>],
    ) -> Result<(), DsmError> {
        let _ = (first_page, populated_on_head);
        Err(DsmError::Stopped)
    }

    /// Which parts of `[first_page, first_page + pages)` belong to segments already.
    #[must_use]
    pub fn contains(&self, first_page: PageNumber, pages: u64) -> Vec<Range<u64>> {
        let _ = (first_page, pages);
        Vec::new()
    }

    /// Takes one frame of a peer. Frames of one peer must come in order, from one thread at a time.
    ///
    /// # Errors
    /// The frame is malformed or not allowed: drop the connection.
    pub fn on_frame(&self, from: NodeId, header: Header, payload: &[u8]) -> Result<(), DsmError> {
        let _ = (from, header, payload);
        Err(DsmError::Stopped)
    }

    /// QEMU discarded `[local, local + len)` (`MADV_DONTNEED`): those pages read as zero on every node afterwards.
    /// Parts outside of segments are ignored.
    pub fn discard(&self, local: *mut u8, len: usize) {
        let _ = (local, len);
    }

    /// The counters now.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters::default()
    }

    /// One line about a page, for dumps: its state here and, at its home, the directory entry.
    #[must_use]
    pub fn describe_page(&self, page: PageNumber) -> String {
        format!("page {page:#x}: unknown")
    }

    /// Ends the threads and closes userfaultfd, which wakes everybody who waits for a page.
    pub fn stop(&self) {}
}
