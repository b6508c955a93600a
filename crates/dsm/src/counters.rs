//! What the engine counts, as it is shown outside.

use lev_wire::PageNumber;

/// Buckets of the latency histogram: bucket `n` counts faults that took `2^n <= ns < 2^(n+1)`.
pub const LATENCY_BUCKETS: usize = 40;

/// A page and how often this node faulted on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HotPage {
    /// The page.
    pub page: PageNumber,
    /// Faults of this node on it.
    pub faults: u64,
}

/// A snapshot of the engine's counters. All counts since start.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Counters {
    /// Read faults that needed another node.
    pub faults_read: u64,
    /// Write faults on absent pages that needed another node.
    pub faults_write: u64,
    /// Write faults on a page held for reading.
    pub faults_upgrade: u64,
    /// First-touch faults answered with zeroes, without traffic.
    pub faults_zero: u64,
    /// Faults that the page's state had already answered.
    pub faults_stale: u64,
    /// Faults on pages of the pool (to be mapped here).
    pub faults_pool: u64,
    /// Bytes of frames handed to the link, headers included.
    pub bytes_sent: u64,
    /// Bytes of frames taken from the link, headers included.
    pub bytes_received: u64,
    /// Frames handed to the link.
    pub frames_sent: u64,
    /// Frames taken from the link.
    pub frames_received: u64,
    /// Pages sent with contents.
    pub pages_sent: u64,
    /// Pages sent as the zero flag.
    pub zero_pages_sent: u64,
    /// Pages installed here that came from another node.
    pub pages_received: u64,
    /// Pages filled with zeroes on first touch, block fill included.
    pub pages_zero_filled: u64,
    /// Blocks of this home that left userfaultfd, for huge pages.
    pub blocks_loosened: u64,
    /// Those of them that came back, because another node wanted a page.
    pub blocks_tightened: u64,
    /// Untouched pages of this home that went along with one that another node asked for.
    pub zero_range_pages: u64,
    /// Copies of this home that went along with one that another node asked to read.
    pub read_ahead_sent: u64,
    /// Pages that this node asked for before a thread faulted on them.
    pub prefetched: u64,
    /// Reads of other nodes, of pages of this home, that got the right to write as well.
    pub lent_to_write: u64,
    /// First writes here that needed nobody because of that.
    pub upgrades_saved: u64,
    /// Copies dropped here because another node writes.
    pub invalidations: u64,
    /// Pages of which this node is the home that moved into the pool.
    pub promotions: u64,
    /// Those of them that left it again, because others needed the slots.
    pub pages_demoted: u64,
    /// Pages that this node maps from the pool now.
    pub pool_pages: u64,
    /// Slots of the pool that this home may still give out.
    pub pool_free: u64,
    /// Requests that waited for the minimal holding time of a page.
    pub holds: u64,
    /// Requests that waited behind another one at this home.
    pub waits: u64,
    /// Turns that this node has had; see `docs/design/0008-turns.md`.
    pub turns: u64,
    /// Faults that waited for a turn.
    pub turn_waits: u64,
    /// Pages discarded by this node.
    pub discards: u64,
    /// Pages that this node gave to another one because it was short of room.
    pub evictions: u64,
    /// Faults that waited until this node had room.
    pub room_waits: u64,
    /// Pages of this home that somebody wanted to give away and nobody had room for.
    pub room_refused: u64,
    /// Pages of guest memory that this node holds now, those of the pool left out.
    pub resident: u64,
    /// The most that it ever held.
    pub resident_peak: u64,
    /// Time from fault to wake of faults that needed another node; see [`LATENCY_BUCKETS`].
    pub latency_ns: Vec<u64>,
    /// The pages with most faults here, hottest first.
    pub hot_pages: Vec<HotPage>,
}

impl Counters {
    /// Names and values of all plain counters, in the order of the fields.
    #[must_use]
    pub fn named(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("faults_read", self.faults_read),
            ("faults_write", self.faults_write),
            ("faults_upgrade", self.faults_upgrade),
            ("faults_zero", self.faults_zero),
            ("faults_stale", self.faults_stale),
            ("faults_pool", self.faults_pool),
            ("bytes_sent", self.bytes_sent),
            ("bytes_received", self.bytes_received),
            ("frames_sent", self.frames_sent),
            ("frames_received", self.frames_received),
            ("pages_sent", self.pages_sent),
            ("zero_pages_sent", self.zero_pages_sent),
            ("pages_received", self.pages_received),
            ("pages_zero_filled", self.pages_zero_filled),
            ("blocks_loosened", self.blocks_loosened),
            ("blocks_tightened", self.blocks_tightened),
            ("zero_range_pages", self.zero_range_pages),
            ("read_ahead_sent", self.read_ahead_sent),
            ("prefetched", self.prefetched),
            ("lent_to_write", self.lent_to_write),
            ("upgrades_saved", self.upgrades_saved),
            ("invalidations", self.invalidations),
            ("promotions", self.promotions),
            ("pages_demoted", self.pages_demoted),
            ("pool_pages", self.pool_pages),
            ("pool_free", self.pool_free),
            ("holds", self.holds),
            ("waits", self.waits),
            ("turns", self.turns),
            ("turn_waits", self.turn_waits),
            ("discards", self.discards),
            ("evictions", self.evictions),
            ("room_waits", self.room_waits),
            ("room_refused", self.room_refused),
            ("resident", self.resident),
            ("resident_peak", self.resident_peak),
        ]
    }

    /// Upper bound, in ns, of the time within which `percent` of the faults that needed another node ended.
    #[must_use]
    pub fn latency_percentile_ns(&self, percent: u64) -> Option<u64> {
        let total: u64 = self.latency_ns.iter().sum();
        let mut seen = 0;
        for (bucket, count) in self.latency_ns.iter().enumerate() {
            seen += count;
            if total > 0 && seen * 100 >= total * percent {
                return Some(2u64 << bucket);
            }
        }
        None
    }
}
