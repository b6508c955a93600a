//! A trace as it was recorded: the same accesses of the same threads, begun in the same order.
//!
//! An access begins at its recorded time, but not before its thread's last one is over, and never before an access that
//! came before it in the trace: where the simulated machine is slower than the recorded one, everything after is later by
//! as much.

use crate::outcome::Order;
use crate::work::{Issue, Workload};
use lev_coherence::Access;
use lev_trace::{flag, Kind, Pages, Pattern, Trace};
use lev_wire::NodeId;
use std::collections::HashMap;

/// One access of a trace.
#[derive(Clone, Copy)]
struct Step {
    thread: usize,
    at: u64,
    page: u64,
    access: Access,
}

pub(crate) struct Recorded<'a> {
    trace: &'a Trace,
    pages: &'a Pages,
    threads: Vec<u16>,
    steps: Vec<Step>,
    /// The next access to begin.
    next: usize,
    idle: Vec<bool>,
    /// By how much the accesses are later than recorded.
    late: u64,
    holders: HashMap<u64, Option<NodeId>>,
}

impl<'a> Recorded<'a> {
    pub(crate) fn new(trace: &'a Trace, pages: &'a Pages, speed: f64) -> Self {
        let mut numbers: HashMap<(NodeId, u32), usize> = HashMap::new();
        let mut threads = Vec::new();
        let faults = trace.records.iter().filter(|record| record.kind.is_fault());
        let start = faults.clone().next().map_or(0, |record| record.at_ns);
        let steps: Vec<Step> = faults
            .map(|record| Step {
                thread: *numbers
                    .entry((record.node, record.thread))
                    .or_insert_with(|| {
                        threads.push(record.node.0);
                        threads.len() - 1
                    }),
                at: slowed(record.at_ns - start, speed),
                page: record.page,
                access: if record.is_write() {
                    Access::Write
                } else {
                    Access::Read
                },
            })
            .collect();
        Self {
            trace,
            pages,
            idle: vec![false; threads.len()],
            threads,
            steps,
            next: 0,
            late: 0,
            holders: holders(trace),
        }
    }

    /// Accesses in all.
    pub(crate) fn len(&self) -> u64 {
        self.steps.len() as u64
    }

    /// The number that a run must have that did exactly this.
    pub(crate) fn order(&self) -> u64 {
        let mut order = Order::default();
        for step in &self.steps {
            order.add(step.thread, step.page, step.access);
        }
        order.get()
    }
}

impl Workload for Recorded<'_> {
    fn threads(&self) -> Vec<u16> {
        self.threads.clone()
    }

    fn home(&self, page: u64) -> NodeId {
        self.trace.homes.of_page(page)
    }

    fn class(&self, page: u64) -> Pattern {
        self.pages
            .get(page)
            .map_or(Pattern::Private, |page| page.pattern)
    }

    fn free(&mut self, thread: usize, now: u64, issues: &mut Vec<Issue>) {
        self.idle[thread] = true;
        while let Some(step) = self.steps.get(self.next) {
            if !std::mem::take(&mut self.idle[step.thread]) {
                return; // it, and all after it, wait for this thread
            }
            self.late = self.late.max(now.saturating_sub(step.at));
            let at = step.at.saturating_add(self.late);
            issues.push(Issue::new(step.thread, at, step.page, step.access));
            self.next += 1;
        }
    }

    fn left(&self) -> u64 {
        (self.steps.len() - self.next) as u64
    }

    fn holder(&self, page: u64) -> Option<NodeId> {
        *self.holders.get(&page)?
    }
}

/// A time of a program that runs `speed` times as fast, kept within what can be added up.
pub(crate) fn slowed(ns: u64, speed: f64) -> u64 {
    ((ns as f64 / speed) as u64).min(1 << 60)
}

/// Who gave contents away that he was never given had them from the start, or made them without a fault; `None`: a page
/// that was zero when it was first asked for.
fn holders(trace: &Trace) -> HashMap<u64, Option<NodeId>> {
    let mut holders = HashMap::new();
    for record in &trace.records {
        let with_contents = record.flags & flag::ZERO == 0;
        let holder = match record.kind {
            Kind::Send | Kind::Collect if with_contents => Some(record.node),
            Kind::Send | Kind::Grant => None,
            _ => continue,
        };
        holders.entry(record.page).or_insert(holder);
    }
    holders
}
