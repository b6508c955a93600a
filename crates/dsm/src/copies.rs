//! Copies for reading on a node with a limit: the oldest go first, and a few always have room.
//!
//! Who reads through more memory than fits wants the next pages sent ahead, and will not come back to those behind. So
//! copies are dropped in the order in which they came, two for each one that came, until there is room for others again.
//! Pages that nobody else has would have to travel: they go only when there are hardly any copies.

use crate::ahead::same_chunk;
use crate::core::{Core, Event, Failure, Scratch};
use crate::evict::is_free;
use crate::segment::{Segment, SegmentTable, CHUNK_PAGES};
use lev_wire::PageNumber;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Copies that may be on their way out at the same time: a frame carries many of them.
const BATCH: u64 = 512;
/// The thread that makes room is told of copies in such groups.
const NEWS: u64 = 64;

/// Copies that came here.
pub(crate) struct Copies {
    /// Pages that this node may hold.
    limit: u64,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    /// In their order. Those that are gone by other ways are still among them.
    pages: VecDeque<PageNumber>,
    /// Since somebody last asked.
    came: u64,
}

impl Copies {
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            limit,
            queue: Mutex::default(),
        }
    }

    /// One came; returns whether that is news to the thread that makes room.
    pub(crate) fn came(&self, page: PageNumber) -> bool {
        let mut queue = self.queue();
        queue.pages.push_back(page);
        if queue.pages.len() as u64 > self.limit {
            queue.pages.pop_front(); // most of them are gone: the clock hand finds what is not
        }
        queue.came += 1;
        queue.came % NEWS == 0
    }

    /// How many came since this was last asked.
    fn take_came(&self) -> u64 {
        std::mem::take(&mut self.queue().came)
    }

    /// The oldest beside each other, at most `most`, such that `keep` are left; they are not known here any more.
    fn oldest(&self, most: u64, keep: u64) -> Option<Range<PageNumber>> {
        let mut queue = self.queue();
        let most = most.min((queue.pages.len() as u64).saturating_sub(keep));
        let first = *queue.pages.front()?;
        let mut run = first..first;
        while run.end - run.start < most && queue.pages.front() == Some(&run.end) {
            queue.pages.pop_front();
            run.end += 1;
        }
        (!run.is_empty()).then_some(run)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    /// Gives back old copies if there is little room; `all`: also the last few. Returns how many came since the last call,
    /// and how many go.
    pub(crate) fn drop_old_copies(
        &self,
        table: &SegmentTable,
        all: bool,
        scratch: &mut Scratch,
    ) -> Result<(u64, u64), Failure> {
        let (room, copies) = (&self.room, &self.room.copies);
        let came = copies.take_came();
        let most = room.lacking().min(BATCH).saturating_sub(room.returning());
        let wanted = if room.resident() > room.high() {
            most
        } else {
            most.min(2 * came)
        };
        let keep = if all { 0 } else { copies.limit / 32 };
        let mut dropped = 0;
        while dropped < wanted {
            let Some(mut run) = copies.oldest(wanted - dropped, keep) else {
                break;
            };
            while !run.is_empty() {
                let Some((segment, first)) = table.find_page(run.start) else {
                    break; // its segment was given up
                };
                let end = (first + run.end - run.start).min(segment.pages);
                let pages = same_chunk(&(first..end), first);
                run.start += pages.end - pages.start;
                dropped += self.drop_copies(segment, pages, scratch)?;
            }
        }
        Ok((came, dropped))
    }

    /// Gives back the copies among the pages, all of one chunk; returns how many.
    fn drop_copies(
        &self,
        segment: &Segment,
        pages: Range<u64>,
        scratch: &mut Scratch,
    ) -> Result<u64, Failure> {
        let (mut chunk, _) = self.lock_watched(segment, pages.start)?;
        let copies: Vec<u64> = pages
            .filter(|page| is_free(&chunk.pages[*page as usize % CHUNK_PAGES], true))
            .collect();
        let count = copies.len() as u64;
        self.handle_together(segment, &mut chunk, copies, Event::Return, scratch)?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_in_runs_and_some_stay() {
        let copies = Copies::new(8);
        for page in [5, 6, 7, 20, 21] {
            copies.came(page);
        }
        assert_eq!(copies.oldest(2, 0), Some(5..7));
        assert_eq!(copies.oldest(9, 0), Some(7..8));
        assert_eq!(copies.oldest(9, 1), Some(20..21));
        assert_eq!(copies.oldest(9, 1), None);
        assert_eq!((copies.take_came(), copies.take_came()), (5, 0));
        (100..110).for_each(|page| {
            copies.came(page);
        });
        assert_eq!(copies.oldest(9, 0), Some(102..110)); // not more than the node may hold
    }
}
