//! What stands in front of every frame: who sent it, the proof, its number, and the frame's own header. Little-endian.
//!
//! | offset | bytes | what |
//! | --- | --- | --- |
//! | 0 | 16 | the token that the receiver gave to the sender |
//! | 16 | 2 | the sender |
//! | 18 | 1 | what it is: a [`Word`] |
//! | 19 | 5 | 0 |
//! | 24 | 8 | number of the frame on its way from this sender to this receiver, from 0 on |
//! | 32 | 16 | the frame's header |

use lev_wire::frame::{Header, HEADER_LEN};
use lev_wire::NodeId;

/// Bytes of an envelope.
pub(crate) const ENVELOPE_LEN: usize = 32 + HEADER_LEN;

/// Bytes of a [`Token`].
pub(crate) const TOKEN_LEN: usize = 16;

/// A random number that only the peer to whom it was told can know.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token(pub(crate) [u8; TOKEN_LEN]);

impl Token {
    /// Whether they are the same; takes as long whatever differs.
    pub(crate) fn matches(&self, other: &Self) -> bool {
        let differs = self
            .0
            .iter()
            .zip(other.0)
            .fold(0, |sum, (a, b)| sum | (a ^ b));
        differs == 0
    }
}

/// What a message is. All but frames have a header of zeroes and no payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// A frame for the engine.
    Frame = 0,
    /// The first one: the way there works.
    Hello = 1,
    /// The answer to it: the way back works, too.
    Answer = 2,
    /// The sender closes: nothing follows.
    Last = 3,
}

/// One envelope.
#[derive(Clone, Copy)]
pub(crate) struct Envelope {
    pub(crate) token: Token,
    pub(crate) from: NodeId,
    pub(crate) word: Word,
    pub(crate) number: u64,
    pub(crate) header: Header,
}

impl Envelope {
    pub(crate) fn encode(&self) -> [u8; ENVELOPE_LEN] {
        let mut out = [0; ENVELOPE_LEN];
        out[..16].copy_from_slice(&self.token.0);
        out[16..18].copy_from_slice(&self.from.0.to_le_bytes());
        out[18] = self.word as u8;
        out[24..32].copy_from_slice(&self.number.to_le_bytes());
        out[32..].copy_from_slice(&self.header.encode());
        out
    }

    /// Reads an envelope in front of `payload` bytes; `None` if it is none, or announces other ones.
    pub(crate) fn decode(bytes: &[u8], payload: usize) -> Option<Self> {
        let bytes: &[u8; ENVELOPE_LEN] = bytes.try_into().ok()?;
        let (front, header) = bytes.split_last_chunk::<HEADER_LEN>()?;
        let header = Header::decode(header)?;
        if bytes[19..24] != [0; 5] || header.len as usize != payload {
            return None;
        }
        let words = [Word::Frame, Word::Hello, Word::Answer, Word::Last];
        let word = *words.get(usize::from(bytes[18]))?;
        if word != Word::Frame && payload > 0 {
            return None;
        }
        Some(Self {
            token: Token(*front.first_chunk()?),
            from: NodeId(u16::from_le_bytes([bytes[16], bytes[17]])),
            word,
            number: u64::from_le_bytes(*front.last_chunk()?),
            header,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn envelope(len: u32) -> Envelope {
        Envelope {
            token: Token(*b"0123456789abcdef"),
            from: NodeId(0x0201),
            word: Word::Frame,
            number: 0x0807_0605_0403_0201,
            header: Header {
                kind: 7,
                tag: 8,
                len,
                arg: 9,
            },
        }
    }

    #[test]
    fn the_layout_is_fixed() {
        let bytes = envelope(5).encode();
        assert_eq!(&bytes[..16], b"0123456789abcdef");
        assert_eq!(bytes[16..24], [1, 2, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[24..32], [1, 2, 3, 4, 5, 6, 7, 8]);
        let read = Envelope::decode(&bytes, 5).unwrap();
        assert!(read.token.matches(&envelope(5).token));
        assert_eq!(
            (read.from, read.number),
            (NodeId(0x0201), 0x0807_0605_0403_0201)
        );
        assert_eq!(read.word, Word::Frame);
        assert_eq!(read.header, envelope(5).header);
    }

    #[test]
    fn words_are_numbers_of_their_own() {
        for (word, number) in [(Word::Hello, 1), (Word::Answer, 2), (Word::Last, 3)] {
            let bytes = Envelope {
                word,
                ..envelope(0)
            }
            .encode();
            assert_eq!(bytes[18], number);
            assert_eq!(Envelope::decode(&bytes, 0).unwrap().word, word);
        }
    }

    #[test]
    fn what_does_not_fit_is_none() {
        let mut bytes = envelope(5).encode();
        assert!(Envelope::decode(&bytes, 6).is_none());
        assert!(Envelope::decode(&bytes[1..], 5).is_none());
        for (at, value) in [(18, 1), (18, 4), (20, 1)] {
            let before = std::mem::replace(&mut bytes[at], value);
            assert!(Envelope::decode(&bytes, 5).is_none());
            bytes[at] = before;
        }
        let long = envelope((1 << 20) + 1).encode();
        assert!(Envelope::decode(&long, (1 << 20) + 1).is_none());
    }

    #[test]
    fn every_byte_of_a_token_counts() {
        let token = Token([7; TOKEN_LEN]);
        for at in 0..TOKEN_LEN {
            let mut other = token;
            other.0[at] ^= 0x80;
            assert!(!token.matches(&other));
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100), len in 0usize..100) {
            let _ = Envelope::decode(&bytes, len);
        }
    }
}
