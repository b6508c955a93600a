//! What fuzzing needs to see of the engine's frames; not part of the crate's interface.

use crate::batch::in_runs;
use crate::frames::{decode, decode_turn, pages, Frame, ROOM, TURN};
use crate::turns::Word;
use lev_coherence::{Access, Demand, Message};
use lev_wire::frame::{Header, HEADER_LEN};
use lev_wire::{NodeId, PAGE_SIZE};

/// Reads one frame (header, then payload) as [`Engine::on_frame`](crate::Engine::on_frame) does; a frame that is
/// accepted must be one that this crate makes, byte for byte. False: refused.
///
/// # Panics
/// If it is not.
pub fn frame(bytes: &[u8]) -> bool {
    let Some((head, payload)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return false;
    };
    let Some(header) = Header::decode(head) else {
        return false;
    };
    let (head, node) = (NodeId::HEAD, NodeId(1));
    for (from, me) in [(head, node), (node, head)] {
        if let Ok(word) = decode_turn(&header, payload, from, me) {
            assert_eq!(
                Frame::turn(word).header,
                Header {
                    kind: TURN,
                    ..header
                }
            );
        }
    }
    if (header.kind, header.tag, header.len) == (ROOM, 0, 0) {
        assert_eq!(Frame::room(header.arg).header, header);
        return payload.is_empty();
    }
    let Ok(message) = decode(&header, payload) else {
        return false;
    };
    let again = match message {
        Message::GiveZero => Frame::give_zeroes(header.arg, header.tag),
        Message::ReadAhead { zero } => {
            Frame::read_ahead(header.arg, pages(message, header.tag), zero)
        }
        message if in_runs(message) => Frame::run(header.arg, message, pages(message, header.tag)),
        message => Frame::new(header.arg, message),
    };
    assert_eq!(again.header, header, "{message:?}");
    if !again.operand().is_empty() {
        assert_eq!(again.operand(), payload, "{message:?}");
    }
    true
}

/// A name of letters, digits and single hyphens: it becomes that of a file.
fn plain(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric());
    words
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join("-")
}

/// Frames as the engine makes them, by name.
#[must_use]
pub fn frames() -> Vec<(String, Vec<u8>)> {
    let mut messages = vec![
        Message::Discard,
        Message::Installed,
        Message::Dropped,
        Message::Unwritten,
        Message::GrantZero,
        Message::GiveZero,
        Message::Discarded,
        Message::UsePool(3),
        Message::Demand(Demand::Drop),
        Message::Demand(Demand::Collect(3)),
        Message::Demand(Demand::Leave(3)),
        Message::Demand(Demand::Evict { to: NodeId(2) }),
        Message::Return,
        Message::Stay,
        Message::Failed,
        Message::KeepSlot(3),
        Message::Ask { lost: NodeId(2) },
        Message::Have(None),
    ];
    messages.extend([true, false].map(|zero| Message::ReadAhead { zero }));
    messages.extend([true, false].map(|zero| Message::Keep { zero }));
    for access in [Access::Read, Access::Write] {
        messages.push(Message::Get(access));
        messages.push(Message::Have(Some(access)));
        messages.push(Message::Grant(access));
        messages.push(Message::Demand(Demand::Fetch {
            to: NodeId(2),
            access,
        }));
        messages.extend([true, false].map(|zero| Message::Contents { access, zero }));
    }
    let mut frames: Vec<_> = messages
        .into_iter()
        .map(|message| (format!("{message:?}"), Frame::new(7, message)))
        .collect();
    frames.push(("GiveZeroes".into(), Frame::give_zeroes(8, 56)));
    frames.push(("ReadAheads".into(), Frame::read_ahead(8, 3, false)));
    frames.push(("ReadAheadsZero".into(), Frame::read_ahead(8, 56, true)));
    frames.push(("Returns".into(), Frame::run(8, Message::Return, 56)));
    frames.push((
        "Drops".into(),
        Frame::run(8, Message::Demand(Demand::Drop), 2),
    ));
    frames.push(("Room".into(), Frame::room(1 << 18)));
    for word in [Word::Ask, Word::Give, Word::Recall, Word::Over] {
        frames.push((format!("Turn{word:?}"), Frame::turn(word)));
    }
    frames
        .into_iter()
        .map(|(name, frame)| {
            let mut bytes = frame.header.encode().to_vec();
            bytes.extend_from_slice(frame.operand());
            let contents = frame.header.len as usize;
            if contents >= PAGE_SIZE {
                bytes.resize(HEADER_LEN + contents, 0x5A);
            }
            (plain(&name), bytes)
        })
        .collect()
}
