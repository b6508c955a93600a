//! Copies for reading that go ahead of requests: which pages, and how many of them travel and are put in place at once.
//!
//! To the protocol each is a `ReadAhead` of its own. Under one lock they are protected by one call, travel in one frame and
//! are put in place by one call: that is what makes a stream.

use crate::act::filled;
use crate::ahead::group_in_chunk;
use crate::core::{Ask, Core, Failure, Scratch, PAGE, ZERO_PAGE};
use crate::frames::Frame;
use crate::memory::{self, is_zero};
use crate::segment::{Chunk, Segment, CHUNK_PAGES};
use crate::streams::Streams;
use lev_coherence::{Action, HomePage, Message, NodeState, Page};
use lev_wire::{NodeId, PageNumber, PAGE_SIZE};
use std::ops::Range;

/// Pages that travel in one frame at most: while the receiver puts one frame in place, the next one is on its way.
pub(crate) const RUN_PAGES: u64 = 32;
/// Most pages for reads that are near each other but not in order.
const NEARBY: u64 = 16;
/// Reads not further apart than so many pages belong together.
const NEAR: u64 = 32;
/// Growth for each further read.
const FACTOR: u64 = 4;
/// Runs of reads told apart for each node: they jump about, and this is enough for the text of a kernel.
const STREAMS: usize = 128;

/// How far copies go ahead: 1, 4, 16 pages while a node's reads are near each other, further while they are in order.
pub(crate) struct Reads {
    most: u64,
    streams: Streams<Stream>,
}

#[derive(Clone, Copy)]
struct Stream {
    last: PageNumber,
    window: u64,
    /// The page after those that were sent.
    end: PageNumber,
}

/// What to send for a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Pages, the asked one included.
    pub(crate) pages: u64,
    /// The node has read everything before the page: it gets what comes after it. Else: what lies around it.
    pub(crate) in_order: bool,
}

const ALONE: Reach = Reach {
    pages: 1,
    in_order: false,
};

impl Reads {
    /// Never more than `most` pages.
    pub(crate) fn new(most: u64) -> Self {
        Self {
            most,
            streams: Streams::new(STREAMS),
        }
    }

    /// Node `node`, which has room for so many pages, asks to read `page`, which is number `offset` of its segment.
    pub(crate) fn note(&self, node: NodeId, page: PageNumber, offset: u64, room: u64) -> Reach {
        let most = self.most.min(room);
        if most <= 1 {
            return ALONE;
        }
        let near = |stream: &Stream| {
            page == stream.end || stream.last.abs_diff(page) <= NEAR.max(stream.window)
        };
        let new = Stream {
            last: page,
            window: 0,
            end: 0,
        };
        self.streams.advance(node, near, |known| {
            known.unwrap_or(new).next(page, offset, most)
        })
    }
}

impl Stream {
    fn next(self, page: PageNumber, offset: u64, most: u64) -> (Reach, Self) {
        let in_order = page == self.end;
        if !in_order && self.last < page && page < self.end {
            return (ALONE, self); // it has overtaken what is on its way
        }
        let most = if in_order { most } else { most.min(NEARBY) };
        let window = (self.window * FACTOR).clamp(1, most);
        let before = if in_order { 0 } else { offset % window };
        let stream = Self {
            last: page,
            window,
            end: page - before + window,
        };
        let reach = Reach {
            pages: window,
            in_order,
        };
        (reach, stream)
    }
}

impl Core {
    /// Node `to` asks to read a page of this home: how far copies go ahead, if this node has the page itself.
    pub(crate) fn reach(&self, segment: &Segment, offset: u64, to: NodeId) -> Reach {
        let here = {
            let (chunk, index) = segment.lock(offset);
            chunk.pages[index].node.state.has_copy()
        };
        if !here {
            return ALONE;
        }
        let room = self.room.peer_room(to);
        let reach = self.reads.note(to, segment.first + offset, offset, room);
        if reach.pages == 1 || !self.room.peer_has_room(to, reach.pages) {
            return ALONE;
        }
        reach
    }

    /// Sends what `reach` says beside the page at `offset` itself.
    pub(crate) fn read_ahead(
        &self,
        segment: &Segment,
        offset: u64,
        to: NodeId,
        reach: Reach,
        scratch: &mut Scratch,
    ) -> Result<(), Failure> {
        if reach.in_order {
            let end = (offset + reach.pages).min(segment.pages);
            return self.send_copies(segment, offset + 1..end, to, scratch);
        }
        let group = group_in_chunk(segment, offset, reach.pages);
        // Those after the asked one first: most programs go upwards, and this thread goes on already.
        self.send_copies(segment, offset + 1..group.end, to, scratch)?;
        self.send_copies(segment, group.start..offset, to, scratch)
    }

    /// Sends copies of those pages that may go, one lock at a time.
    fn send_copies(
        &self,
        segment: &Segment,
        pages: Range<u64>,
        to: NodeId,
        scratch: &mut Scratch,
    ) -> Result<(), Failure> {
        let mut next = pages.start;
        while next < pages.end {
            let (mut chunk, index) = self.lock_watched(segment, next)?;
            let left = (CHUNK_PAGES - index) as u64;
            let part = next..pages.end.min(next + left.min(RUN_PAGES));
            next = part.end;
            let there = memory::resident_run(segment.address(part.start), part.end - part.start)?;
            let mut run = part.start..part.start;
            for page in part.clone() {
                let known = there[(page - part.start) as usize];
                if known && self.share(segment, page, &mut chunk, to, &mut scratch.actions) {
                    run.end = page + 1;
                    continue;
                }
                self.send_run(segment, run, to)?;
                run = page + 1..page + 1;
            }
            self.send_run(segment, run, to)?;
        }
        Ok(())
    }

    /// Makes node `to` a sharer of a page that is present here, if that hurts nobody. The caller protects and sends the page
    /// before it lets go of the lock.
    fn share(
        &self,
        segment: &Segment,
        offset: u64,
        chunk: &mut Chunk,
        to: NodeId,
        actions: &mut Vec<Action>,
    ) -> bool {
        if segment.home(offset) != self.rules.me {
            return false;
        }
        let (record, entry) = chunk.both(offset as usize % CHUNK_PAGES);
        if !is_quiet(record.node.state, entry, segment.address(offset)) {
            return false;
        }
        let held = self.keeps(segment.first + offset, record).now;
        let mut page = Page {
            rules: &self.rules,
            home: self.rules.me,
            node: &mut record.node,
            entry: Some(entry),
        };
        actions.clear(); // to protect, read and send is done for the whole run
        page.read_ahead(
            to,
            &mut Ask {
                core: self,
                page: segment.first + offset,
                held,
            },
            actions,
        )
    }

    /// Protects, reads and sends pages that `to` has been made a sharer of: all present, all under one lock.
    fn send_run(&self, segment: &Segment, run: Range<u64>, to: NodeId) -> Result<(), Failure> {
        let count = run.end - run.start;
        if count == 0 {
            return Ok(());
        }
        let uffd = &self.uffds[segment.stripe(run.start)];
        uffd.protect(segment.address(run.start), count * PAGE)?;
        memory::with_pages(segment.address(run.start), count, |bytes| {
            self.send_pages(segment.first + run.start, bytes, to);
        });
        Ok(())
    }

    /// Sends copies of pages, `first` and those after it; what is all zeroes travels without its bytes.
    fn send_pages(&self, mut first: PageNumber, bytes: &[[u8; PAGE_SIZE]], to: NodeId) {
        for alike in bytes.chunk_by(|one, other| is_zero(one) == is_zero(other)) {
            let (pages, zero) = (alike.len() as u64, is_zero(&alike[0]));
            let frame = Frame::read_ahead(first, pages, zero);
            let contents = if zero { &[][..] } else { alike.as_flattened() };
            self.send_frame(to, &frame, contents);
            let message = Message::ReadAhead { zero };
            (first..first + pages).for_each(|page| self.tape.sent(to, page, message));
            let sent = if zero {
                &self.stats.zero_pages_sent
            } else {
                &self.stats.pages_sent
            };
            sent.add(pages);
            self.stats.read_ahead_sent.add(pages);
            first += pages;
        }
    }

    /// Puts copies for reading in place that came in one frame.
    pub(crate) fn put_copies(
        &self,
        segment: &Segment,
        run: Range<u64>,
        zero: bool,
        bytes: &[u8],
    ) -> Result<(), Failure> {
        let uffd = &self.uffds[segment.stripe(run.start)];
        let fills = if zero {
            let each = |page| uffd.copy(segment.address(page), &ZERO_PAGE, true);
            run.clone().map(each).collect::<Result<Vec<_>, _>>()?
        } else {
            vec![uffd.copy(segment.address(run.start), bytes, true)?]
        };
        fills.into_iter().try_for_each(filled)?;
        self.stats.pages_received.add(run.end - run.start);
        run.for_each(|page| self.tape.came_ahead(segment.first + page, zero));
        Ok(())
    }
}

/// Whether a copy of the page, which is present, may go ahead without hurting this home: its rights have hardly moved yet, and
/// if this node would lose the right to write, there is something in it (what is still empty will be written soon).
fn is_quiet(state: NodeState, entry: &HomePage, address: u64) -> bool {
    match state {
        NodeState::Shared => entry.changes() <= 1, // the change that made it shared
        NodeState::Exclusive => entry.changes() == 0 && !memory::looks_empty(address),
        NodeState::Clean | NodeState::Invalid | NodeState::Pooled => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(3);

    fn pages(reads: &Reads, pages: &[u64]) -> Vec<u64> {
        let ask = |page: &u64| reads.note(NODE, *page, *page, u64::MAX).pages;
        pages.iter().map(ask).collect()
    }

    #[test]
    fn who_reads_in_order_gets_more_each_time() {
        let reads = Reads::new(128);
        let asked = [0, 1, 5, 21, 85, 213, 341];
        assert_eq!(pages(&reads, &asked), [1, 4, 16, 64, 128, 128, 128]);
        // Another one elsewhere, and who overtakes what is on its way, change nothing.
        assert_eq!(pages(&reads, &[10_000, 342, 400, 469]), [1, 1, 1, 128]);
    }

    #[test]
    fn who_jumps_about_nearby_gets_what_lies_around() {
        let reads = Reads::new(128);
        assert_eq!(pages(&reads, &[100, 90, 80, 64, 60]), [1, 4, 16, 16, 16]);
        let reach = reads.note(NODE, 48, 48, u64::MAX);
        assert_eq!((reach.pages, reach.in_order), (16, false));
    }

    #[test]
    fn nothing_goes_ahead_where_that_is_switched_off() {
        for most in [0, 1] {
            assert_eq!(pages(&Reads::new(most), &[7, 8, 9]), [1; 3]);
        }
        assert_eq!(pages(&Reads::new(8), &[7, 8, 12, 20]), [1, 4, 8, 8]);
    }
}
