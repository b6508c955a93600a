//! Frames of the other nodes: checked, and handed to the page that they are about.

use crate::core::{Event, Failure};
use crate::engine::SCRATCH;
use crate::frames;
use crate::segment::SegmentTable;
use crate::{DsmError, Engine};
use lev_coherence::{Demand, Message};
use lev_wire::frame::{Header, HEADER_LEN};
use lev_wire::NodeId;
use std::sync::atomic::Ordering;
use std::sync::PoisonError;

/// Frames kept for segments that are not active yet; more is not an accident of timing any more.
const EARLY_FRAMES: usize = 1 << 16;

impl Engine {
    /// Takes one frame of a peer. Frames of one peer must come in order, from one thread at a time.
    ///
    /// # Errors
    /// The frame is malformed or not allowed: drop the connection. [`DsmError::Stopped`]: the engine cannot go on,
    /// and has said why through `on_fatal`.
    pub fn on_frame(&self, from: NodeId, header: Header, payload: &[u8]) -> Result<(), DsmError> {
        if self.core.stopped.load(Ordering::Acquire) {
            return Err(DsmError::Stopped);
        }
        self.core.stats.frames_received.add(1);
        self.core
            .stats
            .bytes_received
            .add((HEADER_LEN + payload.len()) as u64);
        if header.kind == frames::TURN {
            return self.on_turn(from, header, payload);
        }
        match self.checked(from, &header, payload)? {
            None => {
                self.core.room.note_peer(from, header.arg);
                return Ok(());
            }
            Some(Message::Ask { lost }) => self.peer_lost(lost),
            Some(_) => {}
        }
        let table = self.table();
        match table.find_page(header.arg) {
            Some((segment, _)) if segment.active.load(Ordering::Acquire) => {
                let result = self.deliver(&table, from, header, payload);
                drop(table);
                self.settle(from, &header, result)
            }
            // Kept under the table's lock, so that activation finds it.
            _ => self.keep_early(from, header, payload),
        }
    }

    /// What can be wrong with a frame whatever the state is. `None`: it is not about a page.
    fn checked(
        &self,
        from: NodeId,
        header: &Header,
        payload: &[u8],
    ) -> Result<Option<Message>, DsmError> {
        let bad = |why| DsmError::Peer {
            from,
            kind: header.kind,
            arg: header.arg,
            why,
        };
        if from.0 >= self.core.nodes || from == self.core.rules.me {
            return Err(bad("not from another node of the cluster"));
        }
        if (header.kind, header.tag, payload.len()) == (frames::ROOM, 0, 0) {
            return Ok(None);
        }
        let message = frames::decode(header, payload).map_err(bad)?;
        let named = match message {
            Message::Demand(Demand::Fetch { to, .. } | Demand::Evict { to }) => Some(to),
            Message::Ask { lost } => Some(lost),
            _ => None,
        };
        match named {
            Some(node) if node.0 >= self.core.nodes => {
                Err(bad("a node that is not in the cluster"))
            }
            Some(node) if matches!(message, Message::Ask { .. }) && node == self.core.rules.me => {
                Err(bad("this node is not lost"))
            }
            _ => Ok(Some(message)),
        }
    }

    fn on_turn(&self, from: NodeId, header: Header, payload: &[u8]) -> Result<(), DsmError> {
        let word = frames::decode_turn(&header, payload, from, self.core.rules.me);
        let known = from.0 < self.core.nodes && from != self.core.rules.me;
        let word = word.and_then(|word| {
            known
                .then_some(word)
                .ok_or("not from another node of the cluster")
        });
        let word = word.map_err(|why| DsmError::Peer {
            from,
            kind: header.kind,
            arg: header.arg,
            why,
        })?;
        if self.core.lost.has(from) {
            return Ok(());
        }
        let table = self.table();
        let result = SCRATCH.with_borrow_mut(|scratch| self.core.hear(from, word, &table, scratch));
        drop(table);
        self.settle(from, &header, result)
    }

    fn keep_early(&self, from: NodeId, header: Header, payload: &[u8]) -> Result<(), DsmError> {
        let mut early = self
            .core
            .early
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if early.len() >= EARLY_FRAMES {
            let why = "too many frames about memory that is not active here";
            return Err(DsmError::Peer {
                from,
                kind: header.kind,
                arg: header.arg,
                why,
            });
        }
        early.push_back((from, header, payload.to_vec()));
        Ok(())
    }

    /// Handles kept frames whose segment has become active, in their order.
    pub(crate) fn replay_early(&self, table: &SegmentTable) -> Result<(), DsmError> {
        let mut early = self
            .core
            .early
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for (from, header, payload) in std::mem::take(&mut *early) {
            match table.find_page(header.arg) {
                Some((segment, _)) if segment.active.load(Ordering::Acquire) => {
                    let result = self.deliver(table, from, header, &payload);
                    result.map_err(|failure| failure.into_peer_error(from, &header))?;
                }
                _ => early.push_back((from, header, payload)),
            }
        }
        Ok(())
    }

    fn deliver(
        &self,
        table: &SegmentTable,
        from: NodeId,
        header: Header,
        payload: &[u8],
    ) -> Result<(), Failure> {
        let (Some((segment, offset)), Ok(message)) = (
            table.find_page(header.arg),
            frames::decode(&header, payload),
        ) else {
            return Ok(()); // both were looked at by the caller
        };
        let event = Event::Message(from, message, payload);
        SCRATCH.with_borrow_mut(|scratch| {
            self.core
                .receive(segment, offset, header.tag, event, scratch)
        })
    }

    fn settle(
        &self,
        from: NodeId,
        header: &Header,
        result: Result<(), Failure>,
    ) -> Result<(), DsmError> {
        match result {
            Ok(()) => Ok(()),
            Err(Failure::Here(error)) => {
                self.core.fatal(error);
                Err(DsmError::Stopped)
            }
            Err(failure) => Err(failure.into_peer_error(from, header)),
        }
    }
}
