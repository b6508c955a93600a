//! The minimal holding time of a granted page, and the thread that serves demands when it is over.
//!
//! Why at all: an instruction may need several pages at once. If each is taken away while the next one is fetched,
//! nobody ever gets anywhere. So a granted page stays for a while. That while is short, because everybody else
//! waits for it. It cannot be told from here whether a thread that comes back to a page was robbed before it could
//! use it or has used it and wants it again; growing the time for all such pages made honest ping-pong a hundred
//! times slower. So the time is drawn by lot: mostly it is the short one, but for pages to which threads come back,
//! some grants, drawn differently on each node, last several times as long as fetching a page does. Two nodes that
//! duel draw different lots soon, and the one with the long one gets all of its pages together.

use crate::core::{Core, Event, Scratch};
use crate::segment::{Comebacks, PageRecord};
use crate::threads;
use lev_coherence::Demand;
use lev_wire::PageNumber;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A long hold, in times of fetching a page without contention.
const LONG: u32 = 8;
/// A very long one.
const VERY_LONG: u32 = 32;
/// No page is held longer than this, microseconds.
const LONGEST_US: u32 = 50_000;
/// A thread must have come back to a page so often after it fetched others before its lots change.
const ROBBED: u8 = 2;
/// The same, for a thread that fetched no other page in between.
const BOUNCED: u8 = 4;
/// A demand that waits for the end of a turn is looked at so often in between.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// A thread that comes back to a page later than this did something else in between, microseconds.
const REVISIT_US: u32 = 50_000;
/// Pages remembered for a thread: about as many as an instruction can need.
const REMEMBERED: usize = 8;
/// Threads remembered; beyond that all are forgotten at once (threads come and go).
const THREADS: usize = 4096;

/// How long fetching a page takes without contention: the shortest time seen, which is forgotten slowly.
pub(crate) struct FetchTime(AtomicU32);

impl FetchTime {
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(200)) // a guess; the first sample is most likely shorter
    }

    /// A page was fetched in so many microseconds.
    pub(crate) fn note(&self, us: u32) {
        let old = self.0.load(Relaxed);
        let new = if us < old {
            us.max(1)
        } else {
            old + ((us - old) / 1024).min(old).max(u32::from(us > old))
        };
        self.0.store(new.min(LONGEST_US), Relaxed);
    }

    pub(crate) fn get(&self) -> u32 {
        self.0.load(Relaxed)
    }
}

/// How long a page that was granted at `record.granted_us` stays, microseconds.
pub(crate) fn holding_time_us(
    base_us: u32,
    fetch: &FetchTime,
    record: &PageRecord,
    node: u16,
) -> u32 {
    let (robbed, bounced) = record.comebacks.get();
    if base_us == 0 || (robbed < ROBBED && bounced < BOUNCED) {
        return base_us;
    }
    // The lot: a hash of when and where (Fibonacci hashing: the high bits are well mixed).
    let seed = record.granted_us ^ u32::from(node).wrapping_mul(0x85EB_CA6B);
    let lot = seed.wrapping_mul(0x9E37_79B9) >> 26;
    let times = match (robbed >= ROBBED, lot) {
        (_, 0) => VERY_LONG,
        (true, 1..=8) | (false, 1) => LONG,
        _ => return base_us,
    };
    base_us
        .max(fetch.get().saturating_mul(times))
        .min(LONGEST_US)
}

/// What threads faulted on last, to see who is being robbed.
#[derive(Default)]
pub(crate) struct Visits {
    threads: Mutex<HashMap<u32, Recent>>,
}

#[derive(Default)]
struct Recent {
    pages: [(PageNumber, u32); REMEMBERED],
    next: usize,
}

impl Visits {
    /// `thread` had to ask for `page` at `now_us`; adapts the page's holding time.
    pub(crate) fn note(&self, thread: u32, page: PageNumber, now_us: u32, record: &mut PageRecord) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        if threads.len() >= THREADS {
            threads.clear();
        }
        let recent = threads.entry(thread).or_default();
        let last = (recent.next + REMEMBERED - 1) % REMEMBERED;
        let again = recent.pages.iter().position(|(seen, at)| {
            *seen == page && *at != 0 && now_us.wrapping_sub(*at) < REVISIT_US
        });
        let (robbed, bounced) = record.comebacks.get();
        record.comebacks = match again {
            Some(at) if at != last => Comebacks::new(robbed + 1, bounced),
            Some(_) => Comebacks::new(robbed.saturating_sub(1), bounced + 1),
            None => Comebacks::new(robbed.saturating_sub(1), bounced.saturating_sub(1)),
        };
        match again {
            Some(at) if at == last => recent.pages[at].1 = now_us,
            _ => {
                recent.pages[recent.next] = (page, now_us);
                recent.next = (recent.next + 1) % REMEMBERED;
            }
        }
    }
}

/// Demands that wait for their time, earliest first.
#[derive(Default)]
pub(crate) struct HoldQueue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    heap: BinaryHeap<Reverse<Entry>>,
    alarm: Option<Instant>,
    stopped: bool,
}

/// What [`HoldQueue::next`] wakes for.
pub(crate) enum Due {
    Demand(Entry),
    /// The time that [`HoldQueue::wake_at`] was told has come.
    Alarm,
}

/// Ordered by deadline only.
pub(crate) struct Entry {
    /// When to look at it.
    deadline: Instant,
    /// When the page may go whatever happens.
    until: Instant,
    pub(crate) page: PageNumber,
    pub(crate) demand: Demand,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.deadline == other.deadline
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.deadline.cmp(&other.deadline)
    }
}

impl HoldQueue {
    /// Puts a demand off. `look`: the reason may go away before, so it is looked at in between.
    pub(crate) fn push(&self, until: Instant, look: bool, page: PageNumber, demand: Demand) {
        let deadline = if look {
            until.min(Instant::now() + LOOK_AGAIN)
        } else {
            until
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let first = state
            .heap
            .peek()
            .is_none_or(|Reverse(entry)| deadline < entry.deadline);
        state.heap.push(Reverse(Entry {
            deadline,
            until,
            page,
            demand,
        }));
        if first {
            self.changed.notify_one();
        }
    }

    /// [`HoldQueue::next`] also wakes at this time; the earliest one counts.
    pub(crate) fn wake_at(&self, at: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.alarm.is_none_or(|alarm| at < alarm) {
            state.alarm = Some(at);
            self.changed.notify_one();
        }
    }

    /// Sleeps until something is due; `None`: the engine stops.
    pub(crate) fn next(&self) -> Option<Due> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if state.stopped {
                return None;
            }
            let now = Instant::now();
            let demand = state.heap.peek().map(|Reverse(entry)| entry.deadline);
            let is_next = |alarm| alarm <= now && demand.is_none_or(|deadline| alarm <= deadline);
            if state.alarm.is_some_and(is_next) {
                state.alarm = None;
                return Some(Due::Alarm);
            }
            if demand.is_some_and(|deadline| deadline <= now) {
                return state.heap.pop().map(|Reverse(entry)| Due::Demand(entry));
            }
            state = match [demand, state.alarm].into_iter().flatten().min() {
                None => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    self.changed
                        .wait_timeout(state, at.saturating_duration_since(now))
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }

    /// Ends the thread that waits in [`HoldQueue::next`].
    pub(crate) fn stop(&self) {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .stopped = true;
        self.changed.notify_all();
    }
}

impl Core {
    /// Serves demands whose holding time is over, until the engine stops.
    pub(crate) fn serve_holds(&self) {
        threads::wake_exactly();
        let mut scratch = Scratch::new();
        while let Some(due) = self.holds.next() {
            let entry = match due {
                Due::Demand(entry) => entry,
                Due::Alarm => {
                    if let Err(failure) = self.look_at_turn(&mut scratch) {
                        self.fatal(failure.into_error());
                    }
                    continue;
                }
            };
            if Instant::now() < entry.until && self.turn_left_us() > 0 {
                self.holds.push(entry.until, true, entry.page, entry.demand);
                continue;
            }
            let result = {
                let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
                match table.find_page(entry.page) {
                    Some((segment, offset)) => {
                        self.handle(segment, offset, Event::Resume(entry.demand), &mut scratch)
                    }
                    None => Ok(()),
                }
            };
            if let Err(failure) = result {
                self.fatal(failure.into_error());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Holding times of many grants.
    fn times(record: PageRecord, node: u16) -> Vec<u32> {
        let fetch = FetchTime::new();
        fetch.note(100);
        let grants = (1..10_000).map(|grant| PageRecord {
            granted_us: grant * 137,
            ..record
        });
        grants
            .map(|record| holding_time_us(50, &fetch, &record, node))
            .collect()
    }

    #[test]
    fn a_thread_that_must_come_back_gets_more_time_now_and_then() {
        let visits = Visits::default();
        let (mut first, mut second) = (PageRecord::default(), PageRecord::default());
        assert_eq!(times(first, 0).iter().max(), Some(&50));
        for round in 1..=20 {
            visits.note(7, 100, round * 200, &mut first);
            visits.note(7, 101, round * 200 + 100, &mut second);
        }
        let (here, there) = (times(first, 0), times(second, 1));
        assert_eq!(here.iter().max(), Some(&3200));
        let average = here.iter().sum::<u32>() as usize / here.len();
        assert!((100..300).contains(&average), "on average {average} us");
        let wins = here
            .iter()
            .zip(&there)
            .filter(|(here, there)| **here >= **there + 400)
            .count();
        assert!(
            wins > here.len() / 20,
            "only {wins} grants here outlast those there"
        );
        for round in 100..120 {
            visits.note(8, round, u32::MAX / 2, &mut first);
        }
        assert_eq!(times(first, 0).iter().max(), Some(&50));
    }

    #[test]
    fn one_page_that_bounces_is_hardly_held_longer() {
        let visits = Visits::default();
        let mut record = PageRecord::default();
        (1..100).for_each(|round| visits.note(7, 100, round * 200, &mut record));
        let times = times(record, 0);
        let average = times.iter().sum::<u32>() as usize / times.len();
        assert!((51..150).contains(&average), "on average {average} us");
    }

    #[test]
    fn the_fetch_time_follows_the_shortest() {
        let fetch = FetchTime::new();
        fetch.note(30);
        (0..100).for_each(|_| fetch.note(5000));
        assert!((30..3000).contains(&fetch.get()));
        (0..10_000).for_each(|_| fetch.note(5000));
        assert!(fetch.get() > 4000);
        fetch.note(25);
        assert_eq!(fetch.get(), 25);
    }

    #[test]
    fn demands_come_in_order_of_their_time() {
        let queue = HoldQueue::default();
        let now = Instant::now();
        let after = |ms| now + Duration::from_millis(ms);
        queue.push(after(4), false, 2, Demand::Drop);
        queue.push(after(2), false, 1, Demand::Drop);
        queue.wake_at(after(5));
        queue.wake_at(after(3));
        let order = [(); 3].map(|()| match queue.next() {
            Some(Due::Demand(entry)) => Some(entry.page),
            Some(Due::Alarm) | None => None,
        });
        assert_eq!(order, [Some(1), None, Some(2)]);
        assert!(now.elapsed() >= Duration::from_millis(4));
        queue.push(after(5000), true, 3, Demand::Drop);
        assert!(matches!(queue.next(), Some(Due::Demand(entry)) if entry.page == 3));
        assert!(now.elapsed() < Duration::from_millis(4000));
        queue.stop();
        assert!(queue.next().is_none());
    }
}
