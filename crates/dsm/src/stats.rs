//! The engine's counters while it runs.

use crate::counters::{Counters, LATENCY_BUCKETS};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts, each touched with relaxed atomics: they are numbers for people, nothing depends on them.
#[derive(Default)]
pub(crate) struct Stats {
    pub(crate) faults_read: Count,
    pub(crate) faults_write: Count,
    pub(crate) faults_upgrade: Count,
    pub(crate) faults_zero: Count,
    pub(crate) faults_stale: Count,
    pub(crate) faults_pool: Count,
    pub(crate) bytes_sent: Count,
    pub(crate) bytes_received: Count,
    pub(crate) frames_sent: Count,
    pub(crate) frames_received: Count,
    pub(crate) pages_sent: Count,
    pub(crate) zero_pages_sent: Count,
    pub(crate) pages_received: Count,
    pub(crate) pages_zero_filled: Count,
    pub(crate) blocks_loosened: Count,
    pub(crate) blocks_tightened: Count,
    pub(crate) zero_range_pages: Count,
    pub(crate) read_ahead_sent: Count,
    pub(crate) prefetched: Count,
    pub(crate) lent_to_write: Count,
    pub(crate) upgrades_saved: Count,
    pub(crate) invalidations: Count,
    pub(crate) promotions: Count,
    pub(crate) pages_demoted: Count,
    /// Pages mapped from the pool here, and those that were again not, since start.
    pub(crate) pool_joined: Count,
    /// See `pool_joined`.
    pub(crate) pool_left: Count,
    pub(crate) holds: Count,
    pub(crate) waits: Count,
    pub(crate) turns: Count,
    pub(crate) turn_waits: Count,
    pub(crate) discards: Count,
    pub(crate) evictions: Count,
    pub(crate) room_waits: Count,
    /// Wishes to give a page away that its home has settled, without taking it yet or at all.
    pub(crate) stays: Count,
    pub(crate) room_refused: Count,
    latency: Histogram,
}

struct Histogram([Count; LATENCY_BUCKETS]);

impl Default for Histogram {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Count::default()))
    }
}

/// One counter.
#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, number: u64) {
        self.0.fetch_add(number, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Stats {
    /// A fault that needed another node took so long.
    pub(crate) fn latency(&self, ns: u64) {
        let bucket = ns.max(1).ilog2() as usize;
        self.latency.0[bucket.min(LATENCY_BUCKETS - 1)].add(1);
    }

    /// All numbers now; hot pages and the pool's rest are the caller's.
    pub(crate) fn snapshot(&self) -> Counters {
        Counters {
            faults_read: self.faults_read.get(),
            faults_write: self.faults_write.get(),
            faults_upgrade: self.faults_upgrade.get(),
            faults_zero: self.faults_zero.get(),
            faults_stale: self.faults_stale.get(),
            faults_pool: self.faults_pool.get(),
            bytes_sent: self.bytes_sent.get(),
            bytes_received: self.bytes_received.get(),
            frames_sent: self.frames_sent.get(),
            frames_received: self.frames_received.get(),
            pages_sent: self.pages_sent.get(),
            zero_pages_sent: self.zero_pages_sent.get(),
            pages_received: self.pages_received.get(),
            pages_zero_filled: self.pages_zero_filled.get(),
            blocks_loosened: self.blocks_loosened.get(),
            blocks_tightened: self.blocks_tightened.get(),
            zero_range_pages: self.zero_range_pages.get(),
            read_ahead_sent: self.read_ahead_sent.get(),
            prefetched: self.prefetched.get(),
            lent_to_write: self.lent_to_write.get(),
            upgrades_saved: self.upgrades_saved.get(),
            invalidations: self.invalidations.get(),
            promotions: self.promotions.get(),
            pages_demoted: self.pages_demoted.get(),
            pool_pages: self.pool_joined.get().saturating_sub(self.pool_left.get()),
            pool_free: 0,
            holds: self.holds.get(),
            waits: self.waits.get(),
            turns: self.turns.get(),
            turn_waits: self.turn_waits.get(),
            discards: self.discards.get(),
            evictions: self.evictions.get(),
            room_waits: self.room_waits.get(),
            room_refused: self.room_refused.get(),
            resident: 0,
            resident_peak: 0,
            latency_ns: self.latency.0.iter().map(Count::get).collect(),
            hot_pages: Vec::new(),
        }
    }
}
