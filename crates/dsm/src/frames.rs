//! Messages of the protocol as frames: the page number is the header's `arg`, small operands its `tag`.

use crate::batch::in_runs;
use crate::segment::CHUNK_PAGES;
use crate::turns::Word;
use lev_coherence::{Access, Demand, Message, Slot};
use lev_wire::frame::Header;
use lev_wire::{NodeId, PageNumber, PAGE_SIZE};
use std::ops::RangeInclusive;

/// Kinds of frames that belong to the engine; a channel that carries more than pages passes these to
/// [`Engine::on_frame`](crate::Engine::on_frame).
pub const FRAME_KINDS: RangeInclusive<u16> = GET..=UNWRITTEN;

const GET: u16 = 0x0D01;
const DISCARD: u16 = 0x0D02;
const INSTALLED: u16 = 0x0D03;
const DROPPED: u16 = 0x0D04;
const DROP: u16 = 0x0D05;
const FETCH: u16 = 0x0D06;
const COLLECT: u16 = 0x0D07;
const GRANT: u16 = 0x0D08;
const GRANT_ZERO: u16 = 0x0D09;
const USE_POOL: u16 = 0x0D0A;
const DISCARDED: u16 = 0x0D0B;
const CONTENTS: u16 = 0x0D0C;
const GIVE_ZERO: u16 = 0x0D0D;
const READ_AHEAD: u16 = 0x0D0E;
const RETURN: u16 = 0x0D0F;
const STAY: u16 = 0x0D10;
const EVICT: u16 = 0x0D11;
const KEEP: u16 = 0x0D12;
const LEAVE: u16 = 0x0D13;
const KEEP_SLOT: u16 = 0x0D14;
const ASK: u16 = 0x0D15;
const HAVE: u16 = 0x0D16;
const FAILED: u16 = 0x0D17;
/// Not about a page: `arg` pages more have room at the sender.
pub(crate) const ROOM: u16 = 0x0D18;
/// Not about a page: the tag says what.
pub(crate) const TURN: u16 = 0x0D19;
const UNWRITTEN: u16 = 0x0D1A;

/// Tag of `FETCH`: this bit is the access, the others are the node.
const FETCH_WRITE: u16 = 1 << 15;
/// Tag of `CONTENTS` and `READ_AHEAD`: all bytes are zero and none follow.
const CONTENTS_ZERO: u16 = 1 << 1;

/// Tag of `READ_AHEAD` beside that: pages that follow after the first.
const MORE_SHIFT: u16 = 2;
/// Tag of what is said in runs: so many pages follow after the first.
const MORE: u16 = CHUNK_PAGES as u16 - 1;
/// Tag of `GIVE_ZERO`: so many pages, at most these.
const CHUNK: u16 = CHUNK_PAGES as u16;

/// A message as header and operand bytes. The bytes of a page, for [`Message::Contents`], are the caller's.
pub(crate) struct Frame {
    pub(crate) header: Header,
    operand: [u8; 4],
    operand_len: usize,
}

impl Frame {
    pub(crate) fn new(page: PageNumber, message: Message) -> Self {
        let (kind, tag, slot) = match message {
            Message::Get(access) => (GET, access_bit(access), None),
            Message::Discard => (DISCARD, 0, None),
            Message::Installed => (INSTALLED, 0, None),
            Message::Dropped => (DROPPED, 0, None),
            Message::Demand(Demand::Drop) => (DROP, 0, None),
            Message::Demand(Demand::Fetch { to, access }) => {
                (FETCH, to.0 | (access_bit(access) << 15), None)
            }
            Message::Demand(Demand::Collect(slot)) => (COLLECT, 0, Some(slot)),
            Message::Grant(access) => (GRANT, access_bit(access), None),
            Message::GrantZero => (GRANT_ZERO, 0, None),
            Message::ReadAhead { zero } => (READ_AHEAD, if zero { CONTENTS_ZERO } else { 0 }, None),
            Message::GiveZero => (GIVE_ZERO, 1, None),
            Message::UsePool(slot) => (USE_POOL, 0, Some(slot)),
            Message::Discarded => (DISCARDED, 0, None),
            Message::Return => (RETURN, 0, None),
            Message::Stay => (STAY, 0, None),
            Message::Demand(Demand::Evict { to }) => (EVICT, to.0, None),
            Message::Keep { zero } => (KEEP, if zero { CONTENTS_ZERO } else { 0 }, None),
            Message::Demand(Demand::Leave(slot)) => (LEAVE, 0, Some(slot)),
            Message::KeepSlot(slot) => (KEEP_SLOT, 0, Some(slot)),
            Message::Ask { lost } => (ASK, lost.0, None),
            Message::Have(access) => (
                HAVE,
                access.map_or(0, |access| 1 + access_bit(access)),
                None,
            ),
            Message::Failed => (FAILED, 0, None),
            Message::Unwritten => (UNWRITTEN, 0, None),
            Message::Contents { access, zero } => (
                CONTENTS,
                access_bit(access) | if zero { CONTENTS_ZERO } else { 0 },
                None,
            ),
        };
        let page_bytes = match message {
            Message::Contents { zero: false, .. }
            | Message::ReadAhead { zero: false }
            | Message::Keep { zero: false } => PAGE_SIZE,
            _ => 0,
        };
        let operand_len = slot.map_or(0, |_| std::mem::size_of::<Slot>());
        let len = (operand_len + page_bytes) as u32;
        Self {
            header: Header {
                kind,
                tag,
                len,
                arg: page,
            },
            operand: slot.unwrap_or(0).to_le_bytes(),
            operand_len,
        }
    }

    /// [`Message::GiveZero`] for `count` pages, `first` and those after it, all in one chunk.
    pub(crate) fn give_zeroes(first: PageNumber, count: u16) -> Self {
        let mut frame = Self::new(first, Message::GiveZero);
        frame.header.tag = count;
        frame
    }

    /// [`Message::ReadAhead`] for `count` pages, `first` and those after it, all in one chunk.
    pub(crate) fn read_ahead(first: PageNumber, count: u64, zero: bool) -> Self {
        let mut frame = Self::new(first, Message::ReadAhead { zero });
        frame.header.tag |= (count as u16 - 1) << MORE_SHIFT;
        frame.header.len *= count as u32;
        frame
    }

    /// One of [`in_runs`] about `count` pages, `first` and those after it, all in one chunk.
    pub(crate) fn run(first: PageNumber, message: Message, count: u64) -> Self {
        let mut frame = Self::new(first, message);
        frame.header.tag = count as u16 - 1;
        frame
    }

    /// A word about turns.
    pub(crate) fn turn(word: Word) -> Self {
        let mut frame = Self::new(0, Message::Installed);
        frame.header.kind = TURN;
        frame.header.tag = match word {
            Word::Ask => 0,
            Word::Give => 1,
            Word::Recall => 2,
            Word::Over => 3,
        };
        frame
    }

    /// So many pages more have room at the sender.
    pub(crate) fn room(pages: u64) -> Self {
        let header = Header {
            kind: ROOM,
            tag: 0,
            len: 0,
            arg: pages,
        };
        Self {
            header,
            operand: [0; 4],
            operand_len: 0,
        }
    }

    /// The operand bytes that follow the header, if any.
    pub(crate) fn operand(&self) -> &[u8] {
        &self.operand[..self.operand_len]
    }
}

/// Reads a word about turns, for node `me` from node `from`; the error says what is wrong with it.
pub(crate) fn decode_turn(
    header: &Header,
    payload: &[u8],
    from: NodeId,
    me: NodeId,
) -> Result<Word, &'static str> {
    if !payload.is_empty() || header.len != 0 || header.arg != 0 {
        return Err("a word about turns carries nothing");
    }
    match header.tag {
        0 if me == NodeId::HEAD => Ok(Word::Ask),
        3 if me == NodeId::HEAD => Ok(Word::Over),
        1 if from == NodeId::HEAD => Ok(Word::Give),
        2 if from == NodeId::HEAD => Ok(Word::Recall),
        0..=3 => Err("only node 0 gives turns"),
        _ => Err("unknown word about turns"),
    }
}

/// Reads a message; the error says what is wrong with it.
pub(crate) fn decode(header: &Header, payload: &[u8]) -> Result<Message, &'static str> {
    if payload.len() != header.len as usize {
        return Err("the payload is not as long as the header says");
    }
    let message = match (header.kind, header.tag) {
        (GET, tag) => Message::Get(access(tag)?),
        (DISCARD, 0) => Message::Discard,
        (INSTALLED, 0) => Message::Installed,
        (DROPPED, 0..=MORE) => Message::Dropped,
        (DROP, 0..=MORE) => Message::Demand(Demand::Drop),
        (FETCH, tag) => {
            let to = NodeId(tag & !FETCH_WRITE);
            Message::Demand(Demand::Fetch {
                to,
                access: access(tag >> 15)?,
            })
        }
        (COLLECT, 0) => return slot(payload).map(|slot| Message::Demand(Demand::Collect(slot))),
        (GRANT, tag) => Message::Grant(access(tag)?),
        (GRANT_ZERO, 0) => Message::GrantZero,
        (GIVE_ZERO, 1..=CHUNK) => Message::GiveZero,
        (USE_POOL, 0) => return slot(payload).map(Message::UsePool),
        (DISCARDED, 0) => Message::Discarded,
        (RETURN, 0..=MORE) => Message::Return,
        (STAY, 0..=MORE) => Message::Stay,
        (EVICT, to) => Message::Demand(Demand::Evict { to: NodeId(to) }),
        (LEAVE, 0) => return slot(payload).map(|slot| Message::Demand(Demand::Leave(slot))),
        (KEEP_SLOT, 0) => return slot(payload).map(Message::KeepSlot),
        (ASK, lost) => Message::Ask { lost: NodeId(lost) },
        (HAVE, 0) => Message::Have(None),
        (HAVE, tag) => Message::Have(Some(access(tag - 1)?)),
        (FAILED, 0) => Message::Failed,
        (UNWRITTEN, 0) => Message::Unwritten,
        (kind @ (CONTENTS | READ_AHEAD | KEEP), tag) => {
            let (access, zero) = (access(tag & 1)?, tag & CONTENTS_ZERO != 0);
            let more = usize::from(tag >> MORE_SHIFT);
            let message = match (kind, access) {
                (CONTENTS, access) => Message::Contents { access, zero },
                (READ_AHEAD, Access::Read) => Message::ReadAhead { zero },
                (_, Access::Read) => Message::Keep { zero },
                (_, Access::Write) => return Err("unasked contents with a right of their own"),
            };
            let expected = if zero { 0 } else { PAGE_SIZE * (1 + more) };
            let most = if kind == READ_AHEAD { CHUNK_PAGES } else { 1 };
            if more >= most || payload.len() != expected {
                return Err("contents with a wrong flag or length");
            }
            return Ok(message);
        }
        _ => return Err("unknown kind of frame, or operand out of range"),
    };
    if payload.is_empty() {
        Ok(message)
    } else {
        Err("a payload where none belongs")
    }
}

/// How many pages a message is about whose frame had this tag.
pub(crate) fn pages(message: Message, tag: u16) -> u64 {
    match message {
        Message::GiveZero => tag.into(),
        Message::ReadAhead { .. } => u64::from(tag >> MORE_SHIFT) + 1,
        message if in_runs(message) => u64::from(tag) + 1,
        _ => 1,
    }
}

fn access_bit(access: Access) -> u16 {
    u16::from(access == Access::Write)
}

fn access(bit: u16) -> Result<Access, &'static str> {
    match bit {
        0 => Ok(Access::Read),
        1 => Ok(Access::Write),
        _ => Err("access out of range"),
    }
}

fn slot(payload: &[u8]) -> Result<Slot, &'static str> {
    payload
        .try_into()
        .map(Slot::from_le_bytes)
        .map_err(|_| "a slot is 4 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Message> {
        let mut all = vec![
            Message::Discard,
            Message::Installed,
            Message::Dropped,
            Message::Unwritten,
            Message::GrantZero,
            Message::GiveZero,
            Message::ReadAhead { zero: false },
            Message::ReadAhead { zero: true },
            Message::Discarded,
            Message::UsePool(0xABCD_EF01),
            Message::Demand(Demand::Drop),
            Message::Demand(Demand::Collect(7)),
            Message::Demand(Demand::Leave(7)),
            Message::Demand(Demand::Evict { to: NodeId(1023) }),
            Message::Return,
            Message::Stay,
            Message::Keep { zero: false },
            Message::Keep { zero: true },
            Message::KeepSlot(9),
            Message::Ask { lost: NodeId(3) },
            Message::Have(None),
            Message::Have(Some(Access::Read)),
            Message::Have(Some(Access::Write)),
            Message::Failed,
        ];
        for access in [Access::Read, Access::Write] {
            all.push(Message::Get(access));
            all.push(Message::Grant(access));
            all.push(Message::Demand(Demand::Fetch {
                to: NodeId(1023),
                access,
            }));
            all.extend([true, false].map(|zero| Message::Contents { access, zero }));
        }
        all
    }

    fn payload(frame: &Frame) -> Vec<u8> {
        let mut payload = frame.operand().to_vec();
        payload.resize(frame.header.len as usize, 0x5A);
        payload
    }

    #[test]
    fn every_message_survives() {
        for message in all() {
            let frame = Frame::new(0x1234_5678_9ABC, message);
            assert!(FRAME_KINDS.contains(&frame.header.kind));
            assert_eq!(frame.header.arg, 0x1234_5678_9ABC);
            assert_eq!(decode(&frame.header, &payload(&frame)), Ok(message));
        }
    }

    #[test]
    fn a_run_of_zeroes_has_a_length() {
        let run = Frame::give_zeroes(9, 64);
        assert_eq!(decode(&run.header, &[]), Ok(Message::GiveZero));
        for count in [0, 65] {
            assert!(decode(&Frame::give_zeroes(9, count).header, &[]).is_err());
        }
    }

    #[test]
    fn a_run_of_words_has_a_length() {
        for message in all().into_iter().filter(|message| in_runs(*message)) {
            for count in [1, 2, 64] {
                let header = Frame::run(9, message, count).header;
                assert_eq!(decode(&header, &[]), Ok(message));
                assert_eq!(pages(message, header.tag), count);
            }
            assert!(decode(&Frame::run(9, message, 65).header, &[]).is_err());
        }
    }

    #[test]
    fn words_about_turns_go_to_the_head_and_come_from_it() {
        let (head, node) = (NodeId::HEAD, NodeId(1));
        for (word, from, to) in [
            (Word::Ask, node, head),
            (Word::Over, node, head),
            (Word::Give, head, node),
            (Word::Recall, head, node),
        ] {
            let header = Frame::turn(word).header;
            assert!(FRAME_KINDS.contains(&header.kind));
            assert_eq!(decode_turn(&header, &[], from, to), Ok(word));
            assert!(decode_turn(&header, &[], to, from).is_err());
            assert!(decode_turn(&header, &[0], from, to).is_err());
            assert!(decode_turn(&Header { tag: 4, ..header }, &[], from, to).is_err());
            assert!(decode(&header, &[]).is_err());
        }
    }

    #[test]
    fn damaged_frames_are_refused() {
        for message in all() {
            let frame = Frame::new(1, message);
            let (header, bytes) = (frame.header, payload(&frame));
            assert!(decode(&Header { kind: 0, ..header }, &bytes).is_err());
            assert!(decode(
                &Header {
                    tag: 0x7FFF,
                    kind: header.kind | 0x80,
                    ..header
                },
                &bytes
            )
            .is_err());
            assert!(decode(
                &Header {
                    len: header.len + 1,
                    ..header
                },
                &bytes
            )
            .is_err());
            let longer = [&bytes[..], &[0]].concat();
            assert!(decode(
                &Header {
                    len: header.len + 1,
                    ..header
                },
                &longer
            )
            .is_err());
        }
    }
}
