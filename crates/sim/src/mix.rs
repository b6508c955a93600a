//! What a trace says about how its program shares memory, as far as it can be asked for on another number of nodes.

use lev_trace::{PageUse, Pages, Pattern, Trace};
use serde::Serialize;
use std::collections::HashMap;

/// Threads that made less than one part in so many of their node's faults do not count as threads of the program.
const THREAD_PART: u64 = 20;

/// What one way of sharing is like.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassMix {
    /// Which way.
    pub pattern: Pattern,
    /// Part of all accesses.
    pub share: f64,
    /// Pages that a node uses.
    pub pages: u64,
    /// Nodes that use a page, on average.
    pub nodes: f64,
    /// Accesses of a node to each of its pages.
    pub accesses_per_page: f64,
    /// Of all accesses: reads alone, reads that a write of the same page follows, writes alone.
    pub reads: f64,
    /// See `reads`.
    pub updates: f64,
    /// See `reads`.
    pub writes: f64,
    /// Part of its pages that are at home on a node that uses them.
    pub at_home: f64,
}

/// A whole trace.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mix {
    /// Nodes of the trace.
    pub nodes: u16,
    /// Threads of each node.
    pub threads: u16,
    /// Accesses of each thread.
    pub accesses: u64,
    /// Time of a thread's own work between two of them.
    pub think_ns: u64,
    /// Ways of sharing, in the order of [`Pattern::ALL`].
    pub classes: Vec<ClassMix>,
}

impl Mix {
    /// Measures a trace.
    ///
    /// # Errors
    /// There is no access in it.
    pub fn of(trace: &Trace, pages: &Pages) -> Result<Self, String> {
        let uses = pages.hottest();
        let faults: u64 = uses.iter().map(|page| page.faults).sum();
        if faults == 0 {
            return Err("the trace has no access to memory".into());
        }
        let nodes = trace.header.nodes;
        let threads = threads(trace);
        let accesses = (faults / (u64::from(threads) * u64::from(nodes))).max(1);
        let waited: u64 = uses.iter().map(|page| page.waited_ns).sum();
        let waited_each = waited / (u64::from(threads) * u64::from(nodes));
        let think_ns = trace.span_ns().saturating_sub(waited_each) / accesses;
        let of_class = |pattern| class(pattern, &uses, faults, nodes);
        Ok(Self {
            nodes,
            threads,
            accesses,
            think_ns,
            classes: Pattern::ALL.into_iter().filter_map(of_class).collect(),
        })
    }
}

/// Threads of a node that do the program's work, on average, at least one.
fn threads(trace: &Trace) -> u16 {
    let mut each: HashMap<(u16, u32), u64> = HashMap::new();
    let mut nodes: HashMap<u16, u64> = HashMap::new();
    for record in trace.records.iter().filter(|record| record.kind.is_fault()) {
        *each.entry((record.node.0, record.thread)).or_default() += 1;
        *nodes.entry(record.node.0).or_default() += 1;
    }
    let counts = |((node, _), faults): &(&(u16, u32), &u64)| {
        **faults * THREAD_PART >= nodes.get(node).copied().unwrap_or(0)
    };
    let active = each.iter().filter(counts).count();
    (active / nodes.len().max(1)).clamp(1, 64) as u16
}

fn class(pattern: Pattern, uses: &[&PageUse], all: u64, nodes: u16) -> Option<ClassMix> {
    let mine: Vec<&&PageUse> = uses.iter().filter(|page| page.pattern == pattern).collect();
    if mine.is_empty() {
        return None;
    }
    let sum = |pick: fn(&PageUse) -> u64| mine.iter().map(|page| pick(page)).sum::<u64>();
    let (count, faults) = (mine.len() as f64, sum(|page| page.faults) as f64);
    let users = sum(|page| page.nodes.into()) as f64;
    // Every upgrade was a read first, mostly one that is in the trace.
    let (reads, upgrades) = (sum(|page| page.reads), sum(|page| page.upgrades));
    let updates = upgrades.min(reads);
    let writes = sum(|page| page.writes) + upgrades - updates;
    Some(ClassMix {
        pattern,
        share: faults / all as f64,
        pages: ((users / f64::from(nodes)).round() as u64).max(1),
        nodes: users / count,
        accesses_per_page: faults / users,
        reads: (reads - updates) as f64 / faults,
        updates: updates as f64 / faults,
        writes: writes as f64 / faults,
        at_home: mine.iter().filter(|page| page.used_at_home).count() as f64 / count,
    })
}
