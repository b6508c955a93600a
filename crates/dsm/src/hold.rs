//! The minimal holding time of a granted page, and the thread that serves demands when it is over.
//!
//! Why at all: an instruction may need several pages at once. If each is taken away while the next one is fetched,
//! nobody ever gets anywhere. So a granted page stays for a while. That while is short, because everybody else
//! waits for it; it doubles for a page to which a thread has to come back after it fetched others (it lost the page
//! before it had the rest), and shrinks when that stops. A part that differs by node and time keeps two nodes from
//! dancing in step.

use crate::segment::PageRecord;
use lev_coherence::Demand;
use lev_wire::PageNumber;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The holding time is doubled so often at most.
const MAX_BACKOFF: u8 = 8;
/// No page is held longer than this, microseconds.
const LONGEST_US: u32 = 20_000;
/// A thread that comes back to a page later than this did something else in between, microseconds.
const REVISIT_US: u32 = 50_000;
/// Pages remembered for a thread: about as many as an instruction can need.
const REMEMBERED: usize = 8;
/// Threads remembered; beyond that all are forgotten at once (threads come and go).
const THREADS: usize = 4096;

/// How long a page that was granted at `record.granted_us` stays, microseconds.
pub(crate) fn holding_time_us(base_us: u32, record: &PageRecord, node: u16) -> u32 {
    let doubled = base_us
        .saturating_mul(1 << record.backoff.min(MAX_BACKOFF))
        .min(LONGEST_US);
    // Up to once more, by a hash of when and where (Fibonacci hashing: the high bits are well mixed).
    let seed = record.granted_us ^ u32::from(node).wrapping_mul(0x85EB_CA6B);
    let mixed = seed.wrapping_mul(0x9E37_79B9) >> 16;
    let extra = if record.backoff == 0 {
        0
    } else {
        ((u64::from(doubled) * u64::from(mixed)) >> 16) as u32
    };
    doubled + extra
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
        match again {
            Some(at) if at != last => record.backoff = (record.backoff + 1).min(MAX_BACKOFF),
            _ => record.backoff = record.backoff.saturating_sub(1),
        }
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
    stopped: bool,
}

/// Ordered by deadline only.
pub(crate) struct Entry {
    deadline: Instant,
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
    /// Puts a demand off.
    pub(crate) fn push(&self, deadline: Instant, page: PageNumber, demand: Demand) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let first = state
            .heap
            .peek()
            .is_none_or(|Reverse(entry)| deadline < entry.deadline);
        state.heap.push(Reverse(Entry {
            deadline,
            page,
            demand,
        }));
        if first {
            self.changed.notify_one();
        }
    }

    /// Sleeps until a demand is due; `None`: the engine stops.
    pub(crate) fn next(&self) -> Option<Entry> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if state.stopped {
                return None;
            }
            let wait = match state.heap.peek() {
                None => None,
                Some(Reverse(entry)) => match entry.deadline.checked_duration_since(Instant::now())
                {
                    None | Some(Duration::ZERO) => {
                        return state.heap.pop().map(|Reverse(entry)| entry)
                    }
                    wait => wait,
                },
            };
            state = match wait {
                None => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(wait) => {
                    self.changed
                        .wait_timeout(state, wait)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_must_come_back_gets_more_time() {
        let visits = Visits::default();
        let (mut first, mut second) = (PageRecord::default(), PageRecord::default());
        for round in 1..=20 {
            visits.note(7, 100, round * 200, &mut first);
            visits.note(7, 101, round * 200 + 100, &mut second);
        }
        assert_eq!((first.backoff, second.backoff), (MAX_BACKOFF, MAX_BACKOFF));
        assert!(holding_time_us(50, &first, 0) >= 50 << MAX_BACKOFF);
        for round in 100..120 {
            visits.note(8, 100, round * 200, &mut first);
        }
        assert_eq!(first.backoff, 0);
        assert_eq!(holding_time_us(50, &first, 0), 50);
    }

    #[test]
    fn one_page_that_bounces_is_not_held_longer() {
        let visits = Visits::default();
        let mut record = PageRecord::default();
        (1..100).for_each(|round| visits.note(7, 100, round * 200, &mut record));
        assert_eq!(record.backoff, 0);
    }

    #[test]
    fn demands_come_in_order_of_their_time() {
        let queue = HoldQueue::default();
        let now = Instant::now();
        queue.push(now + Duration::from_millis(4), 2, Demand::Drop);
        queue.push(now + Duration::from_millis(2), 1, Demand::Drop);
        assert_eq!(queue.next().map(|entry| entry.page), Some(1));
        assert_eq!(queue.next().map(|entry| entry.page), Some(2));
        assert!(now.elapsed() >= Duration::from_millis(4));
        queue.stop();
        assert!(queue.next().is_none());
    }
}
