//! What fuzzing needs to see of channels: their layouts, and both sides of a handshake against a peer that may say
//! anything. Not part of the crate's interface.

use crate::handshake::{self, Stranger};
use crate::hello::{Answer, Greeting, Intent, Status, Verdict, CODES, PROTOCOL};
use crate::receiver::Receiver;
use crate::record::{Keys, Opener, Sealer};
use crate::sys::Deadline;
use crate::{Credentials, Encrypt, Purpose, TransportError};
use lev_wire::frame::{Header, HEADER_LEN};
use lev_wire::NodeId;
use snow::{Builder, HandshakeState};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

/// Input beyond this would not fit into a socket's buffer, and nobody would read it.
const INPUT_MAX: usize = 64 << 10;

fn credentials(me: u16) -> Credentials {
    Credentials {
        run_id: [0x11; 16],
        secret: [0x5A; 32],
        me: NodeId(me),
        version: "1.2.3".into(),
        encrypt: Encrypt::On,
    }
}

/// Reads the messages of a handshake: what is accepted is what would have been sent, byte for byte.
///
/// # Panics
/// If it is not.
pub fn hello(bytes: &[u8]) {
    if let Ok(intent) = Intent::decode(bytes) {
        assert_eq!(intent.encode(), bytes);
        if let Ok(purpose) = Purpose::decode(intent.purpose.0, intent.purpose.1) {
            assert_eq!(purpose.encode(), intent.purpose);
        }
    }
    if let Ok(verdict) = Verdict::decode(bytes) {
        assert_eq!(verdict.encode(), bytes);
    }
    if let Some(greeting) = bytes.try_into().ok().and_then(|b| Greeting::decode(b).ok()) {
        assert_eq!(greeting.encode(), bytes);
    }
    if let Some(answer) = bytes.try_into().ok().and_then(|b| Answer::decode(b).ok()) {
        assert_eq!(answer.encode(), bytes);
    }
}

/// Messages of a handshake, by name.
#[must_use]
pub fn hellos() -> Vec<(String, Vec<u8>)> {
    let answer = |status| Answer {
        protocol: PROTOCOL,
        version: [1, 2, 3],
        status,
    };
    let mut all = vec![("greeting".into(), greeting().encode().to_vec())];
    for status in [Status::GoOn, Status::OtherVersion, Status::OtherRun] {
        all.push((
            format!("answer-{status:?}"),
            answer(status).encode().to_vec(),
        ));
    }
    for purpose in [
        Purpose::Control,
        Purpose::Vcpu(5),
        Purpose::Interrupt,
        Purpose::Page,
    ] {
        all.push((
            format!("intent-{}", purpose.encode().0),
            intent(purpose).encode(),
        ));
    }
    for code in CODES {
        let verdict = Verdict {
            code,
            node: NodeId(0),
            purpose: Purpose::Page.encode(),
            encrypted: true,
            version: "1.2.3".into(),
        };
        all.push((format!("verdict-{code:?}"), verdict.encode()));
    }
    all
}

fn greeting() -> Greeting {
    Greeting::of(&credentials(1))
}

fn intent(purpose: Purpose) -> Intent {
    Intent {
        from: NodeId(1),
        to: NodeId(0),
        purpose: purpose.encode(),
        wants_encryption: true,
        allows_encryption: true,
        version: "1.2.3".into(),
    }
}

/// Receives a stream until it ends; the frames, one after the other, must be what the stream began with.
///
/// # Panics
/// If they are not.
pub fn plain_stream(bytes: &[u8]) {
    let frames = receive(bytes, None);
    assert!(bytes.starts_with(&frames));
}

/// The same for an encrypted channel; every frame that arrives is one of those that were sealed.
///
/// # Panics
/// If one is not.
pub fn sealed_stream(bytes: &[u8]) {
    let (_, theirs) = keys();
    let frames = receive(bytes, Some(Opener::new(theirs, 0)));
    assert!(sealed_frames().concat().starts_with(&frames));
}

fn receive(bytes: &[u8], opener: Option<Opener>) -> Vec<u8> {
    let Ok((mut feed, socket)) = UnixStream::pair() else {
        return Vec::new();
    };
    let _ = feed.write_all(&bytes[..bytes.len().min(INPUT_MAX)]);
    drop(feed);
    let mut receiver = Receiver::new(Arc::new(socket.into()), opener);
    let mut frames = Vec::new();
    let error = loop {
        match receiver.recv() {
            Ok((header, payload)) => {
                frames.extend_from_slice(&header.encode());
                frames.extend_from_slice(payload);
            }
            Err(error) => break error,
        }
    };
    assert!(!error.to_string().is_empty());
    assert!(receiver.recv().is_err_and(|again| again == error));
    frames
}

/// A stream of frames, by name.
#[must_use]
pub fn plain_streams() -> Vec<(String, Vec<u8>)> {
    let frames = sealed_frames();
    vec![
        ("one".into(), frames[0].clone()),
        ("three".into(), frames.concat()),
    ]
}

/// The same, encrypted.
#[must_use]
pub fn sealed_streams() -> Vec<(String, Vec<u8>)> {
    let mut sealer = Sealer::new(keys().0, 0);
    let mut all = Vec::new();
    for frame in sealed_frames() {
        let Some((header, payload)) = frame.split_first_chunk::<HEADER_LEN>() else {
            continue;
        };
        if let Ok(record) = sealer.seal(header, &[payload]) {
            all.push(record.to_vec());
        }
    }
    vec![
        ("one".into(), all[0].clone()),
        ("three".into(), all.concat()),
        ("out-of-order".into(), [&all[1][..], &all[0]].concat()),
    ]
}

fn sealed_frames() -> Vec<Vec<u8>> {
    [(1u16, 0usize), (2, 3), (3, 4096)]
        .map(|(kind, len)| {
            let header = Header {
                kind,
                tag: !kind,
                len: len as u32,
                arg: 7,
            };
            [&header.encode()[..], &vec![kind as u8; len]].concat()
        })
        .to_vec()
}

/// A side of a Noise handshake whose keys are always the same.
fn fixed(initiator: bool) -> HandshakeState {
    let key = if initiator { [3; 32] } else { [4; 32] };
    let parameters = handshake::NOISE.parse().expect("the protocol's name");
    let secret = credentials(0).secret;
    let builder = Builder::new(parameters)
        .fixed_ephemeral_key_for_testing_only(&key)
        .psk(0, &secret)
        .expect("a key of 32 bytes");
    let state = if initiator {
        builder.build_initiator()
    } else {
        builder.build_responder()
    };
    state.expect("all that the protocol needs")
}

fn keys() -> (Keys, Keys) {
    let (mut ours, mut theirs) = (fixed(true), fixed(false));
    let (mut message, mut contents) = ([0; 128], [0; 128]);
    for turn in 0..2 {
        let (from, to) = if turn == 0 {
            (&mut ours, &mut theirs)
        } else {
            (&mut theirs, &mut ours)
        };
        let len = from.write_message(&[], &mut message).expect("room");
        to.read_message(&message[..len], &mut contents)
            .expect("the same key");
    }
    let end =
        |state: HandshakeState| Arc::new(state.into_stateless_transport_mode().expect("done"));
    (end(ours), end(theirs))
}

/// A peer that connects, says `bytes` and closes: nobody gets in.
///
/// # Panics
/// If somebody does.
pub fn accept(bytes: &[u8]) {
    let ended = meet(bytes, |stranger| {
        handshake::accept(stranger, &credentials(0)).map(|_| ())
    });
    assert!(ended.is_err());
}

/// A peer that answers with `bytes` and closes: nobody is believed.
///
/// # Panics
/// If somebody is.
pub fn initiate(bytes: &[u8]) {
    let purpose = Purpose::Page;
    let ended = meet(bytes, |stranger| {
        handshake::initiate(stranger, NodeId(0), purpose, &credentials(1)).map(|_| ())
    });
    assert!(ended.is_err());
}

fn meet(
    bytes: &[u8],
    handshake: impl FnOnce(&Stranger<'_>) -> Result<(), TransportError>,
) -> Result<(), TransportError> {
    let pair = UnixStream::pair();
    let (mut feed, socket) = pair.map_err(|error| TransportError::io("socketpair", &error))?;
    let _ = feed.write_all(&bytes[..bytes.len().min(INPUT_MAX)]);
    let _ = feed.shutdown(std::net::Shutdown::Write);
    let address = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 1));
    handshake(&Stranger {
        fd: socket.as_raw_fd(),
        addresses: [address, address],
        deadline: &Deadline::new("handshake", Duration::from_secs(60)),
    })
}

/// What an initiator says up to the point where it would need the acceptor's key, by name.
#[must_use]
pub fn strangers() -> Vec<(String, Vec<u8>)> {
    let ours = greeting();
    let answer = Answer {
        protocol: PROTOCOL,
        version: ours.version,
        status: Status::GoOn,
    };
    let prologue = [
        handshake::NAME,
        &credentials(0).run_id,
        &ours.encode(),
        &answer.encode(),
    ]
    .concat();
    let parameters = handshake::NOISE.parse().expect("the protocol's name");
    let secret = credentials(0).secret;
    let mut state = Builder::new(parameters)
        .fixed_ephemeral_key_for_testing_only(&[3; 32])
        .psk(0, &secret)
        .and_then(|builder| builder.prologue(&prologue))
        .and_then(Builder::build_initiator)
        .expect("all that the protocol needs");
    let mut message = [0; 256];
    let len = state
        .write_message(&intent(Purpose::Page).encode(), &mut message)
        .expect("room");
    let first = [&(len as u16).to_le_bytes(), &message[..len]].concat();
    let confirmation = [&25u16.to_le_bytes()[..], &[0; 25]].concat();
    vec![
        ("greeting".into(), ours.encode().to_vec()),
        ("intent".into(), [&ours.encode()[..], &first].concat()),
        (
            "confirmation".into(),
            [&ours.encode()[..], &first, &confirmation].concat(),
        ),
    ]
}

/// What an acceptor says, as far as it does not depend on the initiator's key, by name.
#[must_use]
pub fn acceptors() -> Vec<(String, Vec<u8>)> {
    [Status::GoOn, Status::OtherVersion, Status::OtherRun]
        .map(|status| {
            let answer = Answer {
                protocol: PROTOCOL,
                version: [1, 2, 3],
                status,
            };
            let verdict = [&64u16.to_le_bytes()[..], &[9; 64]].concat();
            let said = [&answer.encode()[..], &verdict].concat();
            (format!("{status:?}"), said)
        })
        .to_vec()
}
