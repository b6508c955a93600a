//! Pages that a node asks for before anybody faults on them, because faults run through memory in order.
//!
//! To the protocol such a request is a fault like any other, only that no thread waits for it: nothing here can be wrong,
//! it can only be useless. So it asks only while faults go on close to each other, and leaves alone what others use.

use crate::ahead::Appetite;
use crate::core::{Core, Event, Failure, Scratch};
use crate::segment::{Chunk, Segment, CHUNK_PAGES};
use lev_coherence::{Access, HomeState, NodeState};
use lev_wire::NodeId;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// Requests under way per fault are worth it from here on: the first faults nearby may be chance.
const STEADY: u64 = 4;
/// Faults not further apart than so many pages belong together.
const NEAR: u64 = 32;
/// Runs of faults told apart.
const STREAMS: usize = 64;

/// Whether what this node reads of other homes was lately at those homes, or at third nodes.
pub(crate) struct Elsewhere(Vec<AtomicU8>);

impl Elsewhere {
    /// Reads that a home answers by itself until this node believes that it has most pages there.
    const MEMORY: u8 = 8;

    pub(crate) fn new(nodes: u16) -> Self {
        Self((0..nodes).map(|_| AtomicU8::new(0)).collect())
    }

    /// What was read of this home came from `supplier`.
    pub(crate) fn note(&self, home: NodeId, supplier: NodeId) {
        let Some(seen) = self.0.get(home.index()) else {
            return;
        };
        if supplier == home {
            let less = |seen: u8| seen.checked_sub(1);
            // Fails at 0, and nothing need change.
            let _ = seen.fetch_update(Relaxed, Relaxed, less);
        } else {
            seen.store(Self::MEMORY, Relaxed);
        }
    }

    fn is_likely(&self, home: NodeId) -> bool {
        let seen = self.0.get(home.index());
        seen.is_some_and(|seen| seen.load(Relaxed) > 0)
    }
}

impl Appetite {
    /// For this node's own faults of one kind, `most` pages at once: 1, 4, 16.
    pub(crate) fn for_own_faults(most: u64) -> Self {
        Self::new(1, 4, most.min(CHUNK_PAGES as u64), NEAR, STREAMS)
    }
}

impl Core {
    /// A thread of this node has just asked for a page: asks for the ones around it, too.
    pub(crate) fn prefetch(
        &self,
        segment: &Segment,
        offset: u64,
        access: Access,
        scratch: &mut Scratch,
    ) -> Result<(), Failure> {
        let own = match access {
            Access::Read => &self.own_reads,
            // What lies near a page that is fought over is needed elsewhere.
            Access::Write if self.is_fighting() => return Ok(()),
            Access::Write => &self.own_writes,
        };
        let window = own.window(self.rules.me, segment.first + offset);
        if window < STEADY || !self.room.has_room(window) {
            return Ok(());
        }
        let (mut chunk, _) = segment.lock(offset);
        let group = crate::ahead::group_in_chunk(segment, offset, window);
        // Those after the page first: most programs go upwards.
        for page in (offset + 1..group.end).chain(group.start..offset) {
            if !self.is_worth_asking(segment, page, access, &mut chunk) {
                continue;
            }
            let index = page as usize % CHUNK_PAGES;
            let event = Event::Fault(access);
            self.handle_locked(segment, page, &mut chunk, index, event, scratch)?;
            self.stats.prefetched.add(1);
        }
        Ok(())
    }

    /// Whether the page is somewhere else, and probably at rest there.
    fn is_worth_asking(
        &self,
        segment: &Segment,
        offset: u64,
        access: Access,
        chunk: &mut Chunk,
    ) -> bool {
        let index = offset as usize % CHUNK_PAGES;
        let node = chunk.pages[index].node;
        let lacking = match node.state {
            NodeState::Invalid => true,
            NodeState::Shared => access == Access::Write,
            NodeState::Exclusive | NodeState::Clean | NodeState::Pooled => false,
        };
        if !lacking || node.pending.is_some() {
            return false;
        }
        if segment.home(offset) != self.rules.me {
            // Another home sends copies of what it has by itself, and gives untouched pages in runs.
            return access == Access::Write || self.elsewhere.is_likely(segment.home(offset));
        }
        let entry = chunk.both(index).1;
        // Untouched pages are filled in blocks, without asking.
        let held = !matches!(entry.state(), HomeState::Zero | HomeState::Gone);
        !entry.is_busy() && entry.changes() <= 1 && held
    }
}
