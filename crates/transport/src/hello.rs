//! The messages of the handshake: layouts only, no I/O and no keys. All numbers are little-endian.

use crate::{Credentials, Purpose, TransportError};
use lev_wire::NodeId;
use snow::params::HashChoice;
use snow::resolvers::{CryptoResolver, DefaultResolver};

/// First bytes of both directions.
const MAGIC: [u8; 8] = *b"LEVIATHN";
/// The channel protocol. Greeting and answer keep their layouts in all protocols, so that a mismatch can be told.
pub(crate) const PROTOCOL: u16 = 1;
/// Bytes of a greeting: magic, protocol, three version numbers, run tag.
pub(crate) const GREETING_LEN: usize = 32;
/// Bytes of an answer: magic, protocol, three version numbers, status.
pub(crate) const ANSWER_LEN: usize = 17;
/// Longest version text.
pub(crate) const VERSION_MAX: usize = 64;

/// What can be said before authentication: numbers, and a tag of the run that does not give the run id away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Greeting {
    /// The channel protocol.
    pub(crate) protocol: u16,
    /// The version's first three numbers.
    pub(crate) version: [u16; 3],
    /// See [`run_tag`].
    pub(crate) run: [u8; 16],
}

/// The acceptor's answer to a greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The channel protocol.
    pub(crate) protocol: u16,
    /// The version's first three numbers.
    pub(crate) version: [u16; 3],
    /// Whether it goes on.
    pub(crate) status: Status,
}

/// Whether the handshake goes on after the greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// It goes on.
    GoOn,
    /// Other protocol or version.
    OtherVersion,
    /// Other run.
    OtherRun,
}

/// A public name of a run: equal for equal run ids, and the run id cannot be computed from it.
pub(crate) fn run_tag(run_id: &[u8; 16]) -> [u8; 16] {
    let mut digest = [0; 64];
    if let Some(mut hash) = DefaultResolver.resolve_hash(&HashChoice::Blake2s) {
        hash.input(b"leviathan run tag");
        hash.input(run_id);
        hash.result(&mut digest);
    }
    let mut tag = [0; 16];
    tag.copy_from_slice(&digest[..16]);
    tag
}

/// The first three numbers of a version text; what is missing is 0, what is too large 65535.
pub(crate) fn version_numbers(version: &str) -> [u16; 3] {
    let mut numbers = [0u16; 3];
    for (number, part) in numbers.iter_mut().zip(version.split('.')) {
        for digit in part.bytes().take_while(u8::is_ascii_digit) {
            *number = number
                .saturating_mul(10)
                .saturating_add(u16::from(digit - b'0'));
        }
    }
    numbers
}

/// Version numbers as text.
pub(crate) fn version_text([major, minor, patch]: [u16; 3]) -> String {
    format!("{major}.{minor}.{patch}")
}

/// Magic, protocol and version numbers.
fn encode_front(out: &mut [u8], protocol: u16, version: [u16; 3]) {
    out[..8].copy_from_slice(&MAGIC);
    for (bytes, number) in out[8..16]
        .chunks_exact_mut(2)
        .zip([protocol, version[0], version[1], version[2]])
    {
        bytes.copy_from_slice(&number.to_le_bytes());
    }
}

/// Protocol and version numbers behind the magic.
fn decode_front(bytes: &[u8; 16]) -> Result<(u16, [u16; 3]), TransportError> {
    let number = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    if bytes[..8] != MAGIC {
        let mut first = [0; 8];
        first.copy_from_slice(&bytes[..8]);
        return Err(TransportError::NotLeviathan { bytes: first });
    }
    Ok((number(8), [number(10), number(12), number(14)]))
}

impl Greeting {
    /// The greeting of a node with these credentials.
    pub(crate) fn of(credentials: &Credentials) -> Self {
        Self {
            protocol: PROTOCOL,
            version: version_numbers(&credentials.version),
            run: run_tag(&credentials.run_id),
        }
    }

    /// The bytes.
    pub(crate) fn encode(&self) -> [u8; GREETING_LEN] {
        let mut out = [0; GREETING_LEN];
        encode_front(&mut out, self.protocol, self.version);
        out[16..].copy_from_slice(&self.run);
        out
    }

    /// Reads a greeting.
    pub(crate) fn decode(bytes: &[u8; GREETING_LEN]) -> Result<Self, TransportError> {
        let (mut front, mut run) = ([0; 16], [0; 16]);
        front.copy_from_slice(&bytes[..16]);
        run.copy_from_slice(&bytes[16..]);
        let (protocol, version) = decode_front(&front)?;
        Ok(Self {
            protocol,
            version,
            run,
        })
    }

    /// What an acceptor that would greet with `self` answers to `theirs`.
    pub(crate) fn judge(&self, theirs: &Self) -> Status {
        if (self.protocol, self.version) != (theirs.protocol, theirs.version) {
            Status::OtherVersion
        } else if self.run != theirs.run {
            Status::OtherRun
        } else {
            Status::GoOn
        }
    }

    /// The error for a status other than [`Status::GoOn`], seen by a side that greets with `self`.
    pub(crate) fn error(
        &self,
        status: Status,
        protocol: u16,
        version: [u16; 3],
    ) -> Option<TransportError> {
        match status {
            Status::GoOn => None,
            Status::OtherRun => Some(TransportError::Run),
            Status::OtherVersion if self.protocol != protocol => Some(TransportError::Protocol {
                ours: self.protocol,
                theirs: protocol,
            }),
            Status::OtherVersion => Some(TransportError::Version {
                ours: version_text(self.version),
                theirs: version_text(version),
            }),
        }
    }
}

impl Answer {
    /// The bytes.
    pub(crate) fn encode(&self) -> [u8; ANSWER_LEN] {
        let mut out = [0; ANSWER_LEN];
        encode_front(&mut out, self.protocol, self.version);
        out[16] = match self.status {
            Status::GoOn => 0,
            Status::OtherVersion => 1,
            Status::OtherRun => 2,
        };
        out
    }

    /// Reads an answer.
    pub(crate) fn decode(bytes: &[u8; ANSWER_LEN]) -> Result<Self, TransportError> {
        let mut front = [0; 16];
        front.copy_from_slice(&bytes[..16]);
        let (protocol, version) = decode_front(&front)?;
        let status = match bytes[16] {
            0 => Status::GoOn,
            1 => Status::OtherVersion,
            2 => Status::OtherRun,
            _ => return Err(TransportError::HandshakeContents { len: ANSWER_LEN }),
        };
        Ok(Self {
            protocol,
            version,
            status,
        })
    }
}

/// What the initiator wants; the contents of the first Noise message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Intent {
    /// The initiator.
    pub(crate) from: NodeId,
    /// Who it means to reach.
    pub(crate) to: NodeId,
    /// What for, as code and operand.
    pub(crate) purpose: (u8, u32),
    /// It needs encryption.
    pub(crate) wants_encryption: bool,
    /// It can do with encryption.
    pub(crate) allows_encryption: bool,
    /// Its version.
    pub(crate) version: String,
}

impl Intent {
    /// The bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let flags = u8::from(self.wants_encryption) | u8::from(self.allows_encryption) << 1;
        let mut out = Vec::with_capacity(10 + self.version.len());
        out.extend_from_slice(&self.from.0.to_le_bytes());
        out.extend_from_slice(&self.to.0.to_le_bytes());
        out.push(self.purpose.0);
        out.extend_from_slice(&self.purpose.1.to_le_bytes());
        out.push(flags);
        out.extend_from_slice(self.version.as_bytes());
        out
    }

    /// Reads an intent.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, TransportError> {
        let bad = || TransportError::HandshakeContents { len: bytes.len() };
        let (front, version) = bytes.split_first_chunk::<10>().ok_or_else(bad)?;
        if version.len() > VERSION_MAX || front[9] > 3 {
            return Err(bad());
        }
        Ok(Self {
            from: NodeId(u16::from_le_bytes([front[0], front[1]])),
            to: NodeId(u16::from_le_bytes([front[2], front[3]])),
            purpose: (
                front[4],
                u32::from_le_bytes([front[5], front[6], front[7], front[8]]),
            ),
            wants_encryption: front[9] & 1 != 0,
            allows_encryption: front[9] & 2 != 0,
            version: std::str::from_utf8(version).map_err(|_| bad())?.to_owned(),
        })
    }
}

/// What the acceptor says to an intent; the contents of the second Noise message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Accepted, or what is wrong.
    pub(crate) code: Code,
    /// Who the acceptor is.
    pub(crate) node: NodeId,
    /// The purpose, repeated.
    pub(crate) purpose: (u8, u32),
    /// Accepted: whether the channel is encrypted. Refused for encryption: what the acceptor wants.
    pub(crate) encrypted: bool,
    /// Its version.
    pub(crate) version: String,
}

/// The acceptor's decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// The channel is there once the initiator confirms the key.
    Accepted,
    /// Another version.
    Version,
    /// Meant for another node.
    Node,
    /// The initiator has the acceptor's number.
    SameNode,
    /// Unknown purpose.
    Purpose,
    /// No agreement on encryption.
    Encryption,
}

/// All codes, at their numbers.
pub(crate) const CODES: [Code; 6] = [
    Code::Accepted,
    Code::Version,
    Code::Node,
    Code::SameNode,
    Code::Purpose,
    Code::Encryption,
];

impl Verdict {
    /// The bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let code = CODES
            .iter()
            .zip(0u8..)
            .find(|(code, _)| **code == self.code)
            .map_or(u8::MAX, |(_, number)| number);
        let mut out = Vec::with_capacity(9 + self.version.len());
        out.push(code);
        out.extend_from_slice(&self.node.0.to_le_bytes());
        out.push(self.purpose.0);
        out.extend_from_slice(&self.purpose.1.to_le_bytes());
        out.push(u8::from(self.encrypted));
        out.extend_from_slice(self.version.as_bytes());
        out
    }

    /// Reads a verdict.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, TransportError> {
        let bad = || TransportError::HandshakeContents { len: bytes.len() };
        let (front, version) = bytes.split_first_chunk::<9>().ok_or_else(bad)?;
        if version.len() > VERSION_MAX || front[8] > 1 {
            return Err(bad());
        }
        Ok(Self {
            code: *CODES.get(usize::from(front[0])).ok_or_else(bad)?,
            node: NodeId(u16::from_le_bytes([front[1], front[2]])),
            purpose: (
                front[3],
                u32::from_le_bytes([front[4], front[5], front[6], front[7]]),
            ),
            encrypted: front[8] == 1,
            version: std::str::from_utf8(version).map_err(|_| bad())?.to_owned(),
        })
    }

    /// The purpose that the acceptor repeated.
    pub(crate) fn purpose(&self) -> Result<Purpose, TransportError> {
        Purpose::decode(self.purpose.0, self.purpose.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn version_numbers_of_odd_texts() {
        assert_eq!(version_numbers("1.20.3"), [1, 20, 3]);
        assert_eq!(version_numbers("1.2.3-rc4"), [1, 2, 3]);
        assert_eq!(version_numbers("0.99999999999.x.7"), [0, 65535, 0]);
        assert_eq!(version_numbers(""), [0, 0, 0]);
    }

    #[test]
    fn the_run_tag_separates_runs_and_hides_the_run_id() {
        assert_eq!(run_tag(&[1; 16]), run_tag(&[1; 16]));
        assert_ne!(run_tag(&[1; 16]), run_tag(&[2; 16]));
        assert_ne!(run_tag(&[1; 16]), [1; 16]);
        assert_ne!(run_tag(&[1; 16]), [0; 16]);
    }

    proptest! {
        #[test]
        fn messages_survive_the_wire(
            from: u16, to: u16, code: u8, operand: u32, wants: bool, allows: bool,
            numbers: [u16; 3], run: [u8; 16], verdict in 0usize..6, version in "[ -~]{0,64}",
        ) {
            let greeting = Greeting { protocol: from, version: numbers, run };
            prop_assert_eq!(Greeting::decode(&greeting.encode()), Ok(greeting));
            for status in [Status::GoOn, Status::OtherVersion, Status::OtherRun] {
                let answer = Answer { protocol: to, version: numbers, status };
                prop_assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
            }
            let intent = Intent {
                from: NodeId(from), to: NodeId(to), purpose: (code, operand),
                wants_encryption: wants, allows_encryption: allows, version: version.clone(),
            };
            prop_assert_eq!(Intent::decode(&intent.encode()), Ok(intent));
            let verdict = Verdict {
                code: CODES[verdict], node: NodeId(to), purpose: (code, operand), encrypted: wants, version,
            };
            prop_assert_eq!(Verdict::decode(&verdict.encode()), Ok(verdict));
        }

        #[test]
        fn garbage_is_an_error_or_a_value_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            if let Ok(intent) = Intent::decode(&bytes) {
                prop_assert_eq!(intent.encode(), bytes.clone());
            }
            if let Ok(verdict) = Verdict::decode(&bytes) {
                prop_assert_eq!(verdict.encode(), bytes.clone());
            }
            if let Some(bytes) = bytes.first_chunk() {
                prop_assert!(Greeting::decode(bytes).is_err());
            }
        }
    }
}
