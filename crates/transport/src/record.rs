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
