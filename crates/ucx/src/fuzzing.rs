//! What a peer can send over UCX, for `crates/fuzz`. No part of the interface.

use crate::envelope::{Envelope, Token, Word, ENVELOPE_LEN};
use crate::sequence::Sequence;
use lev_wire::frame::Header;
use lev_wire::NodeId;

/// Bytes of one arrival in the input of [`arrivals`]: its number, and its size in units of 4 KiB.
const ARRIVAL: usize = 4;

/// A message: an envelope and its payload. What is read encodes to the same bytes again.
pub fn message(bytes: &[u8]) {
    if let Some((front, payload)) = bytes.split_at_checked(ENVELOPE_LEN) {
        if let Some(envelope) = Envelope::decode(front, payload.len()) {
            assert_eq!(envelope.encode(), front);
            assert!(envelope.word == Word::Frame || payload.is_empty());
        }
    }
}

/// One message of each kind.
#[must_use]
pub fn messages() -> Vec<(String, Vec<u8>)> {
    let message = |name: &str, word, payload: &[u8]| {
        let envelope = Envelope {
            token: Token(*b"0123456789abcdef"),
            from: NodeId(3),
            word,
            number: 5,
            header: Header {
                kind: 1,
                tag: 2,
                len: payload.len() as u32,
                arg: 7,
            },
        };
        (name.to_owned(), [&envelope.encode(), payload].concat())
    };
    vec![
        message("frame", Word::Frame, &[9; 64]),
        message("hello", Word::Hello, b""),
        message("answer", Word::Answer, b""),
        message("last", Word::Last, b""),
    ]
}

/// Frames by their numbers, in the order in which they come: each is handed on once, in order, or the peer is given up.
pub fn arrivals(bytes: &[u8]) {
    let (mut sequence, mut next) = (Sequence::default(), 0);
    for arrival in bytes.chunks_exact(ARRIVAL) {
        let number = u64::from(u16::from_le_bytes([arrival[0], arrival[1]]));
        let size = usize::from(u16::from_le_bytes([arrival[2], arrival[3]])) << 12;
        let put = sequence.put(number, size, number, |frame| {
            assert_eq!(frame, next);
            next += 1;
        });
        if put.is_err() {
            return;
        }
        assert_ne!(number, next, "neither handed on nor early");
    }
}

/// Frames in order, and frames that overtake each other.
#[must_use]
pub fn orders() -> Vec<(String, Vec<u8>)> {
    let order = |name: &str, numbers: &[u16]| {
        let bytes = numbers.iter().flat_map(|number| {
            let [low, high] = number.to_le_bytes();
            [low, high, 1, 0]
        });
        (name.to_owned(), bytes.collect())
    };
    vec![
        order("straight", &[0, 1, 2, 3]),
        order("overtaken", &[2, 0, 3, 1, 4]),
    ]
}
