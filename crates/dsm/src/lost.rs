//! Nodes that are lost: what the engine knows and does about them.

use crate::core::{Core, Event, Failure, Scratch};
use crate::segment::{Chunk, CHUNK_PAGES};
use crate::DsmError;
use lev_coherence::Sharers;
use lev_wire::NodeId;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::PoisonError;

/// A set that only grows and is asked for every frame.
#[derive(Default)]
pub(crate) struct Lost([AtomicU64; Sharers::LIMIT as usize / 64]);

impl Lost {
    pub(crate) fn has(&self, node: NodeId) -> bool {
        let word = self.0.get(node.index() / 64);
        word.is_some_and(|word| word.load(Ordering::Acquire) >> (node.0 % 64) & 1 == 1)
    }

    /// Whether it was not in the set before.
    fn insert(&self, node: NodeId) -> bool {
        let bit = 1 << (node.0 % 64);
        let word = self.0.get(node.index() / 64);
        word.is_some_and(|word| word.fetch_or(bit, Ordering::AcqRel) & bit == 0)
    }

    /// One of them; the head if there is none.
    pub(crate) fn first(&self) -> NodeId {
        let lost = (0..Sharers::LIMIT).map(NodeId).find(|node| self.has(*node));
        lost.unwrap_or(NodeId::HEAD)
    }
}

impl Core {
    /// Node `lost` is lost: from now on none of its frames is taken, and every page that depends on it is settled without it.
    /// Errors are collected: the first one is returned, after all pages were looked at.
    pub(crate) fn forget(&self, lost: NodeId) -> Result<(), DsmError> {
        if !self.lost.insert(lost) {
            return Ok(());
        }
        self.room.forget(lost);
        let (mut scratch, mut result) = (Scratch::new(), Ok(()));
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        for segment in table.iter() {
            for first in (0..segment.pages).step_by(CHUNK_PAGES) {
                let (mut chunk, _) = segment.lock(first);
                if chunk.loose {
                    continue; // no other node has ever had anything of it
                }
                let end = (first + CHUNK_PAGES as u64).min(segment.pages);
                for offset in first..end {
                    let index = offset as usize % CHUNK_PAGES;
                    if segment.home(offset) == lost {
                        self.discards.complete_all(segment.first + offset);
                    }
                    if !may_depend(&chunk, index) {
                        continue;
                    }
                    let event = Event::Lost(lost);
                    let here =
                        self.handle_locked(segment, offset, &mut chunk, index, event, &mut scratch);
                    result = result.and(here.map_err(Failure::into_error));
                }
            }
        }
        result
    }
}

/// Whether the page's state here could mention another node at all.
fn may_depend(chunk: &Chunk, index: usize) -> bool {
    let node = chunk.pages[index].node;
    node.pending.is_some() || node.returning || chunk.entry(index).is_some()
}
