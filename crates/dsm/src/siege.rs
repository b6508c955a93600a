//! Sees threads that keep losing a set of pages which they need together.
//!
//! A thread that comes back to one page, or to a few in turn, may have used them in between: see [`crate::hold`]. One that
//! comes back to many different pages, again and again, gets nothing done: an instruction needs them all at once.

use lev_wire::PageNumber;
use std::collections::HashMap;

/// So many pages to which a thread comes back are a set that it keeps losing.
const MANY: usize = 5;
/// The same, where a granted page is gone before the next one can be fetched.
const MANY_IF_DEAR: usize = 2;
/// How often it must have come back to each.
const AGAIN: u8 = 2;
/// Pages remembered for a thread.
const REMEMBERED: usize = 256;
/// A thread that comes back to a page so often more without than with others in between uses it: nobody keeps anything from
/// it.
const ALONE: u8 = 2;
/// So many other pages in between are still few.
const FEW: usize = 3;
/// It is not counted further than this.
const ALONE_COUNTED: u8 = 8;
/// A thread that comes back to a page later than this did something else in between, microseconds.
const RECENT_US: u64 = 3_000_000;
/// Tables that bounce do so together if a thread asked for both within so many microseconds.
const TOGETHER_US: u64 = 50_000;
/// Threads remembered; beyond that all are forgotten at once (threads come and go).
const THREADS: usize = 1024;

/// A page, when it was asked for, how often the thread came back to it after others, and how often more without; and
/// whether it may be a table through which addresses are translated.
struct Visit {
    page: PageNumber,
    at_us: u64,
    returns: u8,
    alone: u8,
    table: bool,
}

/// What a fault looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    /// The thread keeps losing this page and others with it.
    Lost,
    /// This page bounces, and no other one.
    Alone,
    /// Neither.
    Quiet,
}

/// Tables that bounce along with another one.
pub(crate) type Company = [Option<PageNumber>; FEW];

/// The pages that threads asked for last, latest first.
#[derive(Default)]
pub(crate) struct Sieges {
    threads: HashMap<u32, Vec<Visit>>,
}

/// A thread has to ask for a page.
#[derive(Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) thread: u32,
    pub(crate) page: PageNumber,
    pub(crate) at_us: u64,
    /// It lacks the page and writes, which is how nested paging walks every table.
    pub(crate) table: bool,
    /// Turns are being taken already, so that one return is enough.
    pub(crate) fighting: bool,
    /// Fetching a page takes longer than a granted one stays, so that even two pages never come together by themselves.
    pub(crate) dear: bool,
}

impl Sieges {
    /// Remembers a fault and says what it looks like.
    pub(crate) fn note(&mut self, fault: Fault) -> Sight {
        let Fault {
            thread,
            page,
            at_us,
            table,
            fighting,
            dear,
        } = fault;
        let (few, many) = if dear { (0, MANY_IF_DEAR) } else { (FEW, MANY) };
        if self.threads.len() >= THREADS {
            self.threads.clear();
        }
        let visits = self.threads.entry(thread).or_default();
        let recent = |visit: &Visit| at_us.saturating_sub(visit.at_us) < RECENT_US;
        let mut visit = Visit {
            page,
            at_us,
            returns: 0,
            alone: 0,
            table,
        };
        if let Some(at) = visits.iter().position(|visit| visit.page == page) {
            let old = visits.remove(at);
            if recent(&old) {
                visit.returns = old.returns.saturating_add(u8::from(at > 0));
                visit.alone = if at <= few {
                    (old.alone + 1).min(ALONE_COUNTED)
                } else {
                    old.alone.saturating_sub(1)
                };
            }
        }
        let (returns, alone) = (visit.returns, visit.alone);
        visits.truncate(REMEMBERED - 1);
        visits.insert(0, visit);
        if alone >= ALONE {
            return Sight::Alone;
        }
        let lost = |visit: &&Visit| visit.returns >= AGAIN && recent(visit);
        let besieged = || returns >= AGAIN && visits.iter().filter(lost).count() >= many;
        if (fighting && returns > 0) || besieged() {
            Sight::Lost
        } else {
            Sight::Quiet
        }
    }

    /// The other tables that `thread` keeps losing with the one that it asked for last. To find its next instruction it needs
    /// all of them; asked for one after the other, the first is gone when the last has come. Other pages that bounce are
    /// used between two faults, and taking two of them at once takes one from somebody who uses it.
    pub(crate) fn company(&self, thread: u32) -> Company {
        let visits = self.threads.get(&thread).map_or(&[][..], Vec::as_slice);
        let Some((last, others)) = visits.split_first().filter(|(last, _)| last.table) else {
            return Company::default();
        };
        let bounces = |visit: &&Visit| {
            let since = last.at_us.saturating_sub(visit.at_us);
            visit.table && visit.alone >= ALONE && since < TOGETHER_US
        };
        let mut tables = others.iter().take(FEW).filter(bounces);
        std::array::from_fn(|_| tables.next().map(|visit| visit.page))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the one thread that these tests have.
    fn fault(page: PageNumber, at_us: u64) -> Fault {
        Fault {
            thread: 7,
            page,
            at_us,
            table: false,
            fighting: false,
            dear: false,
        }
    }

    /// What comes out when a thread asks for so many pages in turn, so often.
    fn in_turn(pages: u64, rounds: u64, dear: bool) -> bool {
        let mut sieges = Sieges::default();
        let mut last = false;
        for visit in 0..pages * rounds {
            let fault = fault(visit % pages, visit * 100);
            last = sieges.note(Fault { dear, ..fault }) == Sight::Lost;
        }
        last
    }

    #[test]
    fn one_page_or_a_few_are_no_siege() {
        assert!((1..MANY as u64).all(|pages| !in_turn(pages, 50, false)));
    }

    #[test]
    fn two_pages_are_one_where_the_first_is_gone_before_the_second_has_come() {
        assert!(!in_turn(1, 50, true));
        assert!((2..MANY as u64).all(|pages| in_turn(pages, 5, true)));
    }

    #[test]
    fn many_pages_again_and_again_are_one() {
        assert!(!in_turn(8, 2, false));
        assert!(in_turn(8, 4, false) && in_turn(20, 4, false));
    }

    #[test]
    fn a_few_pages_that_bounce_alone_stay_so_between_storms() {
        let mut sieges = Sieges::default();
        let mut now = 0;
        let mut ask = |page, fighting| {
            now += 100;
            let fault = fault(page, now);
            sieges.note(Fault { fighting, ..fault })
        };
        for _ in 0..10 {
            for page in 0..=FEW as u64 {
                ask(page, true);
            }
        }
        assert_eq!(ask(0, true), Sight::Alone);
        // The kernel comes in between now and then.
        for round in 0..20 {
            for page in 100..130 {
                assert_ne!(ask(page, true), Sight::Alone, "round {round}");
            }
            assert_eq!(ask(0, true), Sight::Alone, "round {round}");
            ask(0, true);
            ask(0, true);
        }
        // Always with all the others: no longer alone.
        for _ in 0..ALONE_COUNTED {
            for page in 100..130 {
                ask(page, true);
            }
            ask(0, true);
        }
        for page in 100..130 {
            ask(page, true);
        }
        assert_eq!(ask(0, true), Sight::Lost);
    }

    /// What keeps page 0 company when a thread asks for these pages in turn, each so long after the last one.
    fn company_of_0(pages: &[(PageNumber, bool)], apart_us: u64) -> Vec<PageNumber> {
        let mut sieges = Sieges::default();
        let rounds = (0..10).flat_map(|_| pages).chain(&pages[..1]);
        for (&(page, table), time) in rounds.zip(1..) {
            let fault = fault(page, time * apart_us);
            sieges.note(Fault { table, ..fault });
        }
        sieges.company(7).into_iter().flatten().collect()
    }

    #[test]
    fn tables_that_bounce_keep_each_other_company() {
        assert_eq!(company_of_0(&[(0, true), (1, true)], 1000), [1]);
        assert_eq!(
            company_of_0(&[(0, true), (1, true), (2, true)], 1000),
            [2, 1]
        );
        assert_eq!(company_of_0(&[(0, true)], 1000), []);
        assert_eq!(Sieges::default().company(7), Company::default());
    }

    #[test]
    fn what_is_no_table_or_was_needed_at_another_time_keeps_none_company() {
        assert_eq!(company_of_0(&[(0, true), (1, false), (2, true)], 1000), [2]);
        assert_eq!(company_of_0(&[(0, false), (1, true)], 1000), []);
        assert_eq!(company_of_0(&[(0, true), (1, true)], TOGETHER_US), []);
        let set: Vec<_> = (0..MANY as u64).map(|page| (page, true)).collect();
        assert_eq!(company_of_0(&set, 1000), [], "a set waits for a turn");
    }

    #[test]
    fn what_runs_through_memory_is_none() {
        let mut sieges = Sieges::default();
        let fault = |page| Fault {
            fighting: true,
            ..fault(page, page * 50)
        };
        assert!((0..10_000).all(|page| sieges.note(fault(page)) == Sight::Quiet));
    }

    #[test]
    fn late_returns_do_not_count() {
        let mut sieges = Sieges::default();
        for round in 0..10 {
            let quiet = |page| sieges.note(fault(page, round * 2 * RECENT_US)) == Sight::Quiet;
            assert!((0..10).all(quiet));
        }
    }
}
