//! Frames on the control channel: a fixed header, then the payload.
//!
//! ```text
//! 0  u32  payload length, little-endian, at most MAX_PAYLOAD
//! 4  u32  stream: the call, and what it started
//! 8  u8   kind
//! 9  3 bytes, zero
//! ```
//!
//! Both directions use credit: at most [`WINDOW`] bytes of a process's output, or of its
//! input, may be on their way and not yet taken. So a reader that is slow for one process
//! never holds up the rest.

use std::fmt;

/// Bytes before each payload.
pub const HEADER: usize = 12;
/// Longest payload in bytes.
pub const MAX_PAYLOAD: usize = 1 << 20;
/// Bytes of one process's output (both streams together) or input that may be unacknowledged.
pub const WINDOW: usize = 256 << 10;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// To the agent: a [`crate::message::Call`] as JSON.
    Call = 1,
    /// To the agent: bytes for a program's standard input, or of a file that is being put.
    Input = 2,
    /// To the agent: standard input ends.
    InputEnd = 3,
    /// To the agent: the host took this many (u32) bytes of output.
    OutputCredit = 4,
    /// From the agent: the answer to a call, JSON.
    Reply = 16,
    /// From the agent: bytes of standard output, or of a file that is being read.
    Output = 17,
    /// From the agent: bytes of standard error.
    Error = 18,
    /// From the agent: the program ended, JSON; all that it wrote was sent before.
    Exit = 19,
    /// From the agent: the program took this many (u32) bytes of input.
    InputCredit = 20,
}

impl Kind {
    fn from_wire(value: u8) -> Option<Kind> {
        Some(match value {
            1 => Kind::Call,
            2 => Kind::Input,
            3 => Kind::InputEnd,
            4 => Kind::OutputCredit,
            16 => Kind::Reply,
            17 => Kind::Output,
            18 => Kind::Error,
            19 => Kind::Exit,
            20 => Kind::InputCredit,
            _ => return None,
        })
    }
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it carries.
    pub kind: Kind,
    /// The call that it belongs to.
    pub stream: u32,
    /// The bytes.
    pub payload: Vec<u8>,
}

/// Why a byte sequence is not a frame. There is no way to find the next one: the channel ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// A payload longer than [`MAX_PAYLOAD`].
    Length(u32),
    /// A kind that does not exist.
    Kind(u8),
    /// Reserved header bytes that are not zero.
    Reserved([u8; 3]),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::Length(n) => write!(f, "a frame of {n} bytes; at most {MAX_PAYLOAD}"),
            FrameError::Kind(k) => write!(f, "a frame of unknown kind {k:#x}"),
            FrameError::Reserved(b) => write!(f, "reserved header bytes are {b:02x?}, not zero"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Appends a frame to a buffer. The payload must not be longer than [`MAX_PAYLOAD`].
pub fn encode(out: &mut Vec<u8>, kind: Kind, stream: u32, payload: &[u8]) {
    assert!(payload.len() <= MAX_PAYLOAD);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&stream.to_le_bytes());
    out.extend_from_slice(&[kind as u8, 0, 0, 0]);
    out.extend_from_slice(payload);
}

/// Cuts a byte stream into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
}

impl Decoder {
    /// Adds bytes as they came.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 && self.start >= self.buffer.len() / 2 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if there is one.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((header, rest)) = self.buffer[self.start..].split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let [l0, l1, l2, l3, s0, s1, s2, s3, kind, reserved @ ..] = *header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if length as usize > MAX_PAYLOAD {
            return Err(FrameError::Length(length));
        }
        let kind = Kind::from_wire(kind).ok_or(FrameError::Kind(kind))?;
        if reserved != [0; 3] {
            return Err(FrameError::Reserved(reserved));
        }
        let Some(payload) = rest.get(..length as usize) else {
            return Ok(None);
        };
        let payload = payload.to_vec();
        self.start += HEADER + payload.len();
        let stream = u32::from_le_bytes([s0, s1, s2, s3]);
        Ok(Some(Frame {
            kind,
            stream,
            payload,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_cut() {
        let mut bytes = Vec::new();
        encode(&mut bytes, Kind::Call, 1, b"{}");
        encode(&mut bytes, Kind::Output, 0xffff_fffe, &[7; 1000]);
        encode(&mut bytes, Kind::InputEnd, 3, b"");
        for step in [1, 5, 11, 12, 13, 400, bytes.len()] {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for piece in bytes.chunks(step) {
                decoder.push(piece);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    seen.push((frame.kind, frame.stream, frame.payload.len()));
                }
            }
            assert_eq!(
                seen,
                [
                    (Kind::Call, 1, 2),
                    (Kind::Output, 0xffff_fffe, 1000),
                    (Kind::InputEnd, 3, 0)
                ]
            );
        }
    }

    #[test]
    fn refuses_what_is_no_frame() {
        let refused = |change: fn(&mut Vec<u8>)| {
            let mut bytes = Vec::new();
            encode(&mut bytes, Kind::Call, 1, b"{}");
            change(&mut bytes);
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            decoder.next_frame().unwrap_err()
        };
        assert_eq!(
            refused(|b| b[..4].copy_from_slice(&(MAX_PAYLOAD as u32 + 1).to_le_bytes())),
            FrameError::Length(MAX_PAYLOAD as u32 + 1)
        );
        assert_eq!(refused(|b| b[8] = 99), FrameError::Kind(99));
        assert_eq!(refused(|b| b[11] = 1), FrameError::Reserved([0, 0, 1]));
    }
}
