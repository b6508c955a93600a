//! Bytes that the socket did not take yet.

use std::collections::VecDeque;
use std::io::IoSlice;

/// Bytes of one chunk: large enough for few chunks, small enough that nothing is ever moved or grown under the lock.
const CHUNK_LEN: usize = 256 << 10;
/// Chunks given to one send, which bounds how long the flusher holds the lock.
pub(crate) const CHUNKS_AT_ONCE: usize = 4;

/// A first-in-first-out queue of bytes in chunks.
#[derive(Default)]
pub(crate) struct Outbox {
    chunks: VecDeque<Vec<u8>>,
    /// Bytes of the first chunk that are sent.
    sent: usize,
    /// Bytes waiting.
    len: usize,
}

impl Outbox {
    /// Bytes waiting.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Appends bytes.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len();
        while !bytes.is_empty() {
            let room = self
                .chunks
                .back()
                .map_or(0, |chunk| CHUNK_LEN - chunk.len());
            if room == 0 {
                self.chunks.push_back(Vec::with_capacity(CHUNK_LEN));
                continue;
            }
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            if let Some(chunk) = self.chunks.back_mut() {
                chunk.extend_from_slice(now);
            }
            bytes = later;
        }
    }

    /// The first bytes waiting.
    pub(crate) fn front(&self) -> Vec<IoSlice<'_>> {
        let chunks = self.chunks.iter().take(CHUNKS_AT_ONCE).enumerate();
        chunks
            .map(|(i, chunk)| IoSlice::new(if i == 0 { &chunk[self.sent..] } else { chunk }))
            .collect()
    }

    /// The first `count` bytes are sent.
    pub(crate) fn advance(&mut self, count: usize) {
        assert!(count <= self.len, "advance {count} of {} bytes", self.len);
        self.len -= count;
        self.sent += count;
        while let Some(chunk) = self.chunks.front() {
            if self.sent < chunk.len() {
                break;
            }
            self.sent -= chunk.len();
            self.chunks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn bytes_come_out_as_they_went_in(
            sizes in proptest::collection::vec((0usize..400_000, 0usize..500_000), 1..12),
        ) {
            let (mut outbox, mut expected, mut out) = (Outbox::default(), Vec::new(), Vec::new());
            let mut byte = 0u8;
            let mut drain = |outbox: &mut Outbox, count: usize| {
                let all = outbox.front().iter().map(|slice| &slice[..]).collect::<Vec<_>>().concat();
                let count = count.min(all.len());
                out.extend_from_slice(&all[..count]);
                outbox.advance(count);
            };
            for (push, pop) in sizes {
                let bytes: Vec<u8> = (0..push).map(|_| { byte = byte.wrapping_mul(5).wrapping_add(3); byte }).collect();
                outbox.push(&bytes);
                expected.extend_from_slice(&bytes);
                drain(&mut outbox, pop);
            }
            while outbox.len() > 0 {
                drain(&mut outbox, usize::MAX);
            }
            prop_assert!(out == expected);
            prop_assert!(outbox.chunks.is_empty());
        }
    }
}
