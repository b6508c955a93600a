//! What came out of a run.

use lev_coherence::Access;
use lev_trace::Pattern;
use serde::{Serialize, Serializer};

/// Figures of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// Nodes.
    pub nodes: u16,
    /// Accesses of all threads.
    pub accesses: u64,
    /// Accesses that had to wait.
    pub faults: u64,
    /// Time that half of them, 99 of 100, and all on average waited, microseconds; 0 without faults.
    pub p50_us: f64,
    /// See `p50_us`.
    pub p99_us: f64,
    /// See `p50_us`.
    pub mean_us: f64,
    /// Faults of all nodes in a second of simulated time.
    pub faults_per_second: f64,
    /// Frames sent for each fault.
    pub frames_per_fault: f64,
    /// Bytes sent for each fault.
    pub bytes_per_fault: f64,
    /// Part of the time in which the busiest node handled events.
    pub busiest: f64,
    /// Pages moved into shared memory.
    pub promotions: u64,
    /// Those that left it again.
    pub demotions: u64,
    /// Most requests that one page's home had to let wait at a time.
    pub queue_max: u64,
    /// Reads that returned old data: 0, or the protocol is wrong.
    pub stale_reads: u64,
    /// Simulated time, microseconds.
    pub time_us: f64,
    /// Each way of sharing that there was.
    pub classes: Vec<ClassOutcome>,
    /// A number for the accesses and their order (FNV-1a): equal for runs that did the same.
    #[serde(serialize_with = "hexadecimal")]
    pub order: u64,
}

/// Programs that read JSON keep 53 bits of a number.
fn hexadecimal<S: Serializer>(order: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{order:016x}"))
}

/// Figures of the pages that are shared in one way.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassOutcome {
    /// Which way.
    pub pattern: Pattern,
    /// As in [`Outcome`], of these pages alone.
    pub faults: u64,
    /// See `faults`.
    pub p50_us: f64,
    /// See `faults`.
    pub p99_us: f64,
    /// See `faults`.
    pub mean_us: f64,
    /// See `faults`.
    pub faults_per_second: f64,
    /// See `faults`.
    pub frames_per_fault: f64,
    /// See `faults`.
    pub bytes_per_fault: f64,
}

/// Adds up while a run goes on.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) accesses: u64,
    classes: [Class; Pattern::ALL.len()],
    pub(crate) promotions: u64,
    pub(crate) demotions: u64,
    pub(crate) queue_max: u64,
    pub(crate) stale_reads: u64,
    order: Order,
}

#[derive(Clone, Default)]
struct Class {
    waits_ns: Vec<u64>,
    frames: u64,
    bytes: u64,
}

/// FNV-1a over words.
pub(crate) struct Order(u64);

impl Default for Order {
    fn default() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }
}

impl Order {
    pub(crate) fn add(&mut self, thread: usize, page: u64, access: Access) {
        for word in [thread as u64, page, u64::from(access == Access::Write)] {
            for byte in word.to_le_bytes() {
                self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
            }
        }
    }

    pub(crate) fn get(&self) -> u64 {
        self.0
    }
}

impl Tally {
    /// A thread begins an access.
    pub(crate) fn began(&mut self, thread: usize, page: u64, access: Access) {
        self.order.add(thread, page, access);
    }

    /// An access of such a page had to wait.
    pub(crate) fn waited(&mut self, class: Pattern, ns: u64) {
        self.classes[class as usize].waits_ns.push(ns);
    }

    /// A frame about such a page was sent.
    pub(crate) fn sent(&mut self, class: Pattern, bytes: u64) {
        let class = &mut self.classes[class as usize];
        class.frames += 1;
        class.bytes += bytes;
    }

    pub(crate) fn outcome(mut self, nodes: u16, time_ns: u64, busiest_ns: u64) -> Outcome {
        let time = time_ns.max(1) as f64;
        let mut all = Class::default();
        let mut classes = Vec::new();
        for (pattern, class) in Pattern::ALL.into_iter().zip(&mut self.classes) {
            class.waits_ns.sort_unstable();
            all.frames += class.frames;
            all.bytes += class.bytes;
            all.waits_ns.extend_from_slice(&class.waits_ns);
            if class.frames > 0 || !class.waits_ns.is_empty() {
                classes.push(class.outcome(pattern, time));
            }
        }
        all.waits_ns.sort_unstable();
        let total = all.outcome(Pattern::Private, time);
        Outcome {
            nodes,
            accesses: self.accesses,
            faults: total.faults,
            p50_us: total.p50_us,
            p99_us: total.p99_us,
            mean_us: total.mean_us,
            faults_per_second: total.faults_per_second,
            frames_per_fault: total.frames_per_fault,
            bytes_per_fault: total.bytes_per_fault,
            busiest: busiest_ns as f64 / time,
            promotions: self.promotions,
            demotions: self.demotions,
            queue_max: self.queue_max,
            stale_reads: self.stale_reads,
            time_us: time / 1000.0,
            classes,
            order: self.order.get(),
        }
    }
}

impl Class {
    /// Its figures; the times are sorted.
    fn outcome(&self, pattern: Pattern, time_ns: f64) -> ClassOutcome {
        let faults = self.waits_ns.len();
        let at = |percent: usize| {
            let index = (faults * percent / 100).min(faults.saturating_sub(1));
            self.waits_ns
                .get(index)
                .map_or(0.0, |ns| *ns as f64 / 1000.0)
        };
        let each = |total: f64| {
            if faults == 0 {
                0.0
            } else {
                total / faults as f64
            }
        };
        ClassOutcome {
            pattern,
            faults: faults as u64,
            p50_us: at(50),
            p99_us: at(99),
            mean_us: each(self.waits_ns.iter().sum::<u64>() as f64 / 1000.0),
            faults_per_second: faults as f64 * 1e9 / time_ns,
            frames_per_fault: each(self.frames as f64),
            bytes_per_fault: each(self.bytes as f64),
        }
    }
}
