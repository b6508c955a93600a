//! A receive buffer: bytes come in at the back, frames go out at the front, and nothing moves in between.

use crate::TransportError;
use lev_wire::frame::{Header, HEADER_LEN, MAX_PAYLOAD};
use std::ops::Range;

/// Bytes of a receive buffer at first: about sixty pages a read.
pub(crate) const WINDOW_LEN: usize = 256 << 10;
/// Free bytes at the back below which the unread rest is moved to the front before the next read.
const READ_MIN: usize = 32 << 10;

/// A buffer with an unread range.
pub(crate) struct Window {
    data: Vec<u8>,
    start: usize,
    end: usize,
}

impl Window {
    /// An empty window of `len` bytes.
    pub(crate) fn new(len: usize) -> Self {
        Self {
            data: vec![0; len],
            start: 0,
            end: 0,
        }
    }

    /// The unread bytes.
    pub(crate) fn unread(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }

    /// Takes the first `len` unread bytes and says where they lie until the next [`Window::space`].
    pub(crate) fn take(&mut self, len: usize) -> Range<usize> {
        assert!(
            len <= self.end - self.start,
            "take {len} of {} bytes",
            self.end - self.start
        );
        let range = self.start..self.start + len;
        self.start += len;
        range
    }

    /// Bytes that [`Window::take`] gave.
    pub(crate) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.data[range]
    }

    /// Free space for at least `need` bytes (and, when that costs little, for many more) behind the unread bytes.
    pub(crate) fn space(&mut self, need: usize) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
        if self.data.len() - self.end < need.max(READ_MIN) && self.start > 0 {
            self.data.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.data.len() - self.end < need {
            self.data.resize(self.end + need, 0);
        }
        &mut self.data[self.end..]
    }

    /// The first `len` bytes of [`Window::space`] were filled.
    pub(crate) fn filled(&mut self, len: usize) {
        assert!(len <= self.data.len() - self.end);
        self.end += len;
    }

    /// What stands at the front.
    pub(crate) fn front(&self) -> Result<Front, TransportError> {
        let unread = self.unread();
        let Some(bytes) = unread.first_chunk::<HEADER_LEN>() else {
            return Ok(Front::Partial { need: HEADER_LEN });
        };
        let Some(header) = Header::decode(bytes) else {
            return Err(TransportError::Oversized {
                kind: u16::from_le_bytes([bytes[0], bytes[1]]),
                len: Header::announced(bytes),
                limit: MAX_PAYLOAD,
            });
        };
        let need = HEADER_LEN + header.len as usize;
        Ok(if unread.len() < need {
            Front::Partial { need }
        } else {
            Front::Frame(header)
        })
    }
}

/// What stands at the front of a [`Window`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Front {
    /// A whole frame.
    Frame(Header),
    /// Part of something that has at least `need` bytes.
    Partial {
        /// Bytes from the front.
        need: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put(window: &mut Window, bytes: &[u8]) {
        window.space(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        window.filled(bytes.len());
    }

    fn frame(kind: u16, payload: &[u8]) -> Vec<u8> {
        let header = Header {
            kind,
            tag: !kind,
            len: u32::try_from(payload.len()).unwrap(),
            arg: u64::from(kind) << 40,
        };
        [&header.encode()[..], payload].concat()
    }

    #[test]
    fn an_oversized_frame_is_an_error_with_its_numbers() {
        let mut window = Window::new(64);
        let header = Header {
            kind: 9,
            tag: 0,
            len: (1 << 20) + 1,
            arg: 0,
        };
        put(&mut window, &header.encode());
        let error = TransportError::Oversized {
            kind: 9,
            len: (1 << 20) + 1,
            limit: 1 << 20,
        };
        assert_eq!(window.front(), Err(error));
    }

    #[test]
    fn a_frame_larger_than_the_window_makes_it_grow() {
        let mut window = Window::new(64);
        let bytes = frame(3, &[7; MAX_PAYLOAD]);
        put(&mut window, &bytes[..20]);
        assert_eq!(
            window.front(),
            Ok(Front::Partial {
                need: HEADER_LEN + MAX_PAYLOAD
            })
        );
        put(&mut window, &bytes[20..]);
        assert!(matches!(window.front(), Ok(Front::Frame(header)) if header.kind == 3));
        let range = window.take(bytes.len());
        assert_eq!(window.bytes(range), bytes);
    }

    proptest! {
        /// However a stream is cut into reads, the same frames come out.
        #[test]
        fn any_cut_gives_the_same_frames(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..20),
            cuts in proptest::collection::vec(1usize..400, 1..60),
            len in 16usize..600,
        ) {
            let frames: Vec<Vec<u8>> = payloads.iter().zip(0..).map(|(p, kind)| frame(kind, p)).collect();
            let stream = frames.concat();
            let mut window = Window::new(len);
            let mut out: Vec<Vec<u8>> = Vec::new();
            let (mut at, mut cuts) = (0, cuts.iter().cycle());
            while at < stream.len() {
                let n = (*cuts.next().unwrap()).min(stream.len() - at);
                put(&mut window, &stream[at..at + n]);
                at += n;
                while let Front::Frame(header) = window.front().unwrap() {
                    let range = window.take(HEADER_LEN + header.len as usize);
                    out.push(window.bytes(range).to_vec());
                }
            }
            prop_assert_eq!(out, frames);
            prop_assert!(window.unread().is_empty());
        }

        /// Garbage is an error or a frame within the limit, never a panic.
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut window = Window::new(32);
            put(&mut window, &bytes);
            while let Ok(Front::Frame(header)) = window.front() {
                prop_assert!(header.len as usize <= MAX_PAYLOAD);
                window.take(HEADER_LEN + header.len as usize);
            }
        }
    }
}
