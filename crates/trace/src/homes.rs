//! Which node each page is at home on.

use crate::{Kind, Record};
use lev_wire::{NodeId, PageNumber};

/// Runs of pages with one home each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Homes {
    /// First page, pages, home; in order, without overlap.
    runs: Vec<(PageNumber, u64, NodeId)>,
}

impl Homes {
    /// What [`Kind::Home`] records say; where they contradict each other, the first one counts.
    pub(crate) fn of<'a>(records: impl Iterator<Item = &'a Record>) -> Self {
        let mut runs: Vec<_> = records
            .filter(|record| record.kind == Kind::Home)
            .map(|record| (record.page, record.at_ns, record.other))
            .collect();
        runs.sort_by_key(|(first, ..)| *first); // stable: the first one said stays first
        let mut end = 0;
        runs.retain(|(first, pages, _)| {
            let fits = *first >= end;
            end = end.max(first.saturating_add(*pages));
            fits
        });
        Self { runs }
    }

    /// Home of a page; pages that nothing is said about are at home on the head.
    #[must_use]
    pub fn of_page(&self, page: PageNumber) -> NodeId {
        let after = self.runs.partition_point(|(first, ..)| *first <= page);
        match after.checked_sub(1).and_then(|at| self.runs.get(at)) {
            Some((first, pages, node)) if page - first < *pages => *node,
            _ => NodeId::HEAD,
        }
    }

    /// The runs as records, in order.
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        self.runs
            .iter()
            .map(|(first, pages, node)| Record::home(*first, *pages, *node))
    }

    /// The runs: first page, pages, home.
    #[must_use]
    pub fn runs(&self) -> &[(PageNumber, u64, NodeId)] {
        &self.runs
    }
}

impl Record {
    /// Says that `pages` pages from `first` on are at home on `node`.
    #[must_use]
    pub fn home(first: PageNumber, pages: u64, node: NodeId) -> Self {
        Self {
            at_ns: pages,
            page: first,
            node: NodeId::HEAD,
            kind: Kind::Home,
            flags: 0,
            other: node,
            thread: 0,
        }
    }
}
