//! How the threads of a program share pages, made up.

use crate::rng::Rng;
use crate::work::{Issue, Workload};
use crate::Scenario;
use lev_coherence::Access;
use lev_trace::Pattern;
use lev_wire::NodeId;

/// Pages of a thread of its own.
const PRIVATE_PAGES: u64 = 8;
/// Pages that all read.
const READ_PAGES: u64 = 64;
/// One in so many accesses to them is a write.
const READS_PER_WRITE: u64 = 100;

/// What thread `node` of `nodes` does in its access number `step`.
fn access(pattern: Pattern, node: u16, nodes: u16, step: u64, rng: &mut Rng) -> (u64, Access) {
    let (node, nodes) = (u64::from(node), u64::from(nodes));
    let alternating = if step % 2 == 0 {
        Access::Read
    } else {
        Access::Write
    };
    match pattern {
        Pattern::Private => (node * PRIVATE_PAGES + rng.below(PRIVATE_PAGES), alternating),
        Pattern::ReadMostly => {
            let write = rng.below(READS_PER_WRITE) == 0;
            let access = if write { Access::Write } else { Access::Read };
            (rng.below(READ_PAGES), access)
        }
        // Two pages a thread; read and write go to the same one.
        Pattern::Migratory => {
            let choice = Rng::new((step / 2) << 16 | node).below(2 * nodes);
            (choice, alternating)
        }
        Pattern::ProducerConsumer => {
            let access = if node % 2 == 0 {
                Access::Write
            } else {
                Access::Read
            };
            (node / 2, access)
        }
        Pattern::HotCounter => (0, alternating),
    }
}

/// Home of a page: spread over the nodes, and for a thread's own pages another node than its.
fn home(pattern: Pattern, page: u64, nodes: u16) -> NodeId {
    let nodes = u64::from(nodes);
    let node = match pattern {
        Pattern::Private => page / PRIVATE_PAGES + 1,
        Pattern::ProducerConsumer => 2 * page + 2,
        _ => page,
    };
    NodeId((node % nodes) as u16)
}

/// One thread on each node, all of which follow one pattern.
pub(crate) struct Synthetic<'a> {
    scenario: &'a Scenario,
    threads: Vec<(u64, Rng)>,
}

impl<'a> Synthetic<'a> {
    pub(crate) fn new(scenario: &'a Scenario) -> Self {
        let mut seeds = Rng::new(scenario.seed);
        let thread = |_| (0, Rng::new(seeds.next()));
        Self {
            scenario,
            threads: (0..scenario.nodes).map(thread).collect(),
        }
    }
}

impl Workload for Synthetic<'_> {
    fn threads(&self) -> Vec<u16> {
        (0..self.scenario.nodes).collect()
    }

    fn home(&self, page: u64) -> NodeId {
        home(self.scenario.pattern, page, self.scenario.nodes)
    }

    fn class(&self, _: u64) -> Pattern {
        self.scenario.pattern
    }

    fn free(&mut self, thread: usize, now: u64, issues: &mut Vec<Issue>) {
        let scenario = self.scenario;
        let (step, rng) = &mut self.threads[thread];
        let at = now + rng.around(scenario.think_ns);
        if *step == scenario.accesses {
            issues.push(Issue::rest(thread, at)); // works on for itself a last time
            return;
        }
        let node = thread as u16;
        let (page, access) = access(scenario.pattern, node, scenario.nodes, *step, rng);
        *step += 1;
        issues.push(Issue::new(thread, at, page, access));
    }

    fn left(&self) -> u64 {
        let left = |(step, _): &(u64, Rng)| self.scenario.accesses - step;
        self.threads.iter().map(left).sum()
    }
}
