//! The hot-page pool: memory that all nodes map. Each home gives out the slots of its own part.

use crate::mappings;
use crate::memory::{self, PageBuffer};
use crate::{DsmError, PoolMapping};
use lev_coherence::Slot;
use lev_wire::{NodeId, PAGE_SIZE};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const PAGE: u64 = PAGE_SIZE as u64;
/// Mappings left to the rest of the process.
const OTHER_MAPPINGS: u64 = 8192;

pub(crate) struct Pool {
    mapping: PoolMapping,
    /// All of the pool, mapped once for copying into slots.
    base: u64,
    slots: u64,
    /// Of this home's part: the first slot that was never given out.
    next: AtomicU32,
    end: u32,
    /// Of this home's part: slots that were given back.
    back: Mutex<Vec<Slot>>,
}

impl Pool {
    pub(crate) fn new(mapping: PoolMapping, me: NodeId, nodes: u16) -> Result<Self, DsmError> {
        if mapping.offset % PAGE != 0 {
            return Err(DsmError::Config("the pool does not begin at a page"));
        }
        let slots = (mapping.len / PAGE).min(u64::from(u32::MAX));
        if slots < u64::from(nodes) {
            return Err(DsmError::Config("the pool has less than one page per node"));
        }
        // Every pooled page cuts a mapping of guest memory in two and adds its own: two mappings more.
        let usable = slots.min((mappings::limit().saturating_sub(OTHER_MAPPINGS)) / 2);
        let part = (usable / u64::from(nodes)) as u32;
        let base = memory::map_shared(mapping.fd.as_fd(), mapping.offset, slots * PAGE)?;
        let first = u32::from(me.0) * part;
        Ok(Self {
            mapping,
            base,
            slots,
            next: AtomicU32::new(first),
            end: first + part,
            back: Mutex::default(),
        })
    }

    /// A slot of this home's part that was given back.
    pub(crate) fn take_again(&self) -> Option<Slot> {
        self.back().pop()
    }

    /// A slot of this home's part that was never given out.
    pub(crate) fn take(&self) -> Option<Slot> {
        self.next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                (next < self.end).then_some(next + 1)
            })
            .ok()
    }

    /// Slots that this home may still give out.
    pub(crate) fn free(&self) -> u64 {
        let never = u64::from(self.end.saturating_sub(self.next.load(Ordering::Relaxed)));
        never + self.back().len() as u64
    }

    /// Nobody uses the slot, which is of this home's part, any more.
    pub(crate) fn give_back(&self, slot: Slot) {
        self.back().push(slot);
    }

    fn back(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.back.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the slot exists; peers name slots.
    pub(crate) fn has(&self, slot: Slot) -> bool {
        u64::from(slot) < self.slots
    }

    /// Writes a page into a slot that no guest uses yet.
    pub(crate) fn write(&self, slot: Slot, bytes: &PageBuffer) {
        if !self.has(slot) {
            return;
        }
        let to = self.base + u64::from(slot) * PAGE;
        // SAFETY: the slot lies inside of the mapping at `base`, as just checked, which lives as long as `self`; only
        // its raw address is used, by any process, so no Rust reference is broken.
        unsafe { std::ptr::copy_nonoverlapping(bytes.0.as_ptr(), to as *mut u8, PAGE_SIZE) };
    }

    /// Reads a page from a slot that no guest uses any more.
    pub(crate) fn read(&self, slot: Slot, bytes: &mut PageBuffer) {
        if !self.has(slot) {
            return;
        }
        memory::copy_page(self.base + u64::from(slot) * PAGE, &mut bytes.0);
    }

    /// Maps a slot in the place of a guest page.
    pub(crate) fn map(&self, slot: Slot, address: u64) -> Result<(), DsmError> {
        let offset = self.mapping.offset + u64::from(slot) * PAGE;
        memory::map_shared_page(address, self.mapping.fd.as_fd(), offset)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        memory::unmap(self.base, self.slots * PAGE);
    }
}
