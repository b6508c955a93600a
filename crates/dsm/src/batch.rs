//! Words of the protocol about pages beside each other, which leave as one frame.
//!
//! A frame costs a system call at both ends and wakes a thread, whatever it says. Who handles many pages under one lock
//! gathers what it has to say about them, and says it before the lock is free: so frames about a page keep their order.

use crate::ahead::check_run;
use crate::core::{Core, Event, Failure, Scratch};
use crate::frames::Frame;
use crate::segment::{Chunk, Segment, CHUNK_PAGES};
use lev_coherence::{Demand, Message};
use lev_wire::{NodeId, PageNumber};
use std::ops::Range;

/// Whether a frame can say this of a run of pages: it carries nothing else.
pub(crate) fn in_runs(message: Message) -> bool {
    matches!(
        message,
        Message::Return | Message::Stay | Message::Dropped | Message::Demand(Demand::Drop)
    )
}

struct Run {
    to: NodeId,
    message: Message,
    first: PageNumber,
    pages: u64,
}

impl Run {
    fn end(&self) -> PageNumber {
        self.first + self.pages
    }
}

/// What waits to be said. Empty, and of no use, unless its owner gathers.
#[derive(Default)]
pub(crate) struct Batch {
    gathers: bool,
    runs: Vec<Run>,
}

impl Batch {
    /// Keeps a word for later; `false`: it must be said now, after what was kept.
    fn keep(&mut self, to: NodeId, message: Message, page: PageNumber) -> bool {
        if !self.gathers || !in_runs(message) {
            return false;
        }
        let fits = |run: &Run| run.to == to && run.message == message && run.end() == page;
        match self.runs.iter().position(fits) {
            // What was said of the page after that run began must not be overtaken.
            Some(at) if self.runs[at + 1..].iter().all(|run| run.end() <= page) => {
                self.runs[at].pages += 1;
            }
            _ => self.runs.push(Run {
                to,
                message,
                first: page,
                pages: 1,
            }),
        }
        true
    }
}

impl Core {
    /// Sends a word about a page, or keeps it for the end of [`Core::handle_together`].
    pub(crate) fn send_word(
        &self,
        to: NodeId,
        message: Message,
        page: PageNumber,
        batch: &mut Batch,
    ) {
        if !batch.keep(to, message, page) {
            self.send_gathered(batch);
            self.send(to, page, message, &[]);
        }
    }

    /// Sends what was kept: nothing else may overtake it.
    pub(crate) fn send_gathered(&self, batch: &mut Batch) {
        for run in batch.runs.drain(..) {
            let frame = Frame::run(run.first, run.message, run.pages);
            self.send_frame(run.to, &frame, &[]);
        }
    }

    /// One event of pages that are all under the lock `chunk`. What has to be said of pages beside each other leaves as one
    /// frame, also after a failure: others may wait for it.
    pub(crate) fn handle_together(
        &self,
        segment: &Segment,
        chunk: &mut Chunk,
        pages: impl IntoIterator<Item = u64>,
        event: Event<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), Failure> {
        scratch.tools.batch.gathers = true;
        let result = pages.into_iter().try_for_each(|page| {
            let index = page as usize % CHUNK_PAGES;
            self.handle_locked(segment, page, chunk, index, event, scratch)
        });
        let batch = &mut scratch.tools.batch;
        batch.gathers = false;
        self.send_gathered(batch);
        result
    }

    /// A message about a run of pages: the same event of each of them.
    pub(crate) fn handle_run(
        &self,
        segment: &Segment,
        run: Range<u64>,
        event: Event<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), Failure> {
        check_run(segment, &run)?;
        let (mut chunk, _) = self.lock_watched(segment, run.start)?;
        self.handle_together(segment, &mut chunk, run, event, scratch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DROP: Message = Message::Demand(Demand::Drop);

    fn runs(words: &[(u16, Message, PageNumber)]) -> Vec<(u16, Message, PageNumber, u64)> {
        let mut batch = Batch {
            gathers: true,
            runs: Vec::new(),
        };
        for (to, message, page) in words {
            assert!(batch.keep(NodeId(*to), *message, *page));
        }
        let told = |run: &Run| (run.to.0, run.message, run.first, run.pages);
        batch.runs.iter().map(told).collect()
    }

    #[test]
    fn pages_beside_each_other_share_a_frame() {
        let words = [
            (1, Message::Stay, 5),
            (1, DROP, 5),
            (1, Message::Stay, 6),
            (1, DROP, 6),
            (2, DROP, 7),
            (1, DROP, 8),
        ];
        assert_eq!(
            runs(&words),
            [
                (1, Message::Stay, 5, 2),
                (1, DROP, 5, 2),
                (2, DROP, 7, 1),
                (1, DROP, 8, 1)
            ]
        );
    }

    #[test]
    fn no_word_about_a_page_overtakes_another() {
        let words = [(1, Message::Stay, 5), (1, DROP, 6), (1, Message::Stay, 6)];
        assert_eq!(
            runs(&words),
            [
                (1, Message::Stay, 5, 1),
                (1, DROP, 6, 1),
                (1, Message::Stay, 6, 1)
            ]
        );
    }

    #[test]
    fn what_carries_more_or_is_not_gathered_goes_at_once() {
        let mut batch = Batch::default();
        assert!(!batch.keep(NodeId(1), Message::Return, 1));
        batch.gathers = true;
        assert!(!batch.keep(NodeId(1), Message::Installed, 1));
        assert!(batch.keep(NodeId(1), Message::Return, 1));
    }
}
