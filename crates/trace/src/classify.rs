//! What each page is used for, told from who faulted on it.
//!
//! A trace sees what the engine sees: accesses that a node could not satisfy from what it had. The rules, the first that
//! fits counts (`docs/design/0016-traces.md` says why):
//!
//! 1. private: one node uses the page, and it is not in the pool (where it would be because it went from node to node
//!    before the trace began: then it is migratory);
//! 2. read-mostly: at most one use in [`READS_PER_WRITE`] takes it from other nodes for writing;
//! 3. producer-consumer: one node writes it;
//! 4. hot counter: at least [`HOT_MOVES`] moves from node to node, and for at least one part in [`HOT_PART`] of the time
//!    between its first fault and its last somebody waits for it;
//! 5. migratory: several nodes write it, in turn.
//!
//! A node that gives contents away which it neither asked for nor was sent has written them: pages that a home fills with
//! zeroes ahead of their use are written without any fault. What a node fetched because its faults run through memory counts
//! as used by it; what it was sent without asking does not.

use crate::{flag, Kind, Record, Trace};
use lev_wire::{NodeId, PageNumber};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// See rule 2.
pub const READS_PER_WRITE: u64 = 10;
/// See rule 4.
pub const HOT_MOVES: u64 = 16;
/// See rule 4.
pub const HOT_PART: u64 = 4;

/// A way of sharing a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// One node uses it.
    Private,
    /// All read it, hardly anybody writes it.
    ReadMostly,
    /// Several nodes write it, in turn.
    Migratory,
    /// One node writes it, others read it.
    ProducerConsumer,
    /// Several nodes write it all the time.
    HotCounter,
}

impl Pattern {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Private,
        Self::ReadMostly,
        Self::Migratory,
        Self::ProducerConsumer,
        Self::HotCounter,
    ];
}

/// One page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PageUse {
    /// Its number.
    pub page: PageNumber,
    /// Its home.
    pub home: u16,
    /// How it is shared.
    pub pattern: Pattern,
    /// Faults of all nodes.
    pub faults: u64,
    /// Of these, to read.
    pub reads: u64,
    /// To write what was not there.
    pub writes: u64,
    /// To write what was there for reading.
    pub upgrades: u64,
    /// Faults of another node than the fault before.
    pub moves: u64,
    /// Nodes that read or wrote it.
    pub nodes: u16,
    /// Nodes that wrote it.
    pub writers: u16,
    /// Its home reads or writes it, too.
    pub used_at_home: bool,
    /// It moved into the pool.
    pub pooled: bool,
    /// First fault, nanoseconds since the start of the trace.
    pub first_ns: u64,
    /// Last fault.
    pub last_ns: u64,
    /// Time that threads waited for it, all together.
    pub waited_ns: u64,
}

/// All pages of a trace that a thread faulted on.
#[derive(Clone, Debug, Default)]
pub struct Pages {
    uses: HashMap<PageNumber, PageUse>,
    /// How long each fault that was answered took: page, node, nanoseconds.
    pub(crate) waits: Vec<(PageNumber, NodeId, u64)>,
}

#[derive(Default)]
struct Seen {
    users: Vec<NodeId>,
    writers: Vec<NodeId>,
    /// Nodes that faulted on it or were sent contents.
    knew: Vec<NodeId>,
    pending: Vec<Pending>,
    last: Option<NodeId>,
    /// Uses for writing of what another node used before.
    taken: u64,
    /// Uses without a fault: fetched ahead of it.
    fetched: u64,
    faults: u64,
    reads: u64,
    writes: u64,
    upgrades: u64,
    moves: u64,
    pooled: bool,
    first_ns: u64,
    last_ns: u64,
    waited_ns: u64,
}

/// A fault that was not answered yet.
struct Pending {
    node: NodeId,
    since_ns: u64,
    /// It is for writing, and nobody else was known to use the page.
    first: bool,
}

fn add(set: &mut Vec<NodeId>, node: NodeId) {
    if !set.contains(&node) {
        set.push(node);
    }
}

impl Pages {
    /// Goes through the events.
    #[must_use]
    pub fn of(trace: &Trace) -> Self {
        let mut seen: HashMap<PageNumber, Seen> = HashMap::new();
        let mut waits = Vec::new();
        for record in &trace.records {
            if matches!(record.kind, Kind::Fill | Kind::Stale | Kind::Home) {
                continue;
            }
            let page = seen.entry(record.page).or_default();
            if let Some(took) = page.see(record) {
                waits.push((record.page, record.node, took));
            }
        }
        let uses = seen
            .into_iter()
            .filter(|(_, page)| page.faults > 0)
            .map(|(number, page)| (number, page.done(number, trace.homes.of_page(number))))
            .collect();
        Self { uses, waits }
    }

    /// What one page is used for.
    #[must_use]
    pub fn get(&self, page: PageNumber) -> Option<&PageUse> {
        self.uses.get(&page)
    }

    /// All pages, those with the most faults first; of as many, in order of their numbers.
    #[must_use]
    pub fn hottest(&self) -> Vec<&PageUse> {
        let mut pages: Vec<&PageUse> = self.uses.values().collect();
        pages.sort_by_key(|page| (std::cmp::Reverse(page.faults), page.page));
        pages
    }
}

impl Seen {
    /// Takes one event; how long a fault took that it answers.
    fn see(&mut self, record: &Record) -> Option<u64> {
        let (node, at) = (record.node, record.at_ns);
        if record.kind.is_fault() {
            self.fault(record);
            return None;
        }
        match record.kind {
            Kind::Send | Kind::Collect
                if record.flags & flag::ZERO == 0 && !self.knew.contains(&node) =>
            {
                add(&mut self.users, node);
                add(&mut self.writers, node);
                add(&mut self.knew, node);
                // Whoever waits to write takes it from this node.
                for pending in &mut self.pending {
                    self.taken += u64::from(std::mem::take(&mut pending.first));
                }
            }
            Kind::Grant | Kind::Pool => {
                self.pooled |= record.kind == Kind::Pool;
                if record.flags & flag::ZERO == 0 {
                    add(&mut self.knew, node);
                }
                let Some(place) = self.pending.iter().position(|one| one.node == node) else {
                    if record.flags & (flag::ZERO | flag::UNASKED) == 0 {
                        self.fetched += 1;
                        self.uses(record);
                    }
                    return None;
                };
                let took = at - self.pending.swap_remove(place).since_ns;
                self.waited_ns = self.waited_ns.saturating_add(took);
                return Some(took);
            }
            _ => {}
        }
        None
    }

    /// A thread uses the page, or its node fetched it because its threads use the pages before it; whether another node
    /// used it before.
    fn uses(&mut self, record: &Record) -> bool {
        let node = record.node;
        let others = self.users.iter().any(|user| *user != node);
        add(&mut self.users, node);
        add(&mut self.knew, node);
        if record.is_write() {
            add(&mut self.writers, node);
            self.taken += u64::from(others);
        }
        others
    }

    fn fault(&mut self, record: &Record) {
        let (node, at) = (record.node, record.at_ns);
        if self.faults == 0 {
            self.first_ns = at;
        }
        self.faults += 1;
        self.last_ns = at;
        self.moves += u64::from(self.last.is_some_and(|last| last != node));
        self.last = Some(node);
        let others = self.uses(record);
        match (record.kind, record.is_write()) {
            (Kind::Upgrade, _) => self.upgrades += 1,
            (_, true) => self.writes += 1,
            (_, false) => self.reads += 1,
        }
        let waits = record.kind != Kind::Touch;
        if waits && !self.pending.iter().any(|one| one.node == node) {
            self.pending.push(Pending {
                node,
                since_ns: at,
                first: record.is_write() && !others,
            });
        }
    }

    fn pattern(&self) -> Pattern {
        let busy = self.waited_ns.saturating_mul(HOT_PART) >= self.last_ns - self.first_ns;
        if self.users.len() <= 1 && self.pooled {
            Pattern::Migratory // before the trace
        } else if self.users.len() <= 1 {
            Pattern::Private
        } else if self.taken.saturating_mul(READS_PER_WRITE) <= self.faults + self.fetched {
            Pattern::ReadMostly
        } else if self.writers.len() == 1 {
            Pattern::ProducerConsumer
        } else if self.moves >= HOT_MOVES && busy {
            Pattern::HotCounter
        } else {
            Pattern::Migratory
        }
    }

    fn done(self, page: PageNumber, home: NodeId) -> PageUse {
        PageUse {
            page,
            home: home.0,
            pattern: self.pattern(),
            faults: self.faults,
            reads: self.reads,
            writes: self.writes,
            upgrades: self.upgrades,
            moves: self.moves,
            nodes: self.users.len() as u16,
            writers: self.writers.len() as u16,
            used_at_home: self.users.contains(&home),
            pooled: self.pooled,
            first_ns: self.first_ns,
            last_ns: self.last_ns,
            waited_ns: self.waited_ns,
        }
    }
}
