//! Where records wait for the thread that writes them: many threads put, one takes, nobody waits.
//!
//! A bounded queue after Dmitry Vyukov (1024cores.net, "Bounded MPMC queue"): each slot carries the number of the turn
//! in which it may be written or read. A thread that finds its slot still full gives its record up and counts it.

use crate::Record;
use std::sync::atomic::{AtomicU64, Ordering};

/// A bounded queue of records.
pub struct Ring {
    slots: Box<[Slot]>,
    tail: AtomicU64,
    head: AtomicU64,
    dropped: AtomicU64,
}

struct Slot {
    /// `n`: may be written by who took place `n`; `n + 1`: may be read as number `n`.
    turn: AtomicU64,
    words: [AtomicU64; 3],
}

impl Ring {
    /// Room for so many records, rounded up to a power of two.
    #[must_use]
    pub fn new(records: usize) -> Self {
        let count = records.next_power_of_two().max(2) as u64;
        let slot = |turn| Slot {
            turn: AtomicU64::new(turn),
            words: Default::default(),
        };
        Self {
            slots: (0..count).map(slot).collect(),
            tail: AtomicU64::new(0),
            head: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    fn slot(&self, place: u64) -> &Slot {
        &self.slots[place as usize & (self.slots.len() - 1)]
    }

    /// Adds a record, or counts it as dropped if there is no room. From any thread; allocates nothing, waits for nobody.
    pub fn put(&self, record: &Record) {
        let mut place = self.tail.load(Ordering::Relaxed);
        loop {
            let slot = self.slot(place);
            let turn = slot.turn.load(Ordering::Acquire);
            if turn < place {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                return;
            }
            if turn > place {
                place = self.tail.load(Ordering::Relaxed); // somebody else was faster
                continue;
            }
            let taken = self.tail.compare_exchange_weak(
                place,
                place + 1,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            match taken {
                Ok(_) => {
                    for (slot, word) in slot.words.iter().zip(record.words()) {
                        slot.store(word, Ordering::Relaxed);
                    }
                    slot.turn.store(place + 1, Ordering::Release);
                    return;
                }
                Err(now) => place = now,
            }
        }
    }

    /// Takes the oldest record. Of one thread only.
    pub fn take(&self) -> Option<Record> {
        let place = self.head.load(Ordering::Relaxed);
        let slot = self.slot(place);
        if slot.turn.load(Ordering::Acquire) != place + 1 {
            return None;
        }
        let words = [0, 1, 2].map(|word: usize| slot.words[word].load(Ordering::Relaxed));
        slot.turn
            .store(place + self.slots.len() as u64, Ordering::Release);
        self.head.store(place + 1, Ordering::Relaxed);
        Record::of_words(words)
    }

    /// Records that found no room since this was asked last.
    pub fn dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;
    use lev_wire::NodeId;

    fn record(number: u64) -> Record {
        Record {
            at_ns: number,
            page: number * 7,
            node: NodeId(3),
            kind: Kind::Read,
            flags: 0,
            other: NodeId(0),
            thread: number as u32,
        }
    }

    #[test]
    fn keeps_order_and_counts_what_finds_no_room() {
        let ring = Ring::new(4);
        (0..6).for_each(|number| ring.put(&record(number)));
        assert_eq!(ring.dropped(), 2);
        (0..4).for_each(|number| assert_eq!(ring.take(), Some(record(number))));
        assert_eq!(ring.take(), None);
        (10..14).for_each(|number| ring.put(&record(number))); // the places are free again
        assert_eq!(ring.dropped(), 0);
        assert_eq!(ring.take(), Some(record(10)));
    }

    #[test]
    fn whole_records_of_many_threads_arrive_once_and_in_the_order_of_each() {
        const EACH: u64 = 20_000;
        let ring = Ring::new(256);
        let mut seen = vec![Vec::new(); 4];
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4u64)
                .map(|thread| {
                    let ring = &ring;
                    scope.spawn(move || {
                        (0..EACH).for_each(|step| ring.put(&record(step << 8 | thread)))
                    })
                })
                .collect();
            loop {
                let over = threads.iter().all(|thread| thread.is_finished());
                match ring.take() {
                    Some(got) => {
                        assert_eq!(got, record(got.at_ns), "torn");
                        seen[(got.at_ns & 3) as usize].push(got.at_ns);
                    }
                    None if over => break,
                    None => std::thread::yield_now(),
                }
            }
        });
        let arrived: usize = seen.iter().map(Vec::len).sum();
        assert_eq!(arrived as u64 + ring.dropped(), 4 * EACH);
        assert!(seen
            .iter()
            .all(|of_one| of_one.windows(2).all(|pair| pair[0] < pair[1])));
    }
}
