//! Threads that touch memory while its pages come and go: a driver that gives and takes pages as it likes, by the rules that
//! the engine keeps (decide by the page's state, never by the event; protect, read, then drop), loses no write and wakes
//! everybody. A driver that breaks a rule is caught. Needs the right to use userfaultfd; skips without it.

mod memory;

use lev_uffd::{Fault, Memory};
use memory::{Mapping, PAGE};
use proptest::prelude::*;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const PAGES: usize = 6;
const THREADS: usize = 3;
const TOUCHES: u64 = 60;

/// What the driver does between two looks at the faults.
#[derive(Clone, Copy, Debug)]
enum Move {
    Protect(usize),
    /// Takes the page away and keeps its contents.
    Steal(usize),
    /// Leaves the faults that are there for later: they get old.
    Wait,
    /// Serves what waits, the newest first.
    Serve,
}

/// A rule that the driver breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    /// A write-protect event is taken for an upgrade, although the page has been taken away since.
    BelievesEvents,
    /// A page is read before it is protected.
    ReadsBeforeProtecting,
    /// An event that has become old is thrown away instead of waking the thread.
    ForgetsOldEvents,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Missing,
    ReadOnly,
    Writable,
}

struct Driver<'a> {
    mapping: &'a Mapping,
    states: [State; PAGES],
    kept: Vec<Option<Vec<u8>>>,
    waiting: Vec<Fault>,
    mistake: Mistake,
}

impl Driver<'_> {
    fn take_events(&mut self) {
        let mut faults = Vec::new();
        self.mapping.uffd.read(&mut faults).unwrap();
        self.waiting.extend(faults);
    }

    fn page_of(&self, fault: &Fault) -> usize {
        (fault.address - self.mapping.address(0)) as usize / PAGE
    }

    fn protect(&mut self, page: usize) {
        if self.states[page] == State::Writable {
            let uffd = &self.mapping.uffd;
            uffd.protect(self.mapping.address(page), PAGE as u64)
                .unwrap();
            self.states[page] = State::ReadOnly;
        }
    }

    fn steal(&mut self, page: usize) {
        if self.states[page] == State::Missing {
            return;
        }
        let mut bytes = vec![0; PAGE];
        let read = |bytes: &mut Vec<u8>| {
            let from = self.mapping.address(page) as *const u8;
            // SAFETY: the page is present, by the driver's own book; `bytes` is as long.
            unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), PAGE) };
        };
        if self.mistake == Mistake::ReadsBeforeProtecting {
            read(&mut bytes);
            // What another processor would do in between.
            std::thread::sleep(Duration::from_millis(2));
            self.protect(page);
        } else {
            self.protect(page);
            read(&mut bytes);
        }
        self.mapping.drop_pages(page, 1);
        self.states[page] = State::Missing;
        self.kept[page] = Some(bytes);
    }

    fn serve(&mut self) {
        while let Some(fault) = self.waiting.pop() {
            self.serve_one(&fault);
        }
    }

    fn serve_one(&mut self, fault: &Fault) {
        let page = self.page_of(fault);
        let (uffd, address) = (&self.mapping.uffd, self.mapping.address(page));
        let believes = self.mistake == Mistake::BelievesEvents && fault.protected;
        match self.states[page] {
            State::Missing if believes => {
                uffd.zero(address, PAGE as u64).unwrap();
                self.states[page] = State::Writable;
            }
            State::Missing if self.mistake == Mistake::ForgetsOldEvents && fault.protected => {}
            State::Missing => {
                match self.kept[page].take() {
                    // Readers get a page that they may only read: their next write faults again.
                    Some(bytes) => uffd.copy(address, &bytes, !fault.write).unwrap(),
                    None => uffd.zero(address, PAGE as u64).unwrap(),
                };
                let (_, protected) = self.mapping.entry(page);
                self.states[page] = if protected {
                    State::ReadOnly
                } else {
                    State::Writable
                };
            }
            State::ReadOnly if fault.write => {
                uffd.unprotect(address, PAGE as u64).unwrap();
                self.states[page] = State::Writable;
            }
            State::ReadOnly | State::Writable => uffd.wake(address, PAGE as u64).unwrap(),
        }
    }
}

/// Runs threads against the driver; what went wrong.
fn run(memory: Memory, moves: &[Move], mistake: Mistake) -> Option<Result<(), String>> {
    // A mapping that stays: threads that a mistake leaves waiting for ever still use it.
    let mapping: &'static Mapping = Box::leak(Box::new(Mapping::new(PAGES, memory)?));
    let done: &'static AtomicUsize = Box::leak(Box::default());
    let wrong: &'static AtomicBool = Box::leak(Box::default());
    for thread in 0..THREADS {
        std::thread::spawn(move || {
            let mut seen = [0; PAGES];
            for touch in 0..TOUCHES {
                let page = (touch as usize * (thread + 1) + thread) % PAGES;
                let word = mapping.word(page);
                let value = if touch % 3 == 0 {
                    word.load(Ordering::SeqCst)
                } else {
                    word.fetch_add(1, Ordering::SeqCst) + 1
                };
                // Counts only grow: a smaller number is an old copy.
                if value < seen[page] {
                    wrong.store(true, Ordering::SeqCst);
                }
                seen[page] = value;
            }
            done.fetch_add(1, Ordering::SeqCst);
        });
    }
    let mut driver = Driver {
        mapping,
        states: [State::Missing; PAGES],
        kept: vec![None; PAGES],
        waiting: Vec::new(),
        mistake,
    };
    // A thread that waits for ever is only to be expected from a driver that makes a mistake.
    let limit = if mistake == Mistake::None { 60 } else { 2 };
    let deadline = Instant::now() + Duration::from_secs(limit);
    let mut moves = moves.iter().cycle();
    while done.load(Ordering::SeqCst) < THREADS {
        if Instant::now() > deadline {
            return Some(Err("a thread waits for ever".into()));
        }
        driver.take_events();
        match moves.next() {
            Some(Move::Protect(page)) => driver.protect(*page),
            Some(Move::Steal(page)) => driver.steal(*page),
            Some(Move::Wait) => std::thread::yield_now(),
            Some(Move::Serve) | None => driver.serve(),
        }
    }
    let sum: u64 = (0..PAGES)
        .map(|page| match (&driver.states[page], &driver.kept[page]) {
            (State::Missing, Some(bytes)) => {
                bytes.first_chunk().map_or(0, |b| u64::from_ne_bytes(*b))
            }
            (State::Missing, None) => 0,
            _ => mapping.word(page).load(Ordering::SeqCst),
        })
        .sum();
    let expected = THREADS as u64 * (0..TOUCHES).filter(|touch| touch % 3 != 0).count() as u64;
    if wrong.load(Ordering::SeqCst) {
        return Some(Err("a thread saw an old value".into()));
    }
    Some(
        (sum == expected)
            .then_some(())
            .ok_or(format!("{sum} of {expected} writes")),
    )
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let page = || 0..PAGES;
    let one = prop_oneof![
        2 => page().prop_map(Move::Protect),
        2 => page().prop_map(Move::Steal),
        1 => Just(Move::Wait),
        3 => Just(Move::Serve),
    ];
    // At the end everything is served, or nobody would get anywhere.
    proptest::collection::vec(one, 1..30).prop_map(|mut moves| {
        moves.push(Move::Serve);
        moves
    })
}

fn no_write_is_lost(memory: Memory) {
    let config = ProptestConfig {
        cases: 25,
        ..ProptestConfig::default()
    };
    proptest!(config, |(moves in moves())| {
        if let Some(result) = run(memory, &moves, Mistake::None) {
            prop_assert_eq!(result, Ok(()));
        }
    });
}

#[test]
fn anonymous_memory_loses_no_write() {
    no_write_is_lost(Memory::Anonymous);
}

#[test]
fn shared_memory_loses_no_write() {
    no_write_is_lost(Memory::Shmem);
}

/// Whether a driver with this mistake is caught in one of some runs.
fn caught(mistake: Mistake, moves: &[Move]) -> bool {
    (0..40).any(|_| run(Memory::Anonymous, moves, mistake).is_none_or(|result| result.is_err()))
}

#[test]
fn mistakes_are_caught() {
    use Move::{Protect, Serve, Steal, Wait};
    let all = |make: fn(usize) -> Move| (0..PAGES).map(make);
    // Writers fault on protected pages; the pages are gone when their events are looked at.
    let late: Vec<Move> = all(Protect)
        .chain([Wait; 40])
        .chain(all(Steal))
        .chain([Serve, Wait])
        .collect();
    assert!(caught(Mistake::BelievesEvents, &late));
    let busy: Vec<Move> = [Serve, Wait, Serve]
        .into_iter()
        .chain(all(Steal))
        .chain([Serve])
        .collect();
    assert!(caught(Mistake::ReadsBeforeProtecting, &busy));
    assert!(caught(Mistake::ForgetsOldEvents, &late));
}
