//! What a thread does in a soak: a random program over the region that judges every word that it reads.

use super::memory::Memory;
use super::plan::{mix, Plan, BLOCK_PAGES, PAGE_WORDS};
use crate::clock::monotonic_ns;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::Arc;

/// Somebody is changing the block.
const LOCKED: u64 = 1 << 63;
/// Wrong words that one thread reports before it gives up.
const MOST_FINDINGS: usize = 8;
/// Blocks that a stream runs through.
const STREAM_BLOCKS: u64 = 4;
/// Half of the work goes to so many blocks at a time, so that nodes meet.
const BUSY_BLOCKS: u64 = 8;
/// And moves on after so long.
const BUSY_NS: u64 = 2_000_000_000;

/// A word that is wrong.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Its place in the region, bytes.
    pub offset: u64,
    /// What is wrong.
    pub text: String,
}

/// How far a thread is, for who watches it.
#[derive(Default)]
pub struct Progress {
    /// Operations done.
    pub done: AtomicU64,
    /// The word that it is at.
    pub word: AtomicU64,
}

/// Operations done, by kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub glances: u64,
    pub changes: u64,
    pub inspections: u64,
    pub streams: u64,
    pub additions: u64,
    pub pair_writes: u64,
    pub pair_reads: u64,
    /// Tried while another thread had the lock.
    pub busy: u64,
}

impl Tally {
    /// Names and values.
    pub fn named(&self) -> [(&'static str, u64); 8] {
        [
            ("glances", self.glances),
            ("changes", self.changes),
            ("inspections", self.inspections),
            ("streams", self.streams),
            ("additions", self.additions),
            ("pair_writes", self.pair_writes),
            ("pair_reads", self.pair_reads),
            ("busy", self.busy),
        ]
    }
}

/// One thread's program and all that it knows.
pub struct Program {
    plan: Plan,
    memory: Memory,
    writer: u64,
    dice: u64,
    progress: Arc<Progress>,
    pub tally: Tally,
    pub findings: Vec<Finding>,
    /// What this thread added, by counter.
    pub added: Vec<u64>,
    /// Versions that this thread made, by block.
    pub made: Vec<u64>,
    /// What a counter was at least when it was last looked at.
    counted: Vec<u64>,
    /// The newest numbers seen of each pair: of its first word, and of its flag.
    seen: Vec<[u32; 2]>,
}

impl Program {
    pub fn new(plan: Plan, memory: Memory, writer: u64, progress: Arc<Progress>) -> Self {
        let zeroes = |count: u64| vec![0; count as usize];
        Self {
            writer,
            dice: mix(plan.seed ^ mix(writer + 1)),
            progress,
            tally: Tally::default(),
            findings: Vec::new(),
            added: zeroes(plan.counters()),
            made: zeroes(plan.blocks()),
            counted: zeroes(plan.counters()),
            // One by one: as zeroes it would take memory only bit by bit, and look like growth.
            seen: (0..plan.pairs()).map(|_| [0; 2]).collect(),
            plan,
            memory,
        }
    }

    /// How far this thread is.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Works until told to stop, or until too much is wrong.
    pub fn run(&mut self, stop: &AtomicBool) {
        while !stop.load(Acquire) && self.findings.len() < MOST_FINDINGS {
            self.step();
            self.progress.done.fetch_add(1, Relaxed);
        }
    }

    fn step(&mut self) {
        match self.below(100) {
            0..25 => self.glance(),
            25..45 => self.with_lock(Self::change),
            45..55 => self.with_lock(Self::inspect),
            55..58 => self.stream(),
            58..72 => self.add(),
            72..86 => self.write_pair(),
            _ => self.read_pair(),
        }
    }

    /// A number below `limit` (SplitMix64).
    fn below(&mut self, limit: u64) -> u64 {
        self.dice = self.dice.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.dice) % limit
    }

    /// A block with data: half of the time one that many want at the moment.
    fn block(&mut self) -> u64 {
        loop {
            let block = if self.below(2) == 0 {
                let now = monotonic_ns() / BUSY_NS;
                mix(self.plan.seed ^ mix(now)).wrapping_add(self.below(BUSY_BLOCKS) * 5)
                    % self.plan.blocks()
            } else {
                self.below(self.plan.blocks())
            };
            if self.plan.is_data(block) {
                return block;
            }
        }
    }

    fn at(&self, word: u64) -> &AtomicU64 {
        self.progress.word.store(word, Relaxed);
        self.memory.word(word)
    }

    fn wrong(&mut self, word: u64, value: u64, expected: &str) {
        let text = match self.plan.number(word, value) {
            Some(number) => format!("holds number {number} instead of {expected}"),
            None => format!("holds {value:#018x}, which belongs elsewhere, instead of {expected}"),
        };
        let page = word / PAGE_WORDS;
        self.findings.push(Finding {
            offset: word * 8,
            text: format!("page {page} word {}: {text}", word % PAGE_WORDS),
        });
    }

    /// Reads one word of a block without its lock: it must be what some version says that was there meanwhile.
    fn glance(&mut self) {
        let block = self.block();
        let (page, index) = (self.below(BLOCK_PAGES), self.below(PAGE_WORDS));
        self.read_page(block, page, index..index + 1);
        self.tally.glances += 1;
    }

    /// Reads blocks one after the other, without locks.
    fn stream(&mut self) {
        let first = self.block();
        for block in first..(first + STREAM_BLOCKS).min(self.plan.blocks()) {
            if self.plan.is_data(block) {
                (0..BLOCK_PAGES).for_each(|page| self.read_page(block, page, 0..PAGE_WORDS));
            }
        }
        self.tally.streams += 1;
    }

    /// Reads words of a page of a block while others may write them.
    fn read_page(&mut self, block: u64, page: u64, words: std::ops::Range<u64>) {
        let lock = self.plan.lock(block);
        let before = self.at(lock).load(Acquire) & !LOCKED;
        let least = self.plan.writers_of(block, page, before);
        let first = (block * BLOCK_PAGES + page) * PAGE_WORDS;
        let values: Vec<u64> = words
            .clone()
            .map(|index| self.at(first + index).load(Acquire))
            .collect();
        let after = self.at(lock).load(Acquire);
        let most = (after & !LOCKED) + u64::from(after & LOCKED != 0);
        for (index, value) in words.zip(values) {
            let least = least[index as usize];
            let number = self.plan.number(first + index, value);
            if !number.is_some_and(|number| (least..=most).contains(&number)) {
                return self.wrong(first + index, value, &format!("{least} to {most}"));
            }
        }
    }

    /// Does something with a block that nobody else has; nothing if somebody has it.
    fn with_lock(&mut self, body: fn(&mut Self, u64, u64) -> u64) {
        let block = self.block();
        let lock = self.plan.lock(block);
        let version = self.at(lock).load(Acquire);
        let free = version & LOCKED == 0;
        let locked = version | LOCKED;
        let word = self.at(lock);
        if !free
            || word
                .compare_exchange(version, locked, SeqCst, Relaxed)
                .is_err()
        {
            self.tally.busy += 1;
            std::thread::yield_now();
            return;
        }
        let next = body(self, block, version);
        let was = self.at(lock).swap(next, SeqCst);
        if was != locked {
            self.wrong(
                lock,
                was,
                &format!("version {version}, locked by this thread"),
            );
        }
    }

    /// Judges a page of a block that this thread has locked.
    fn judge(&mut self, block: u64, page: u64, version: u64) {
        let last = self.plan.writers_of(block, page, version);
        let first = (block * BLOCK_PAGES + page) * PAGE_WORDS;
        for (index, number) in (0..PAGE_WORDS).zip(last) {
            let value = self.at(first + index).load(Acquire);
            if value != self.plan.value(first + index, number) {
                let expected = format!("{number} (version {version} of the block)");
                return self.wrong(first + index, value, &expected);
            }
        }
    }

    /// Judges all of a block.
    fn inspect(&mut self, block: u64, version: u64) -> u64 {
        (0..BLOCK_PAGES).for_each(|page| self.judge(block, page, version));
        self.tally.inspections += 1;
        version
    }

    /// Makes the next version of a block; sometimes looks first.
    fn change(&mut self, block: u64, version: u64) -> u64 {
        let next = version + 1;
        let change = self.plan.change(block, next);
        let look = self.below(2) == 0;
        for page in 0..BLOCK_PAGES {
            let words = change.words(page);
            if words.is_empty() {
                continue;
            }
            if look {
                self.judge(block, page, version);
            }
            let first = (block * BLOCK_PAGES + page) * PAGE_WORDS;
            for word in first + words.start..first + words.end {
                let value = self.plan.value(word, next);
                self.at(word).store(value, Release);
            }
        }
        self.made[block as usize] += 1;
        self.tally.changes += 1;
        next
    }

    /// Adds one to a counter.
    fn add(&mut self) {
        let counter = self.below(self.plan.counters());
        let word = self.plan.counter(counter);
        let was = self.at(word).fetch_add(1, SeqCst);
        let least = self.counted[counter as usize];
        if was < least {
            self.findings.push(Finding {
                offset: word * 8,
                text: format!("counter {counter} was {was} after it had been {least}"),
            });
        }
        self.counted[counter as usize] = was + 1;
        self.added[counter as usize] += 1;
        self.tally.additions += 1;
    }

    /// Writes both words of a pair that is this thread's.
    fn write_pair(&mut self) {
        let pair =
            self.below(self.plan.pairs() / self.plan.writers) * self.plan.writers + self.writer;
        let Some((first, flag)) = self.plan.pair(pair) else {
            return;
        };
        let number = u64::from(self.seen[pair as usize][0]);
        for word in [first, flag] {
            let value = self.at(word).load(Acquire);
            if value != self.plan.value(word, number) {
                return self.wrong(word, value, &format!("{number}, which this thread wrote"));
            }
        }
        for word in [first, flag] {
            let value = self.plan.value(word, number + 1);
            self.at(word).store(value, Release);
        }
        self.seen[pair as usize] = [number as u32 + 1; 2];
        self.tally.pair_writes += 1;
    }

    /// Reads a pair of another thread, the flag first: what was written before it must be there, too.
    fn read_pair(&mut self) {
        let pair = self.below(self.plan.pairs());
        let Some((first, flag)) = self.plan.pair(pair) else {
            return;
        };
        let [seen_first, seen_flag] = self.seen[pair as usize].map(u64::from);
        let value = self.at(flag).load(Acquire);
        let Some(flagged) = self.plan.number(flag, value).filter(|at| *at >= seen_flag) else {
            return self.wrong(flag, value, &format!("{seen_flag} or more"));
        };
        let value = self.at(first).load(Acquire);
        let least = seen_first.max(flagged);
        let Some(written) = self.plan.number(first, value).filter(|at| *at >= least) else {
            return self.wrong(first, value, &format!("{least} or more"));
        };
        self.seen[pair as usize] = [written as u32, flagged as u32];
        self.tally.pair_reads += 1;
    }

    /// The numbers of a pair that this thread expects while nobody works: at least, and whether exactly.
    pub fn expects(&self, pair: u64, flag: bool) -> (u64, bool) {
        let number = self.seen[pair as usize][usize::from(flag)];
        (number.into(), self.plan.owner(pair) == self.writer)
    }
}
