//! The thread that lets pages of this home leave the pool; which ones, [`lev_coherence::Stays`] says.

use crate::core::{Core, Event, Failure, Scratch};
use crate::mappings;
use lev_coherence::{HomePage, HomeState, Stays};
use lev_wire::PageNumber;
use std::sync::atomic::{AtomicU64, Ordering, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// While pages wait for slots, the thread looks so often.
const TICK: Duration = Duration::from_millis(5);
/// Pages that leave at a time: each takes a message to its users and back.
const BATCH: u64 = 64;
/// After so many pages have left here, mappings are counted.
const COUNT_AFTER: u64 = 256;
/// And so long after there were too many of them.
const COUNT_AGAIN: Duration = Duration::from_secs(1);
/// Of the mappings that a process may have, those which pages that have left may use up, in parts of four.
const QUARTERS: u64 = 3;

/// What this home knows of its pages in the pool.
pub(crate) struct Leave {
    stays: Mutex<Stays>,
    refused: Condvar,
    /// Pages whose slot will be free soon.
    leaving: AtomicU64,
}

impl Leave {
    pub(crate) fn new(shortest_ms: u32) -> Self {
        Self {
            stays: Mutex::new(Stays::new(u64::from(shortest_ms) * 1000)),
            refused: Condvar::new(),
            leaving: AtomicU64::new(0),
        }
    }

    pub(crate) fn promoted(&self, page: PageNumber, now_us: u64) {
        self.stays().promoted(page, now_us);
    }

    /// All slots have been given out before, and a page wants one: whether it may have one that is free again.
    pub(crate) fn wants(&self, page: PageNumber, now_us: u64) -> bool {
        let mut stays = self.stays();
        let first = !stays.any_refused();
        let may_have = stays.wants(page, now_us);
        if first {
            self.refused.notify_one();
        }
        may_have
    }

    /// A page has left, and its slot is free.
    pub(crate) fn gone(&self) {
        self.leaving.fetch_sub(1, Relaxed);
    }

    /// The engine stops.
    pub(crate) fn stop(&self) {
        let _stays = self.stays();
        self.refused.notify_all();
    }

    fn stays(&self) -> MutexGuard<'_, Stays> {
        self.stays.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many mappings this process has, looked at now and then.
struct Mappings {
    many: bool,
    /// Pages that had left when they were counted.
    left: u64,
    at: Instant,
}

impl Mappings {
    /// Whether there are so many that no page should leave: where the kernel does not join what it puts in their place with
    /// its neighbours, each page leaves two mappings more behind.
    fn are_many(&mut self, left: u64) -> Result<bool, Failure> {
        let again = self.many && self.at.elapsed() >= COUNT_AGAIN;
        if left >= self.left + COUNT_AFTER || again {
            self.many = mappings::count()? > mappings::limit() / 4 * QUARTERS;
            (self.left, self.at) = (left, Instant::now());
        }
        Ok(self.many)
    }
}

impl Core {
    /// Lets pages leave the pool until the engine stops.
    pub(crate) fn serve_leaves(&self, leave: &Leave) {
        let mut scratch = Scratch::new();
        let mut mappings = Mappings {
            many: false,
            left: 0,
            at: Instant::now(),
        };
        while !self.stopped.load(Ordering::Acquire) {
            {
                let idle = |stays: &mut Stays| {
                    !stays.any_refused() && !self.stopped.load(Ordering::Acquire)
                };
                let _stays = leave.refused.wait_while(leave.stays(), idle);
            }
            let result = match mappings.are_many(self.stats.pool_left.get()) {
                Ok(false) => self.let_leave(leave, &mut scratch),
                result => result.map(|_| ()),
            };
            if let Err(failure) = result {
                return self.fatal(failure.into_error());
            }
            std::thread::sleep(TICK);
        }
    }

    fn let_leave(&self, leave: &Leave, scratch: &mut Scratch) -> Result<(), Failure> {
        let free = || self.pool.as_ref().map_or(0, |pool| pool.free());
        while leave.leaving.load(Relaxed) < BATCH && self.room.has_room(1) {
            let free = free() + leave.leaving.load(Relaxed);
            let now_us = self.now_ns() / 1000;
            let Some(page) = leave.stays().next(free, now_us) else {
                return Ok(());
            };
            if !self.start_leaving(leave, page, scratch)? {
                leave.stays().busy(page, now_us);
            }
        }
        Ok(())
    }

    /// Takes a page of this home out of the pool, if nobody is about to use it.
    fn start_leaving(
        &self,
        leave: &Leave,
        page: PageNumber,
        scratch: &mut Scratch,
    ) -> Result<bool, Failure> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let Some((segment, offset)) = table.find_page(page) else {
            return Ok(true); // the segment was given up
        };
        let (mut chunk, index) = self.lock_watched(segment, offset)?;
        let ready = |entry: &HomePage| {
            matches!(entry.state(), HomeState::Pooled { .. }) && !entry.is_busy()
        };
        if !chunk.entry(index).is_some_and(ready) {
            return Ok(false);
        }
        leave.leaving.fetch_add(1, Relaxed);
        self.handle_locked(segment, offset, &mut chunk, index, Event::Demote, scratch)?;
        Ok(true)
    }
}
