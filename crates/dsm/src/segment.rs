//! Segments of guest memory and what is known about each of their pages.

use crate::replace::Pattern;
use crate::{Backing, DsmError, SegmentSpec};
use lev_coherence::{HomePage, NodePage};
use lev_wire::{NodeId, PageNumber, PAGE_SIZE};
use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

const PAGE: u64 = PAGE_SIZE as u64;
/// Pages under one lock.
pub(crate) const CHUNK_PAGES: usize = 64;
/// Zero-fill blocks and stripes are cut at multiples of this: 2 MiB.
pub(crate) const BLOCK_PAGES: u64 = 512;

/// What this node knows about a page. Sixteen bytes, for every page of the guest.
#[derive(Clone, Copy, Default)]
pub(crate) struct PageRecord {
    pub(crate) node: NodePage,
    /// How often threads came back to it; see [`crate::hold`].
    pub(crate) comebacks: Comebacks,
    /// When the page was granted, in microseconds since start; 0: never.
    pub(crate) granted_us: u32,
    /// When the fault that is pending began, low bits of nanoseconds since start.
    pub(crate) faulted_ns: u32,
    /// Faults that needed the protocol, and a mark.
    pub(crate) faults: Faults,
}

/// Two counts up to 15 in a byte: how often threads came back to a page after other pages, and without.
#[derive(Clone, Copy, Default)]
pub(crate) struct Comebacks(u8);

impl Comebacks {
    pub(crate) const MOST: u8 = 15;

    pub(crate) fn new(robbed: u8, bounced: u8) -> Self {
        Self(robbed.min(Self::MOST) << 4 | bounced.min(Self::MOST))
    }

    /// After other pages, and without.
    pub(crate) fn get(self) -> (u8, u8) {
        (self.0 >> 4, self.0 & Self::MOST)
    }
}

/// A count of faults, and a mark beside it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Faults(u32);

impl Faults {
    /// The clock hand has passed the page since it was granted.
    const SEEN: u32 = 1 << 31;
    const COUNT: u32 = Self::SEEN - 1;

    pub(crate) fn count(self) -> u32 {
        self.0 & Self::COUNT
    }

    pub(crate) fn add_one(&mut self) {
        self.0 += u32::from(self.count() < Self::COUNT);
    }

    /// Sets the mark of the clock hand; returns whether it was set before.
    pub(crate) fn pass(&mut self) -> bool {
        let before = self.0 & Self::SEEN != 0;
        self.0 |= Self::SEEN;
        before
    }

    /// The page was granted again.
    pub(crate) fn granted(&mut self) {
        self.0 &= !Self::SEEN;
    }
}

const _: () = assert!(std::mem::size_of::<PageRecord>() <= 16);

/// Pages under one lock, and their directory entries as far as their home is here.
pub(crate) struct Chunk {
    pub(crate) pages: [PageRecord; CHUNK_PAGES],
    /// How many of them this node holds, those of the pool left out.
    pub(crate) here: u16,
    /// userfaultfd does not watch them; see [`crate::loose`].
    pub(crate) loose: bool,
    entries: Vec<HomePage>,
}

impl Chunk {
    /// The record and the directory entry of a page.
    pub(crate) fn both(&mut self, index: usize) -> (&mut PageRecord, &mut HomePage) {
        if self.entries.is_empty() {
            self.entries.resize_with(CHUNK_PAGES, HomePage::default);
        }
        (&mut self.pages[index], &mut self.entries[index])
    }

    /// The directory entry of a page, if it was ever needed.
    pub(crate) fn entry(&self, index: usize) -> Option<&HomePage> {
        self.entries.get(index)
    }
}

/// A run of guest memory.
pub(crate) struct Segment {
    pub(crate) first: PageNumber,
    pub(crate) pages: u64,
    pub(crate) local: u64,
    pub(crate) backing: Backing,
    /// End of each run, as an offset in pages, and its home.
    homes: Vec<(u64, NodeId)>,
    chunks: Vec<Mutex<Chunk>>,
    stripe_pages: u64,
    stripes: u64,
    /// What takes the place of a slot of the pool; empty: pages do not leave it.
    pub(crate) pattern: OnceLock<Pattern>,
    pub(crate) active: AtomicBool,
}

impl Segment {
    /// Checks the description.
    pub(crate) fn new(spec: &SegmentSpec, nodes: u16, stripes: usize) -> Result<Self, DsmError> {
        let bad = |why| {
            Err(DsmError::Segment {
                first_page: spec.first_page,
                why,
            })
        };
        let local = spec.local as u64;
        if local % PAGE != 0 || local == 0 {
            return bad("its address is not a page");
        }
        let fits = spec
            .pages
            .checked_mul(PAGE)
            .is_some_and(|len| local.checked_add(len).is_some());
        if spec.pages == 0 || !fits || spec.first_page.checked_add(spec.pages).is_none() {
            return bad("its length is zero or leaves the address space");
        }
        let mut homes = Vec::new();
        let mut end = 0u64;
        for (pages, node) in &spec.homes {
            end = end.saturating_add(*pages);
            homes.push((end, *node));
            if node.0 >= nodes {
                return bad("a home is not a node of the cluster");
            }
        }
        if end != spec.pages {
            return bad("its homes do not cover it exactly");
        }
        let chunk = || {
            Mutex::new(Chunk {
                pages: [PageRecord::default(); CHUNK_PAGES],
                here: 0,
                loose: false,
                entries: Vec::new(),
            })
        };
        let stripes = stripes as u64;
        Ok(Self {
            first: spec.first_page,
            pages: spec.pages,
            local,
            backing: spec.backing,
            homes,
            chunks: (0..spec.pages.div_ceil(CHUNK_PAGES as u64))
                .map(|_| chunk())
                .collect(),
            // About eight stripes per context, so that big guests do not end up with thousands of mappings.
            stripe_pages: spec
                .pages
                .div_ceil(stripes * 8)
                .next_multiple_of(BLOCK_PAGES),
            stripes,
            pattern: OnceLock::new(),
            active: AtomicBool::new(false),
        })
    }

    /// Home of the page at this offset.
    pub(crate) fn home(&self, offset: u64) -> NodeId {
        let run = self.homes.partition_point(|(end, _)| *end <= offset);
        self.homes.get(run).map_or(NodeId::HEAD, |(_, node)| *node)
    }

    /// Runs of pages with one home: first page, pages, home.
    pub(crate) fn home_runs(&self) -> impl Iterator<Item = (PageNumber, u64, NodeId)> + '_ {
        let mut start = 0;
        self.homes.iter().map(move |(end, node)| {
            let run = (self.first + start, end - start, *node);
            start = *end;
            run
        })
    }

    /// Address of the page at this offset.
    pub(crate) fn address(&self, offset: u64) -> u64 {
        self.local + offset * PAGE
    }

    /// Bytes.
    pub(crate) fn len(&self) -> u64 {
        self.pages * PAGE
    }

    /// Locks the page at this offset; returns its chunk and its index in it.
    pub(crate) fn lock(&self, offset: u64) -> (MutexGuard<'_, Chunk>, usize) {
        let chunk = &self.chunks[offset as usize / CHUNK_PAGES];
        // A panic elsewhere does not make the state wrong: it changes before the system calls that could fail.
        let guard = chunk.lock().unwrap_or_else(PoisonError::into_inner);
        (guard, offset as usize % CHUNK_PAGES)
    }

    /// Which userfaultfd context serves the page at this offset.
    pub(crate) fn stripe(&self, offset: u64) -> usize {
        (offset / self.stripe_pages % self.stripes) as usize
    }

    /// Runs of offsets and the context of each.
    pub(crate) fn stripe_runs(&self) -> impl Iterator<Item = (Range<u64>, usize)> + '_ {
        let step = if self.stripes == 1 {
            self.pages
        } else {
            self.stripe_pages
        };
        (0..self.pages.div_ceil(step)).map(move |run| {
            let first = run * step;
            (first..(first + step).min(self.pages), self.stripe(first))
        })
    }

    /// The part of `[first, first + pages)` that lies in this segment.
    fn overlap(&self, first: PageNumber, pages: u64) -> Option<Range<u64>> {
        let start = first.max(self.first);
        let end = first.saturating_add(pages).min(self.first + self.pages);
        (start < end).then_some(start..end)
    }
}

/// All segments, found by page number or by local address.
#[derive(Default)]
pub(crate) struct SegmentTable {
    by_page: Vec<Arc<Segment>>,
    by_address: Vec<Arc<Segment>>,
}

impl SegmentTable {
    /// Adds a segment that overlaps no other, neither in pages nor in addresses.
    pub(crate) fn insert(&mut self, segment: Arc<Segment>) -> Result<(), DsmError> {
        let clash = self.by_page.iter().any(|other| {
            let addresses = other.local < segment.local + segment.len()
                && segment.local < other.local + other.len();
            addresses || other.overlap(segment.first, segment.pages).is_some()
        });
        if clash {
            return Err(DsmError::Segment {
                first_page: segment.first,
                why: "it overlaps another one",
            });
        }
        let at = self
            .by_page
            .partition_point(|other| other.first < segment.first);
        self.by_page.insert(at, Arc::clone(&segment));
        let at = self
            .by_address
            .partition_point(|other| other.local < segment.local);
        self.by_address.insert(at, segment);
        Ok(())
    }

    /// Forgets the segment that begins at `first`.
    pub(crate) fn remove(&mut self, first: PageNumber) {
        self.by_page.retain(|segment| segment.first != first);
        self.by_address.retain(|segment| segment.first != first);
    }

    /// The segment that begins at `first`.
    pub(crate) fn starting_at(&self, first: PageNumber) -> Option<&Arc<Segment>> {
        self.by_page.iter().find(|segment| segment.first == first)
    }

    /// The segment of a page and the page's offset in it.
    pub(crate) fn find_page(&self, page: PageNumber) -> Option<(&Segment, u64)> {
        let at = self
            .by_page
            .partition_point(|segment| segment.first <= page);
        let segment = self.by_page.get(at.checked_sub(1)?)?;
        let offset = page - segment.first;
        (offset < segment.pages).then_some((segment, offset))
    }

    /// The segment of an address and the offset, in pages, of its page.
    pub(crate) fn find_address(&self, address: u64) -> Option<(&Segment, u64)> {
        let at = self
            .by_address
            .partition_point(|segment| segment.local <= address);
        let segment = self.by_address.get(at.checked_sub(1)?)?;
        let offset = (address - segment.local) / PAGE;
        (offset < segment.pages).then_some((segment, offset))
    }

    /// Which parts of a run of pages are in segments.
    pub(crate) fn covered(&self, first: PageNumber, pages: u64) -> Vec<Range<u64>> {
        self.by_page
            .iter()
            .filter_map(|segment| segment.overlap(first, pages))
            .collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.by_page.iter()
    }
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
