//! A home's part of the pool: which slots are free, and which pages should leave.

use crate::Pool;
use lev_coherence::{Slot, Stays};

/// Pages that leave at a time, as in the engine.
const BATCH: u32 = 64;

#[derive(Default)]
pub(crate) struct Slots {
    taken: Slot,
    back: Vec<Slot>,
    stays: Option<Stays>,
    leaving: u32,
    /// A look at the pages is planned.
    pub(crate) watched: bool,
}

impl Slots {
    pub(crate) fn new(pool: Pool) -> Self {
        let stays = match (pool.pages, pool.demote_after_ns) {
            (0, _) | (_, 0) => None,
            (_, ns) => Some(Stays::new(ns / 1000)),
        };
        Self {
            stays,
            ..Self::default()
        }
    }

    /// A slot for a page, if there is one.
    pub(crate) fn take(&mut self, pool: Pool, page: u64, now_ns: u64) -> Option<Slot> {
        if pool.pages > 0 && self.taken == pool.pages {
            let stays = self.stays.as_mut()?;
            let may_have = stays.wants(page, now_ns / 1000);
            return may_have.then(|| self.back.pop()).flatten();
        }
        self.taken += 1;
        Some(self.taken)
    }

    pub(crate) fn promoted(&mut self, page: u64, now_ns: u64) {
        if let Some(stays) = &mut self.stays {
            stays.promoted(page, now_ns / 1000);
        }
    }

    /// A page has left.
    pub(crate) fn free(&mut self, slot: Slot) {
        self.back.push(slot);
        self.leaving -= 1;
    }

    /// Whether pages have found no slot.
    pub(crate) fn are_short(&self) -> bool {
        self.stays.as_ref().is_some_and(Stays::any_refused)
    }

    /// A page that should leave now.
    pub(crate) fn next(&mut self, now_ns: u64) -> Option<u64> {
        let free = self.back.len() as u64 + u64::from(self.leaving);
        let stays = self.stays.as_mut().filter(|_| self.leaving < BATCH)?;
        let page = stays.next(free, now_ns / 1000)?;
        self.leaving += 1;
        Some(page)
    }

    /// It cannot.
    pub(crate) fn busy(&mut self, page: u64, now_ns: u64) {
        self.leaving -= 1;
        if let Some(stays) = &mut self.stays {
            stays.busy(page, now_ns / 1000);
        }
    }
}
