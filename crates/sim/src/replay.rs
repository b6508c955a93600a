//! Traces as work for the simulator.

use crate::machine::{Machine, Setting};
use crate::mix::Mix;
use crate::recorded::{slowed, Recorded};
use crate::scaled::{Scaled, Sharing};
use crate::{Costs, Outcome, Pool};
use lev_coherence::Sharers;
use lev_trace::{Pages, Trace};
use serde::Deserialize;

/// So long a thread works by itself between two accesses at most: a day.
const LONGEST_THINK_NS: u64 = 86_400_000_000_000;

/// How to replay a trace.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Replay {
    /// Nodes; `None`: those of the trace, and exactly its accesses in their order.
    pub nodes: Option<u16>,
    /// Accesses of each thread at most, where they are made up.
    pub accesses: u64,
    /// How many nodes use a page together, where accesses are made up.
    pub sharing: Sharing,
    /// Changes of rights after which a page moves into shared memory; 0: there is none; `None`: as recorded.
    pub promote_after: Option<u32>,
    /// How many pages have room in shared memory, and when they leave it.
    pub pool: Pool,
    /// Shortest time that a granted page stays; `None`: as recorded.
    pub hold_ns: Option<u64>,
    /// The threads' own work takes so many times less than recorded: the machine of the trace may have been slow.
    pub speed: f64,
    /// What things take.
    pub costs: Costs,
    /// Another number, another run, where accesses are made up.
    pub seed: u64,
}

impl Default for Replay {
    fn default() -> Self {
        Self {
            nodes: None,
            accesses: 50,
            sharing: Sharing::default(),
            promote_after: None,
            pool: Pool::default(),
            hold_ns: None,
            speed: 1.0,
            costs: Costs::default(),
            seed: 0,
        }
    }
}

impl Replay {
    fn setting(&self, trace: &Trace, nodes: u16) -> Result<Setting, String> {
        if nodes == 0 || nodes > Sharers::LIMIT {
            return Err(format!("nodes: {nodes} of 1 to {}", Sharers::LIMIT));
        }
        if self.accesses == 0 || self.accesses > 1_000_000 {
            return Err(format!("accesses: {} of 1 to 1,000,000", self.accesses));
        }
        if !(1e-6..=1e9).contains(&self.speed) {
            return Err(format!("speed: {} of 0.000001 to 1e9", self.speed));
        }
        let hold_ns = self
            .hold_ns
            .unwrap_or(u64::from(trace.header.hold_us) * 1000);
        self.costs.check(&[hold_ns])?;
        Ok(Setting {
            nodes,
            costs: self.costs,
            hold_ns,
            promote_after: self.promote_after.unwrap_or(trace.header.promote_after),
            pool: self.pool,
        })
    }

    /// Runs a trace, or the program of a trace on another number of nodes.
    ///
    /// # Errors
    /// What cannot be simulated, or the protocol refused one of its own messages.
    pub fn run(&self, trace: &Trace) -> Result<Outcome, String> {
        let pages = Pages::of(trace);
        let nodes = self.nodes.unwrap_or(trace.header.nodes);
        let setting = self.setting(trace, nodes)?;
        if self.nodes.is_some() {
            let mut mix = Mix::of(trace, &pages)?;
            mix.think_ns = slowed(mix.think_ns, self.speed).min(LONGEST_THINK_NS);
            let accesses = mix.accesses.min(self.accesses);
            let work = Scaled::new(&mix, nodes, accesses, self.sharing, self.seed);
            return Machine::new(setting, work).run();
        }
        let work = Recorded::new(trace, &pages, self.speed);
        let (accesses, order) = (work.len(), work.order());
        let outcome = Machine::new(setting, work).run()?;
        if outcome.accesses != accesses || outcome.order != order {
            return Err("the replay did not do what was recorded: a fault of the simulator".into());
        }
        Ok(outcome)
    }
}
