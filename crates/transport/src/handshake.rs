//! The handshake: who is there, do both hold the run's secret, do both mean the same channel.
//!
//! ```text
//! initiator                                  acceptor
//!   greeting: protocol, version, run tag  ->
//!                                         <-  answer: protocol, version, status       (in the clear)
//!   Noise message 1: intent               ->                                          (needs the secret)
//!                                         <-  Noise message 2: verdict
//!   confirmation under the session key    ->                                          (proves freshness)
//! ```
//!
//! Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s with the run's secret as pre-shared key; the prologue binds the run id and
//! both clear messages. A recorded first message opens nothing: the session key also depends on the acceptor's
//! fresh ephemeral key, and the channel exists only after the confirmation under it.

use crate::hello::{
    version_numbers, Answer, Code, Greeting, Intent, Verdict, ANSWER_LEN, GREETING_LEN, PROTOCOL,
    VERSION_MAX,
};
use crate::record::Keys;
use crate::sys::{self, Deadline};
use crate::{Credentials, Purpose, TransportError};
use lev_wire::cluster::Encrypt;
use lev_wire::NodeId;
use snow::{Builder, HandshakeState};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;
use std::sync::Arc;

/// The Noise protocol by its name (Noise specification, section 8).
pub(crate) const NOISE: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
/// First part of the prologue.
pub(crate) const NAME: &[u8] = b"leviathan node channel";
/// Contents of the confirmation.
const CONFIRMATION: &[u8] = b"confirmed";
/// Shortest Noise message of the handshake: a tag alone.
const MESSAGE_MIN: usize = 16;
/// Longest: ephemeral key, longest contents, tag, and some room.
const MESSAGE_MAX: usize = 256;
/// The record number after the confirmation's, on the initiator's side.
const AFTER_CONFIRMATION: u64 = 1;

/// What a handshake agreed on.
pub(crate) struct Agreed {
    /// The other node.
    pub(crate) peer: NodeId,
    /// What the channel is for.
    pub(crate) purpose: Purpose,
    /// The session keys, if the channel is encrypted.
    pub(crate) keys: Option<Keys>,
    /// Number of the first record that this side sends.
    pub(crate) first_sent: u64,
    /// Number of the first record that this side receives.
    pub(crate) first_received: u64,
}

/// One side's stand on encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stand {
    wants: bool,
    allows: bool,
}

impl Stand {
    /// The stand of a node with this policy, for a connection between these addresses.
    fn of(policy: Encrypt, addresses: [IpAddr; 2]) -> Self {
        let leaves = addresses
            .iter()
            .any(|address| !address.to_canonical().is_loopback());
        Self {
            wants: policy == Encrypt::On || (policy == Encrypt::Auto && leaves),
            allows: policy != Encrypt::Off,
        }
    }

    /// What both stands make of the channel. One side that wants encryption is enough (behind a port forwarder, one
    /// side sees the loopback interface and the other does not); one side that forbids it then ends the handshake.
    fn agree(self, theirs: Self) -> Result<bool, TransportError> {
        let wanted = self.wants || theirs.wants;
        if wanted && !(self.allows && theirs.allows) {
            return Err(TransportError::Encryption {
                ours: self.wants,
                theirs: theirs.wants,
            });
        }
        Ok(wanted)
    }
}

/// One connection that has not proved anything yet.
pub(crate) struct Stranger<'a> {
    /// The connected socket.
    pub(crate) fd: RawFd,
    /// Its two addresses.
    pub(crate) addresses: [SocketAddr; 2],
    /// When the handshake must be over.
    pub(crate) deadline: &'a Deadline,
}

impl Stranger<'_> {
    fn stand(&self, policy: Encrypt) -> Stand {
        Stand::of(policy, self.addresses.map(|address| address.ip()))
    }

    /// Receives exactly `into`; `closed` is the error if the peer closes instead.
    fn read(&self, into: &mut [u8], closed: TransportError) -> Result<(), TransportError> {
        let need = into.len();
        match sys::receive_exact(self.fd, into, self.deadline) {
            Ok(have) if have == need => Ok(()),
            // A peer that closes with unread bytes resets the connection; it means the same.
            Ok(0)
            | Err(TransportError::Io {
                errno: libc::ECONNRESET,
                ..
            }) => Err(closed),
            Ok(have) => Err(TransportError::Truncated { have, need }),
            Err(error) => Err(error),
        }
    }

    /// Receives one Noise message.
    fn read_message(&self) -> Result<Vec<u8>, TransportError> {
        let mut length = [0; 2];
        self.read(&mut length, TransportError::Rejected)?;
        let len = usize::from(u16::from_le_bytes(length));
        if !(MESSAGE_MIN..=MESSAGE_MAX).contains(&len) {
            return Err(TransportError::HandshakeLength {
                len,
                min: MESSAGE_MIN,
                max: MESSAGE_MAX,
            });
        }
        let mut message = vec![0; len];
        self.read(&mut message, TransportError::Rejected)?;
        Ok(message)
    }

    /// Sends one Noise message.
    fn send_message(&self, message: &[u8]) -> Result<(), TransportError> {
        let len = u16::try_from(message.len()).map_err(|_| noise_error())?;
        sys::send_all(
            self.fd,
            &[&len.to_le_bytes(), message].concat(),
            self.deadline,
        )
    }
}

/// A Noise operation that cannot fail with the lengths used here failed.
fn noise_error() -> TransportError {
    TransportError::Io {
        what: "the Noise handshake",
        errno: libc::EPROTO,
    }
}

/// A Noise handshake bound to the run and to what was said in the clear.
fn noise(
    credentials: &Credentials,
    initiator: bool,
    greeting: &[u8; GREETING_LEN],
    answer: &[u8; ANSWER_LEN],
) -> Result<HandshakeState, TransportError> {
    let prologue = [NAME, &credentials.run_id, greeting, answer].concat();
    let parameters = NOISE.parse().map_err(|_| noise_error())?;
    let builder = Builder::new(parameters)
        .psk(0, &credentials.secret)
        .and_then(|builder| builder.prologue(&prologue))
        .map_err(|_| noise_error())?;
    let state = if initiator {
        builder.build_initiator()
    } else {
        builder.build_responder()
    };
    state.map_err(|_| noise_error())
}

/// Encrypts `contents` as the next handshake message.
fn write(state: &mut HandshakeState, contents: &[u8]) -> Result<Vec<u8>, TransportError> {
    let mut message = vec![0; MESSAGE_MAX];
    let len = state
        .write_message(contents, &mut message)
        .map_err(|_| noise_error())?;
    message.truncate(len);
    Ok(message)
}

/// Decrypts a handshake message; only a peer with the secret (and the same prologue) could have made it.
fn read(state: &mut HandshakeState, message: &[u8]) -> Result<Vec<u8>, TransportError> {
    let mut contents = vec![0; MESSAGE_MAX];
    let len = state
        .read_message(message, &mut contents)
        .map_err(|_| TransportError::Secret)?;
    contents.truncate(len);
    Ok(contents)
}

/// The session keys of a finished handshake.
fn keys(state: HandshakeState) -> Result<Keys, TransportError> {
    state
        .into_stateless_transport_mode()
        .map(Arc::new)
        .map_err(|_| noise_error())
}

/// Refuses own credentials that the handshake cannot carry.
fn check(credentials: &Credentials) -> Result<(), TransportError> {
    let len = credentials.version.len();
    if len > VERSION_MAX {
        let what = format!("the version has {len} bytes; the limit is {VERSION_MAX}");
        return Err(TransportError::Credentials { what });
    }
    Ok(())
}

/// The initiator's side.
pub(crate) fn initiate(
    stranger: &Stranger<'_>,
    to: NodeId,
    purpose: Purpose,
    credentials: &Credentials,
) -> Result<Agreed, TransportError> {
    check(credentials)?;
    let greeting = Greeting::of(credentials);
    let greeted = greeting.encode();
    sys::send_all(stranger.fd, &greeted, stranger.deadline)?;
    let mut answered = [0; ANSWER_LEN];
    stranger.read(&mut answered, TransportError::Closed)?;
    let answer = Answer::decode(&answered)?;
    if let Some(error) = greeting.error(answer.status, answer.protocol, answer.version) {
        return Err(error);
    }

    let mut state = noise(credentials, true, &greeted, &answered)?;
    let stand = stranger.stand(credentials.encrypt);
    let intent = Intent {
        from: credentials.me,
        to,
        purpose: purpose.encode(),
        wants_encryption: stand.wants,
        allows_encryption: stand.allows,
        version: credentials.version.clone(),
    };
    stranger.send_message(&write(&mut state, &intent.encode())?)?;
    let verdict = Verdict::decode(&read(&mut state, &stranger.read_message()?)?)?;
    examine(&verdict, &intent, purpose, stand)?;

    let keys = keys(state)?;
    let mut confirmation = [0; MESSAGE_MAX];
    let len = keys
        .write_message(0, CONFIRMATION, &mut confirmation)
        .map_err(|_| noise_error())?;
    stranger.send_message(&confirmation[..len])?;
    Ok(Agreed {
        peer: to,
        purpose,
        keys: verdict.encrypted.then_some(keys),
        first_sent: AFTER_CONFIRMATION,
        first_received: 0,
    })
}

/// The initiator's judgement of the verdict, acceptance included.
fn examine(
    verdict: &Verdict,
    intent: &Intent,
    purpose: Purpose,
    stand: Stand,
) -> Result<(), TransportError> {
    match verdict.code {
        Code::Accepted if verdict.node != intent.to => Err(TransportError::Node {
            expected: intent.to,
            found: verdict.node,
        }),
        Code::Accepted if verdict.purpose()? != purpose => Err(TransportError::PurposeMismatch {
            expected: purpose,
            found: verdict.purpose()?,
        }),
        Code::Accepted => {
            let theirs = Stand {
                wants: verdict.encrypted,
                allows: verdict.encrypted || !stand.wants,
            };
            stand.agree(theirs).map(|_| ())
        }
        Code::Version => Err(TransportError::Version {
            ours: intent.version.clone(),
            theirs: verdict.version.clone(),
        }),
        Code::Node => Err(TransportError::Node {
            expected: intent.to,
            found: verdict.node,
        }),
        Code::SameNode => Err(TransportError::SameNode { node: verdict.node }),
        Code::Purpose => Err(TransportError::PurposeUnknown {
            code: intent.purpose.0,
            operand: intent.purpose.1,
        }),
        Code::Encryption => Err(TransportError::Encryption {
            ours: intent.wants_encryption,
            theirs: verdict.encrypted,
        }),
    }
}

/// The acceptor's side.
pub(crate) fn accept(
    stranger: &Stranger<'_>,
    credentials: &Credentials,
) -> Result<Agreed, TransportError> {
    check(credentials)?;
    let mut greeted = [0; GREETING_LEN];
    stranger.read(&mut greeted, TransportError::Rejected)?;
    let theirs = Greeting::decode(&greeted)?;
    let ours = Greeting::of(credentials);
    let status = ours.judge(&theirs);
    let answer = Answer {
        protocol: PROTOCOL,
        version: version_numbers(&credentials.version),
        status,
    };
    let answered = answer.encode();
    sys::send_all(stranger.fd, &answered, stranger.deadline)?;
    if let Some(error) = ours.error(status, theirs.protocol, theirs.version) {
        return Err(error);
    }

    let mut state = noise(credentials, false, &greeted, &answered)?;
    let intent = Intent::decode(&read(&mut state, &stranger.read_message()?)?)?;
    let stand = stranger.stand(credentials.encrypt);
    let decision = decide(&intent, stand, credentials);
    let verdict = Verdict {
        code: decision.as_ref().map_or_else(code, |_| Code::Accepted),
        node: credentials.me,
        purpose: intent.purpose,
        encrypted: decision
            .as_ref()
            .map_or(stand.wants, |(_, encrypted)| *encrypted),
        version: credentials.version.clone(),
    };
    stranger.send_message(&write(&mut state, &verdict.encode())?)?;
    let (purpose, encrypted) = decision?;

    let keys = keys(state)?;
    let mut confirmation = [0; MESSAGE_MAX];
    let opened = keys.read_message(0, &stranger.read_message()?, &mut confirmation);
    match opened {
        Ok(len) if &confirmation[..len] == CONFIRMATION => Ok(Agreed {
            peer: intent.from,
            purpose,
            keys: encrypted.then_some(keys),
            first_sent: 0,
            first_received: AFTER_CONFIRMATION,
        }),
        _ => Err(TransportError::NotConfirmed),
    }
}

/// The acceptor's decision: purpose and encryption, or why not.
fn decide(
    intent: &Intent,
    stand: Stand,
    credentials: &Credentials,
) -> Result<(Purpose, bool), TransportError> {
    if intent.version != credentials.version {
        let (ours, theirs) = (credentials.version.clone(), intent.version.clone());
        return Err(TransportError::Version { ours, theirs });
    }
    if intent.to != credentials.me {
        return Err(TransportError::Node {
            expected: intent.to,
            found: credentials.me,
        });
    }
    if intent.from == credentials.me {
        return Err(TransportError::SameNode {
            node: credentials.me,
        });
    }
    let purpose = Purpose::decode(intent.purpose.0, intent.purpose.1)?;
    let theirs = Stand {
        wants: intent.wants_encryption,
        allows: intent.allows_encryption,
    };
    Ok((purpose, stand.agree(theirs)?))
}

/// How a refusal is told to the initiator.
fn code(error: &TransportError) -> Code {
    match error {
        TransportError::Version { .. } => Code::Version,
        TransportError::Node { .. } => Code::Node,
        TransportError::SameNode { .. } => Code::SameNode,
        TransportError::Encryption { .. } => Code::Encryption,
        _ => Code::Purpose,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stand(policy: Encrypt, a: &str, b: &str) -> Stand {
        Stand::of(policy, [a.parse().unwrap(), b.parse().unwrap()])
    }

    #[test]
    fn auto_encrypts_what_leaves_the_loopback_interface() {
        assert!(!stand(Encrypt::Auto, "127.0.0.1", "127.9.9.9").wants);
        assert!(!stand(Encrypt::Auto, "::1", "::ffff:127.0.0.1").wants);
        assert!(stand(Encrypt::Auto, "127.0.0.1", "10.0.0.1").wants);
        assert!(stand(Encrypt::Auto, "fe80::1", "::1").wants);
        assert!(stand(Encrypt::On, "::1", "::1").wants);
        assert!(!stand(Encrypt::Off, "10.0.0.1", "10.0.0.2").wants);
    }

    #[test]
    fn encryption_is_agreed_or_refused() {
        let (on, off) = (
            stand(Encrypt::On, "::1", "::1"),
            stand(Encrypt::Off, "::1", "::1"),
        );
        let (near, far) = (
            stand(Encrypt::Auto, "::1", "::1"),
            stand(Encrypt::Auto, "::1", "fe80::1"),
        );
        assert_eq!(off.agree(off), Ok(false));
        assert_eq!(near.agree(off), Ok(false));
        assert_eq!(near.agree(near), Ok(false));
        assert_eq!(near.agree(far), Ok(true));
        assert_eq!(near.agree(on), Ok(true));
        assert_eq!(
            off.agree(on),
            Err(TransportError::Encryption {
                ours: false,
                theirs: true
            })
        );
        assert_eq!(
            far.agree(off),
            Err(TransportError::Encryption {
                ours: true,
                theirs: false
            })
        );
    }
}
