//! Encrypted records: two bytes of length (little-endian), then one Noise transport message of that length. A frame
//! is one record, or several if it is longer than one can hold; a record never holds parts of two frames.
//!
//! The nonce is the record's number on its channel and direction, counted on both sides and never sent: a record
//! that is dropped, repeated, moved or changed fails to open.

use crate::window::Window;
use crate::TransportError;
use lev_wire::frame::HEADER_LEN;
use snow::StatelessTransportState;
use std::sync::Arc;

/// Bytes of a record's length field.
pub(crate) const LENGTH_LEN: usize = 2;
/// Bytes of the authentication tag (Noise specification, section 3).
pub(crate) const TAG_LEN: usize = 16;
/// Bytes of the longest Noise message (Noise specification, section 3).
const MESSAGE_MAX: usize = 65535;
/// Plain bytes in the longest record.
const PLAIN_MAX: usize = MESSAGE_MAX - TAG_LEN;

/// The session keys of one channel; both directions, shared by sender and receiver.
pub(crate) type Keys = Arc<StatelessTransportState>;

/// Bytes on the wire of a frame of `plain` bytes.
pub(crate) fn sealed_len(plain: usize) -> usize {
    plain + plain.div_ceil(PLAIN_MAX) * (LENGTH_LEN + TAG_LEN)
}

/// Makes records.
pub(crate) struct Sealer {
    keys: Keys,
    next: u64,
    plain: Vec<u8>,
    sealed: Vec<u8>,
}

impl Sealer {
    /// A sealer whose first record has number `next`.
    pub(crate) fn new(keys: Keys, next: u64) -> Self {
        Self {
            keys,
            next,
            plain: Vec::new(),
            sealed: Vec::new(),
        }
    }

    /// The records of one frame. What is returned must be sent: its numbers are used up.
    pub(crate) fn seal(
        &mut self,
        header: &[u8; HEADER_LEN],
        parts: &[&[u8]],
    ) -> Result<&[u8], TransportError> {
        self.plain.clear();
        self.plain.extend_from_slice(header);
        for part in parts {
            self.plain.extend_from_slice(part);
        }
        // Only grows: no page of zeroes to write for every frame.
        let sealed_len = sealed_len(self.plain.len());
        if self.sealed.len() < sealed_len {
            self.sealed.resize(sealed_len, 0);
        }
        let mut at = 0;
        for chunk in self.plain.chunks(PLAIN_MAX) {
            let message = chunk.len() + TAG_LEN;
            let length = u16::try_from(message).map_err(|_| encrypt_error())?;
            self.sealed[at..at + LENGTH_LEN].copy_from_slice(&length.to_le_bytes());
            at += LENGTH_LEN;
            let out = &mut self.sealed[at..at + message];
            self.keys
                .write_message(self.next, chunk, out)
                .map_err(|_| encrypt_error())?;
            self.next += 1;
            at += message;
        }
        Ok(&self.sealed[..at])
    }
}

/// Encryption itself cannot fail but for lengths and numbers out of range, which the code above excludes.
fn encrypt_error() -> TransportError {
    TransportError::Io {
        what: "encrypting",
        errno: libc::EINVAL,
    }
}

/// Opens records.
pub(crate) struct Opener {
    keys: Keys,
    next: u64,
}

/// What stands at the front of the received bytes.
pub(crate) enum Record {
    /// A record was opened into the plain window.
    Opened,
    /// Part of one that has at least `need` bytes.
    Partial {
        /// Bytes from the front.
        need: usize,
    },
}

impl Opener {
    /// An opener whose first record has number `next`.
    pub(crate) fn new(keys: Keys, next: u64) -> Self {
        Self { keys, next }
    }

    /// Opens the record at the front of `raw`, if it is complete, behind what is in `plain`.
    pub(crate) fn open(
        &mut self,
        raw: &mut Window,
        plain: &mut Window,
    ) -> Result<Record, TransportError> {
        let unread = raw.unread();
        let Some(length) = unread.first_chunk::<LENGTH_LEN>() else {
            return Ok(Record::Partial { need: LENGTH_LEN });
        };
        let len = usize::from(u16::from_le_bytes(*length));
        // At least one byte of contents: an empty record would be a way to keep the receiver busy for nothing.
        if len <= TAG_LEN {
            return Err(TransportError::RecordLength {
                len,
                min: TAG_LEN + 1,
            });
        }
        let need = LENGTH_LEN + len;
        if unread.len() < need {
            return Ok(Record::Partial { need });
        }
        let range = raw.take(need);
        let message = &raw.bytes(range)[LENGTH_LEN..];
        let out = plain.space(len - TAG_LEN);
        let opened = self.keys.read_message(self.next, message, out);
        let opened = opened.map_err(|_| TransportError::Tampered { record: self.next })?;
        plain.filled(opened);
        self.next += 1;
        Ok(Record::Opened)
    }
}

/// Whether a complete record stands at the front (or a malformed one, which is an error to be seen).
pub(crate) fn complete(raw: &Window) -> bool {
    let unread = raw.unread();
    unread.first_chunk::<LENGTH_LEN>().is_some_and(|length| {
        let len = usize::from(u16::from_le_bytes(*length));
        len <= TAG_LEN || unread.len() >= LENGTH_LEN + len
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receiver::Receiver;
    use lev_wire::frame::{Header, MAX_PAYLOAD};
    use proptest::prelude::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    /// Session keys of two ends.
    fn keys() -> (Keys, Keys) {
        let builder =
            || snow::Builder::new("Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s".parse().unwrap());
        let mut ours = builder()
            .psk(0, &[1; 32])
            .unwrap()
            .build_initiator()
            .unwrap();
        let mut theirs = builder()
            .psk(0, &[1; 32])
            .unwrap()
            .build_responder()
            .unwrap();
        let (mut message, mut contents) = ([0; 100], [0; 100]);
        let len = ours.write_message(&[], &mut message).unwrap();
        theirs.read_message(&message[..len], &mut contents).unwrap();
        let len = theirs.write_message(&[], &mut message).unwrap();
        ours.read_message(&message[..len], &mut contents).unwrap();
        let end =
            |state: snow::HandshakeState| Arc::new(state.into_stateless_transport_mode().unwrap());
        (end(ours), end(theirs))
    }

    /// The wire bytes of frames with these payloads, each on its own, and a receiver's opener for them.
    fn sealed(payloads: &[&[u8]]) -> (Vec<Vec<u8>>, Opener) {
        let (ours, theirs) = keys();
        let mut sealer = Sealer::new(ours, 0);
        let seal = |payload: &&[u8]| {
            let header = Header {
                kind: 1,
                tag: 2,
                len: payload.len() as u32,
                arg: 3,
            }
            .encode();
            let bytes = sealer.seal(&header, &[payload]).unwrap().to_vec();
            assert_eq!(bytes.len(), sealed_len(HEADER_LEN + payload.len()));
            bytes
        };
        (payloads.iter().map(seal).collect(), Opener::new(theirs, 0))
    }

    /// What a receiver makes of these bytes: payloads, then the error that ends the stream.
    fn received(opener: Opener, bytes: &[u8]) -> (Vec<Vec<u8>>, TransportError) {
        let (mut feed, socket) = UnixStream::pair().unwrap();
        let mut receiver = Receiver::new(Arc::new(socket.into()), Some(opener));
        let bytes = bytes.to_vec();
        let feeder = std::thread::spawn(move || {
            // The receiver may close before it has read everything.
            let _ = feed.write_all(&bytes);
        });
        let mut frames = Vec::new();
        let error = loop {
            match receiver.recv() {
                Ok((_, payload)) => frames.push(payload.to_vec()),
                Err(error) => break error,
            }
        };
        drop(receiver);
        feeder.join().unwrap();
        (frames, error)
    }

    #[test]
    fn frames_come_back_whole() {
        let long = vec![5; MAX_PAYLOAD];
        let (bytes, opener) = sealed(&[b"one", b"", &long]);
        let (frames, error) = received(opener, &bytes.concat());
        assert_eq!(frames.len(), 3);
        assert!(frames[0] == b"one" && frames[1].is_empty() && frames[2] == long);
        assert_eq!(error, TransportError::Closed);
    }

    #[test]
    fn dropped_repeated_and_moved_records_are_noticed() {
        for (order, record) in [
            ([0, 2, 2], 1),
            ([0, 0, 1], 1),
            ([1, 0, 2], 0),
            ([0, 1, 1], 2),
        ] {
            let (bytes, opener) = sealed(&[b"a", b"b", b"c"]);
            let stream: Vec<u8> = order
                .iter()
                .flat_map(|&i: &usize| bytes[i].clone())
                .collect();
            let (frames, error) = received(opener, &stream);
            assert_eq!(
                (frames.len() as u64, error),
                (record, TransportError::Tampered { record })
            );
        }
    }

    #[test]
    fn a_record_of_the_own_direction_sent_back_is_noticed() {
        let (ours, _) = keys();
        let header = Header {
            kind: 1,
            tag: 0,
            len: 0,
            arg: 0,
        }
        .encode();
        let bytes = Sealer::new(Arc::clone(&ours), 0)
            .seal(&header, &[])
            .unwrap()
            .to_vec();
        let (frames, error) = received(Opener::new(ours, 0), &bytes);
        assert_eq!(
            (frames.len(), error),
            (0, TransportError::Tampered { record: 0 })
        );
    }

    #[test]
    fn a_record_without_contents_is_refused() {
        for len in [0u8, 1, 16] {
            let (_, opener) = sealed(&[]);
            let stream = [&[len, 0][..], &[0; 16]].concat();
            let error = TransportError::RecordLength {
                len: len.into(),
                min: 17,
            };
            assert_eq!(received(opener, &stream), (vec![], error));
        }
    }

    #[test]
    fn a_record_that_is_cut_off_says_how_much_is_missing() {
        let (bytes, opener) = sealed(&[b"abc"]);
        let error = TransportError::Truncated {
            have: 10,
            need: 2 + 16 + 3 + 16,
        };
        assert_eq!(received(opener, &bytes[0][..10]), (vec![], error));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// No bit of a record can be changed unnoticed; frames before it still arrive.
        #[test]
        fn any_changed_bit_is_noticed(at in 0usize..37 * 3, bit in 0u8..8) {
            let (bytes, opener) = sealed(&[b"abc", b"def", b"ghi"]);
            let mut stream = bytes.concat();
            stream[at] ^= 1 << bit;
            let (frames, error) = received(opener, &stream);
            prop_assert_eq!(frames.len(), at / 37);
            prop_assert!(error != TransportError::Closed);
        }
    }
}
