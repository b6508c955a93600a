//! A trace in numbers.

use crate::{Kind, PageUse, Pages, Pattern, Trace};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Nodes of the cluster.
    pub nodes: u16,
    /// From the first event to the last, seconds.
    pub seconds: f64,
    /// Events.
    pub events: u64,
    /// Events that found the ring full.
    pub dropped: u64,
    /// Events after the file had its greatest length.
    pub cut: u64,
    /// Whether the file was written to its end.
    pub finished: bool,
    /// Changes of rights after which a page moves into the pool; 0: there was none.
    pub promote_after: u32,
    /// Shortest time that a granted page stays, microseconds.
    pub hold_us: u32,
    /// Pages that threads faulted on.
    pub pages: u64,
    /// Faults.
    pub faults: u64,
    /// Contents that went from node to node, pages.
    pub pages_sent: u64,
    /// Node by node.
    pub by_node: Vec<NodeSummary>,
    /// Ways of sharing that there are, in the order of [`Pattern::ALL`].
    pub patterns: Vec<ClassSummary>,
    /// The pages with the most faults.
    pub hottest: Vec<PageUse>,
}

/// One node.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NodeSummary {
    /// Its number.
    pub node: u16,
    /// Threads that faulted.
    pub threads: u64,
    /// Events by kind.
    pub events: BTreeMap<&'static str, u64>,
    /// Faults that needed another node: median and 99th of 100, microseconds.
    pub p50_us: f64,
    /// See `p50_us`.
    pub p99_us: f64,
}

/// All pages that are shared in one way.
#[derive(Clone, Debug, Serialize)]
pub struct ClassSummary {
    /// Which way.
    pub pattern: Pattern,
    /// Pages.
    pub pages: u64,
    /// Of these, moved into the pool.
    pub pooled: u64,
    /// Faults on them.
    pub faults: u64,
    /// Part of all faults.
    pub share: f64,
    /// Faults to read, to write what is not there, to write what is there for reading.
    pub reads: u64,
    /// See `reads`.
    pub writes: u64,
    /// See `reads`.
    pub upgrades: u64,
    /// Nodes that use a page, on average.
    pub nodes: f64,
    /// Time of faults that needed another node, as [`NodeSummary::p50_us`].
    pub p50_us: f64,
    /// See `p50_us`.
    pub p99_us: f64,
    /// Time that threads waited for these pages, part of all.
    pub waited: f64,
}

impl Summary {
    /// Goes through a trace; the `hottest` pages with the most faults are named.
    #[must_use]
    pub fn of(trace: &Trace, hottest: usize) -> Self {
        let pages = Pages::of(trace);
        let sorted = pages.hottest();
        let of_pattern = |pattern| class(pattern, &sorted, &pages);
        let sends = |record: &&crate::Record| {
            record.kind == Kind::Send && record.flags & crate::flag::ZERO == 0
        };
        let header = &trace.header;
        Self {
            nodes: header.nodes,
            seconds: trace.span_ns() as f64 / 1e9,
            events: trace.records.len() as u64,
            dropped: header.dropped,
            cut: header.cut,
            finished: header.finished,
            promote_after: header.promote_after,
            hold_us: header.hold_us,
            pages: sorted.len() as u64,
            faults: sorted.iter().map(|page| page.faults).sum(),
            pages_sent: trace.records.iter().filter(sends).count() as u64,
            by_node: by_node(trace, &pages),
            patterns: Pattern::ALL.into_iter().filter_map(of_pattern).collect(),
            hottest: sorted.into_iter().take(hottest).cloned().collect(),
        }
    }
}

fn class(pattern: Pattern, sorted: &[&PageUse], pages: &Pages) -> Option<ClassSummary> {
    let mine: Vec<&&PageUse> = sorted
        .iter()
        .filter(|page| page.pattern == pattern)
        .collect();
    if mine.is_empty() {
        return None;
    }
    let sum = |pick: fn(&PageUse) -> u64| mine.iter().map(|page| pick(page)).sum::<u64>();
    let of_all = |part: u64, pick: fn(&PageUse) -> u64| {
        let all: u64 = sorted.iter().map(|page| pick(page)).sum();
        part as f64 / all.max(1) as f64
    };
    let mut waits: Vec<u64> = pages
        .waits
        .iter()
        .filter(|(page, ..)| pages.get(*page).is_some_and(|page| page.pattern == pattern))
        .map(|(.., took)| *took)
        .collect();
    waits.sort_unstable();
    let (faults, waited) = (sum(|page| page.faults), sum(|page| page.waited_ns));
    Some(ClassSummary {
        pattern,
        pages: mine.len() as u64,
        pooled: sum(|page| page.pooled.into()),
        faults,
        share: of_all(faults, |page| page.faults),
        reads: sum(|page| page.reads),
        writes: sum(|page| page.writes),
        upgrades: sum(|page| page.upgrades),
        nodes: sum(|page| page.nodes.into()) as f64 / mine.len() as f64,
        p50_us: percentile_us(&waits, 50),
        p99_us: percentile_us(&waits, 99),
        waited: of_all(waited, |page| page.waited_ns),
    })
}

fn by_node(trace: &Trace, pages: &Pages) -> Vec<NodeSummary> {
    let mut nodes: Vec<NodeSummary> = (0..trace.header.nodes)
        .map(|node| NodeSummary {
            node,
            ..NodeSummary::default()
        })
        .collect();
    let mut threads: HashSet<(u16, u32)> = HashSet::new();
    for record in &trace.records {
        if let Some(node) = nodes.get_mut(record.node.index()) {
            *node.events.entry(record.kind.name()).or_default() += 1;
            if record.kind.is_fault() && threads.insert((record.node.0, record.thread)) {
                node.threads += 1;
            }
        }
    }
    let mut waits: HashMap<u16, Vec<u64>> = HashMap::new();
    for (_, node, took) in &pages.waits {
        waits.entry(node.0).or_default().push(*took);
    }
    for node in &mut nodes {
        let mine = waits.entry(node.node).or_default();
        mine.sort_unstable();
        node.p50_us = percentile_us(mine, 50);
        node.p99_us = percentile_us(mine, 99);
    }
    nodes
}

/// Of sorted times; 0 if there are none.
fn percentile_us(sorted: &[u64], percent: usize) -> f64 {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(0.0, |ns| *ns as f64 / 1000.0)
}
