//! What came out of a run.

use serde::Serialize;

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
    /// Most requests that one page's home had to let wait at a time.
    pub queue_max: u64,
    /// Reads that returned old data: 0, or the protocol is wrong.
    pub stale_reads: u64,
    /// Simulated time, microseconds.
    pub time_us: f64,
}

/// Adds up while a run goes on.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) accesses: u64,
    pub(crate) waits_ns: Vec<u64>,
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
    pub(crate) promotions: u64,
    pub(crate) queue_max: u64,
    pub(crate) stale_reads: u64,
}

impl Tally {
    pub(crate) fn outcome(mut self, nodes: u16, time_ns: u64, busiest_ns: u64) -> Outcome {
        self.waits_ns.sort_unstable();
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
        let time = time_ns.max(1) as f64;
        Outcome {
            nodes,
            accesses: self.accesses,
            faults: faults as u64,
            p50_us: at(50),
            p99_us: at(99),
            mean_us: each(self.waits_ns.iter().sum::<u64>() as f64 / 1000.0),
            faults_per_second: faults as f64 * 1e9 / time,
            frames_per_fault: each(self.frames as f64),
            bytes_per_fault: each(self.bytes as f64),
            busiest: busiest_ns as f64 / time,
            promotions: self.promotions,
            queue_max: self.queue_max,
            stale_reads: self.stale_reads,
            time_us: time / 1000.0,
        }
    }
}
