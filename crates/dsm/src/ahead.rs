//! Pages that a node gets without asking, because it asked for a neighbour: how many, and how they are given and taken.
//!
//! Nothing here waits for an answer. What the home says to a node arrives in order and is handled in order by one
//! thread, so a later demand for such a page finds it in place. Home and frame change under the page's lock, so that
//! no other thread can send that demand first.

use crate::core::{Core, Event, Failure, Scratch};
use crate::frames::{self, Frame};
use crate::segment::{Chunk, PageRecord, Segment, CHUNK_PAGES};
use crate::streams::Streams;
use lev_coherence::{Access, Illegal, Message, NodeState, Page, Slot, Surroundings};
use lev_wire::{NodeId, PageNumber};
use std::ops::Range;

/// Pages that a first touch from elsewhere gets at once. Few: they belong to the node that touches them from then on.
const FIRST_ZEROES: u64 = 16;
/// Runs of first touches told apart for each node: about one for each of its busy vCPUs.
const ZERO_STREAMS: usize = 4;

/// How much is given at once: more, while a node keeps asking for pages close to each other.
pub(crate) struct Appetite {
    /// For a page far from all others.
    first: u64,
    /// Growth for each request nearby.
    factor: u64,
    /// Never more.
    most: u64,
    /// Pages between requests that belong together.
    near: u64,
    streams: Streams<Stream>,
}

#[derive(Clone, Copy)]
struct Stream {
    last: PageNumber,
    window: u64,
}

impl Appetite {
    pub(crate) fn new(first: u64, factor: u64, most: u64, near: u64, streams: usize) -> Self {
        Self {
            first,
            factor,
            most,
            near,
            streams: Streams::new(streams),
        }
    }

    /// For pages that nobody has touched, `most` at once.
    pub(crate) fn for_zeroes(most: u64) -> Self {
        let first = FIRST_ZEROES.min(most);
        Self::new(first, 2, most, first, ZERO_STREAMS)
    }

    /// How many pages, the asked one included, `node` should get that now asks for `page`.
    pub(crate) fn window(&self, node: NodeId, page: PageNumber) -> u64 {
        self.window_and_way(node, page).0
    }

    /// The same, and whether the node goes upwards.
    fn window_and_way(&self, node: NodeId, page: PageNumber) -> (u64, bool) {
        if self.most <= 1 {
            return (1, false);
        }
        let near = |stream: &Stream| stream.last.abs_diff(page) <= self.near.max(stream.window);
        self.streams.advance(node, near, |known| {
            let (window, upwards) = known.map_or((self.first, false), |stream| {
                let window = (stream.window * self.factor).min(self.most);
                (window, page > stream.last)
            });
            ((window, upwards), Stream { last: page, window })
        })
    }
}

/// The aligned group of `window` pages around `offset`, as far as it lies in the segment.
fn group(segment: &Segment, offset: u64, window: u64) -> Range<u64> {
    let first = offset - offset % window;
    first..(first + window).min(segment.pages)
}

/// The part of `pages` that has the same lock as `offset`.
pub(crate) fn same_chunk(pages: &Range<u64>, offset: u64) -> Range<u64> {
    let first = offset - offset % CHUNK_PAGES as u64;
    pages.start.max(first)..pages.end.min(first + CHUNK_PAGES as u64)
}

/// Refuses a run of a peer that is not all under one lock, or leaves the segment.
pub(crate) fn check_run(segment: &Segment, run: &Range<u64>) -> Result<(), Failure> {
    if same_chunk(run, run.start) == *run && run.end <= segment.pages {
        return Ok(());
    }
    Err(Failure::Peer(Illegal("a run that leaves its block")))
}

/// [`group`], as far as its pages have the same lock as `offset`.
pub(crate) fn group_in_chunk(segment: &Segment, offset: u64, window: u64) -> Range<u64> {
    same_chunk(&group(segment, offset, window), offset)
}

impl Core {
    /// A message of a peer, whose frame had this tag: handles it, and sends neighbours of a page that it asks for.
    pub(crate) fn receive(
        &self,
        segment: &Segment,
        offset: u64,
        tag: u16,
        event: Event<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), Failure> {
        match event {
            Event::Message(
                from,
                message @ (Message::GiveZero | Message::ReadAhead { .. }),
                bytes,
            ) => {
                let run = offset..offset + frames::pages(message, tag);
                self.take_run(segment, run, from, (message, bytes), scratch)
            }
            Event::Message(from, Message::Get(access), _)
                if segment.home(offset) == self.rules.me =>
            {
                // The neighbours first: the thread that waits for the asked page then finds them in place when it goes on,
                // and does not ask for what is on its way. The request itself is served by what the page is after that.
                self.give_neighbours(segment, offset, from);
                if access == Access::Write {
                    return self.handle(segment, offset, event, scratch);
                }
                let reach = self.reach(segment, offset, from);
                if reach.in_order {
                    self.read_ahead(segment, offset, from, reach, scratch)?;
                    return self.handle(segment, offset, event, scratch);
                }
                self.handle(segment, offset, event, scratch)?;
                self.read_ahead(segment, offset, from, reach, scratch)
            }
            Event::Message(_, message, _) if frames::pages(message, tag) > 1 => {
                let run = offset..offset + frames::pages(message, tag);
                self.handle_run(segment, run, event, scratch)
            }
            _ => self.handle(segment, offset, event, scratch),
        }
    }

    /// Gives node `to`, which asks for an untouched page, the untouched ones around it.
    fn give_neighbours(&self, segment: &Segment, offset: u64, to: NodeId) {
        let (mut chunk, index) = segment.lock(offset);
        if !chunk.both(index).1.is_untouched() {
            return;
        }
        let (pages, upwards) = self.zeroes.window_and_way(to, segment.first + offset);
        if !self.room.peer_has_room(to, pages) {
            return;
        }
        let mut block = group(segment, offset, pages);
        if upwards {
            // What it has passed by belongs to somebody else, who would have to ask for each page.
            block = offset..(offset + pages).min(segment.pages);
        }
        let run = self.give_around(segment, &mut chunk, offset, &block, to);
        drop(chunk);
        self.give_further(segment, run, &block, to);
    }

    /// Gives the untouched pages on both sides of `offset`, in its chunk; returns the run with `offset` itself.
    fn give_around(
        &self,
        segment: &Segment,
        chunk: &mut Chunk,
        offset: u64,
        block: &Range<u64>,
        to: NodeId,
    ) -> Range<u64> {
        let part = same_chunk(block, offset);
        let above = self.give(segment, chunk, offset + 1..part.end, to);
        let below = self.give(segment, chunk, (part.start..offset).rev(), to);
        self.send_zeroes(segment, offset - below..offset, to);
        self.send_zeroes(segment, offset + 1..offset + 1 + above, to);
        offset - below..offset + 1 + above
    }

    /// Continues a run of given pages in the chunks before and after it; one lock at a time.
    fn give_further(&self, segment: &Segment, run: Range<u64>, block: &Range<u64>, to: NodeId) {
        let mut end = run.end;
        while end < block.end && end % CHUNK_PAGES as u64 == 0 {
            let (mut chunk, _) = segment.lock(end);
            let given = self.give(segment, &mut chunk, same_chunk(block, end), to);
            self.send_zeroes(segment, end..end + given, to);
            end += given.max(1); // nothing given: not at a border any more
        }
        let mut start = run.start;
        while start > block.start && start % CHUNK_PAGES as u64 == 0 {
            let (mut chunk, _) = segment.lock(start - 1);
            let part = same_chunk(block, start - 1);
            let given = self.give(segment, &mut chunk, part.rev(), to);
            self.send_zeroes(segment, start - given..start, to);
            start -= given.max(1);
        }
    }

    /// Gives pages, all under the lock `chunk`, up to the first one that cannot be given; returns how many. The
    /// caller sends them before it lets go of the lock.
    fn give(
        &self,
        segment: &Segment,
        chunk: &mut Chunk,
        pages: impl Iterator<Item = u64>,
        to: NodeId,
    ) -> u64 {
        let free = |offset: &u64| {
            segment.home(*offset) == self.rules.me
                && chunk.both(*offset as usize % CHUNK_PAGES).1.give_zero(to)
        };
        pages.take_while(free).count() as u64
    }

    fn send_zeroes(&self, segment: &Segment, run: Range<u64>, to: NodeId) {
        if !run.is_empty() {
            let count = run.end - run.start;
            self.stats.zero_range_pages.add(count);
            let frame = Frame::give_zeroes(segment.first + run.start, count as u16);
            self.send_frame(to, &frame, &[]);
        }
    }

    /// Home `from` lets this node have a run of pages for which it did not ask, by `message` and the bytes beside it.
    fn take_run(
        &self,
        segment: &Segment,
        run: Range<u64>,
        from: NodeId,
        (message, bytes): (Message, &[u8]),
        scratch: &mut Scratch,
    ) -> Result<(), Failure> {
        let (mut chunk, _) = segment.lock(run.start);
        if self.lost.has(from) {
            return Ok(());
        }
        check_run(segment, &run)?;
        let count = run.end - run.start;
        for page in run.clone() {
            let record = &mut chunk.pages[page as usize % CHUNK_PAGES];
            let mut here = Page {
                rules: &self.rules,
                home: segment.home(page),
                node: &mut record.node,
                entry: None,
            };
            // The only action is to fill the page, which is done for all of them together.
            scratch.actions.clear();
            here.receive(from, message, &mut Nothing, &mut scratch.actions)
                .map_err(Failure::Peer)?;
            self.came_unasked(record);
            if record.node.state == NodeState::Shared {
                self.room.copy_came(segment.first + page);
            }
        }
        match message {
            Message::ReadAhead { zero } => self.put_copies(segment, run, zero, bytes)?,
            _ => {
                let filled = self.zero_run(segment, Some(run))?;
                self.stats.pages_zero_filled.add(filled);
            }
        }
        chunk.here += count as u16;
        self.came(count);
        if let Some(room) = self.room.filled_by(from, count) {
            self.send_frame(from, &Frame::room(room), &[]);
        }
        self.release()
    }

    /// A page came before the answer to this node's request for it, or without one. Only a page that somebody waits
    /// for is held: that thread must get the chance to use it.
    pub(crate) fn came_unasked(&self, record: &mut PageRecord) {
        if record.node.pending.is_some() {
            self.granted(record);
        } else {
            record.granted_us = 0;
            record.faults.granted();
        }
    }
}

/// What a page that comes unasked may ask: it is not held, and goes into no pool.
struct Nothing;

impl Surroundings for Nothing {
    fn held(&mut self) -> bool {
        false
    }

    fn take_slot(&mut self) -> Option<Slot> {
        None
    }

    fn keeper(&mut self, _: NodeId) -> Option<NodeId> {
        None
    }

    fn is_lost(&self, _: NodeId) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(3);

    #[test]
    fn who_goes_on_gets_more_and_who_strays_gets_little() {
        let zeroes = Appetite::for_zeroes(512);
        let ask = |page| zeroes.window(NODE, page);
        assert_eq!(
            [0, 16, 32, 64, 128, 256, 512, 1024].map(ask),
            [16, 32, 64, 128, 256, 512, 512, 512]
        );
        assert_eq!([100_000, 1_000_000, 5_000].map(ask), [16; 3]);
        assert_eq!(zeroes.window(NodeId(4), 1536), 16);
        assert_eq!(ask(1536), 512); // the old run is remembered beside the three others
    }

    #[test]
    fn a_limit_of_one_page_gives_nothing_along() {
        let zeroes = Appetite::for_zeroes(1);
        assert_eq!([7, 8, 9].map(|page| zeroes.window(NODE, page)), [1; 3]);
        let few = Appetite::for_zeroes(4);
        assert_eq!([7, 8, 9].map(|page| few.window(NODE, page)), [4; 3]);
    }
}
