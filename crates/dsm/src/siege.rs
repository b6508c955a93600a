//! Sees threads that keep losing a set of pages which they need together.
//!
//! A thread that comes back to one page, or to a few in turn, may have used them in between: see [`crate::hold`]. One that
//! comes back to many different pages, again and again, gets nothing done: an instruction needs them all at once.

use lev_wire::PageNumber;
use std::collections::HashMap;

/// So many pages to which a thread comes back are a set that it keeps losing.
const MANY: usize = 5;
/// How often it must have come back to each.
const AGAIN: u8 = 2;
/// Pages remembered for a thread.
const REMEMBERED: usize = 256;
/// A thread that comes back to a page later than this did something else in between, microseconds.
const RECENT_US: u64 = 3_000_000;
/// Threads remembered; beyond that all are forgotten at once (threads come and go).
const THREADS: usize = 1024;

/// A page, when it was asked for, and how often the thread came back to it after others.
struct Visit {
    page: PageNumber,
    at_us: u64,
    returns: u8,
}

/// The pages that threads asked for last, latest first.
#[derive(Default)]
pub(crate) struct Sieges {
    threads: HashMap<u32, Vec<Visit>>,
}

impl Sieges {
    /// `thread` has to ask for `page`. `true`: it keeps losing this page and others with it. `fighting`: turns are being
    /// taken already, so that one return is enough.
    pub(crate) fn note(
        &mut self,
        thread: u32,
        page: PageNumber,
        now_us: u64,
        fighting: bool,
    ) -> bool {
        if self.threads.len() >= THREADS {
            self.threads.clear();
        }
        let visits = self.threads.entry(thread).or_default();
        let recent = |visit: &Visit| now_us.saturating_sub(visit.at_us) < RECENT_US;
        let returns = match visits.iter().position(|visit| visit.page == page) {
            Some(at) => {
                let old = visits.remove(at);
                match (recent(&old), at) {
                    (false, _) => 0,
                    (true, 0) => old.returns,
                    (true, _) => old.returns.saturating_add(1),
                }
            }
            None => 0,
        };
        visits.truncate(REMEMBERED - 1);
        let visit = Visit {
            page,
            at_us: now_us,
            returns,
        };
        visits.insert(0, visit);
        let lost = |visit: &&Visit| visit.returns >= AGAIN && recent(visit);
        (fighting && returns > 0)
            || (returns >= AGAIN && visits.iter().filter(lost).count() >= MANY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out when a thread asks for so many pages in turn, so often.
    fn in_turn(pages: u64, rounds: u64) -> bool {
        let mut sieges = Sieges::default();
        let mut last = false;
        for visit in 0..pages * rounds {
            last = sieges.note(7, visit % pages, visit * 100, false);
        }
        last
    }

    #[test]
    fn one_page_or_a_few_are_no_siege() {
        assert!((1..MANY as u64).all(|pages| !in_turn(pages, 50)));
    }

    #[test]
    fn many_pages_again_and_again_are_one() {
        assert!(!in_turn(8, 2));
        assert!(in_turn(8, 4) && in_turn(20, 4));
    }

    #[test]
    fn what_runs_through_memory_is_none() {
        let mut sieges = Sieges::default();
        assert!(!(0..10_000).any(|page| sieges.note(7, page, page * 50, true)));
    }

    #[test]
    fn late_returns_do_not_count() {
        let mut sieges = Sieges::default();
        for round in 0..10 {
            assert!(!(0..10).any(|page| sieges.note(7, page, round * 2 * RECENT_US, false)));
        }
    }
}
