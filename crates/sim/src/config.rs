//! What is simulated.

use crate::Pattern;
use lev_coherence::Sharers;
use serde::Deserialize;

/// What things take; nanoseconds unless said.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Costs {
    /// From the last byte sent to the first handled, one way.
    pub latency_ns: u64,
    /// Bits a second of each node's link.
    pub bits_per_second: u64,
    /// Taking an event and running the protocol.
    pub event_ns: u64,
    /// Sending one frame (the system call).
    pub send_ns: u64,
    /// From a thread's fault to its being read.
    pub fault_ns: u64,
    /// Putting a page in place and waking the thread.
    pub install_ns: u64,
    /// Copying a page out.
    pub copy_ns: u64,
    /// Changing a page's protection.
    pub protect_ns: u64,
    /// Dropping a copy.
    pub drop_ns: u64,
}

/// Measured with `lev bench dsm` on a cloud machine of 2024 between processes, over loopback TCP.
impl Default for Costs {
    fn default() -> Self {
        Self {
            latency_ns: 5000,
            bits_per_second: 25_000_000_000,
            event_ns: 500,
            send_ns: 2000,
            fault_ns: 3000,
            install_ns: 4000,
            copy_ns: 700,
            protect_ns: 600,
            drop_ns: 1800,
        }
    }
}

/// Shared memory that can be full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pool {
    /// Pages of each home that have room; 0: all.
    pub pages: u32,
    /// Shortest time that a page stays while others find no room; 0: pages never leave.
    pub demote_after_ns: u64,
}

/// One run.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Nodes, 1 to 1024.
    pub nodes: u16,
    /// What the threads do.
    pub pattern: Pattern,
    /// Accesses of each thread.
    pub accesses: u64,
    /// Mean time between two accesses of a thread.
    #[serde(default = "default_think")]
    pub think_ns: u64,
    /// Shortest time that a granted page stays.
    #[serde(default = "default_hold")]
    pub hold_ns: u64,
    /// Move a page into shared memory after so many changes of rights; 0: there is none.
    #[serde(default)]
    pub promote_after: u32,
    /// How many pages have room in it, and when they leave it.
    #[serde(default)]
    pub pool: Pool,
    /// What things take.
    #[serde(default)]
    pub costs: Costs,
    /// Another number, another run.
    #[serde(default)]
    pub seed: u64,
}

fn default_think() -> u64 {
    20_000
}

fn default_hold() -> u64 {
    50_000
}

impl Scenario {
    /// A run with everything else at its default.
    #[must_use]
    pub fn new(nodes: u16, pattern: Pattern, accesses: u64) -> Self {
        Self {
            nodes,
            pattern,
            accesses,
            think_ns: default_think(),
            hold_ns: default_hold(),
            promote_after: 0,
            pool: Pool::default(),
            costs: Costs::default(),
            seed: 0,
        }
    }

    /// What cannot be simulated.
    ///
    /// # Errors
    /// The field and what would be right.
    pub fn check(&self) -> Result<(), String> {
        if self.nodes == 0 || self.nodes > Sharers::LIMIT {
            return Err(format!("nodes: {} of 1 to {}", self.nodes, Sharers::LIMIT));
        }
        if self.accesses == 0 || self.accesses > 1_000_000 {
            return Err(format!("accesses: {} of 1 to 1,000,000", self.accesses));
        }
        self.costs.check(&[self.think_ns, self.hold_ns])
    }
}

impl Costs {
    /// What cannot be simulated, of these and other times.
    pub(crate) fn check(&self, others: &[u64]) -> Result<(), String> {
        if self.bits_per_second == 0 {
            return Err("bits_per_second: must not be 0".into());
        }
        let times = [
            self.latency_ns,
            self.event_ns,
            self.send_ns,
            self.fault_ns,
            self.install_ns,
            self.copy_ns,
            self.protect_ns,
            self.drop_ns,
        ];
        if times.iter().chain(others).any(|time| *time > 1_000_000_000) {
            return Err("times: at most a second each".into());
        }
        Ok(())
    }
}
