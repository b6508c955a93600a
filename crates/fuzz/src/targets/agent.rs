//! The control channel of a lab machine's agent.

use super::target;
use crate::{Framing, Seed, Target};
use lev_agent::frame::{encode, Decoder, Kind, HEADER};
use lev_agent::message::Call;

pub(super) fn all() -> Vec<Target> {
    vec![
        Target {
            framing: Some(Framing {
                header: HEADER,
                at: 0,
            }),
            ..target("agent-frame", frames, streams)
        },
        Target {
            words: super::mesh::JSON,
            ..target("agent-call", call, calls)
        },
    ]
}

/// However the stream is cut, the same frames come out of it, and they are what it began with.
fn frames(bytes: &[u8]) {
    let cut = |size: usize| {
        let mut decoder = Decoder::default();
        let mut again = Vec::new();
        for piece in bytes.chunks(size) {
            decoder.push(piece);
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => {
                        encode(&mut again, frame.kind, frame.stream, &frame.payload);
                    }
                    Ok(None) => break,
                    Err(error) => return (again, Some(error)),
                }
            }
        }
        (again, None)
    };
    let whole = cut(bytes.len().max(1));
    assert!(bytes.starts_with(&whole.0));
    assert_eq!(cut(7), whole);
}

fn streams() -> Vec<Seed> {
    let mut stream = Vec::new();
    encode(&mut stream, Kind::Call, 1, br#"{"call":"info"}"#);
    let call = stream.clone();
    encode(&mut stream, Kind::Input, 1, &[7; 300]);
    encode(&mut stream, Kind::InputEnd, 1, b"");
    encode(&mut stream, Kind::OutputCredit, 1, &4096u32.to_le_bytes());
    vec![("call".into(), call), ("program".into(), stream)]
}

fn call(bytes: &[u8]) {
    if let Ok(call) = serde_json::from_slice::<Call>(bytes) {
        // Strict: the same text with an unknown field is no call.
        let text = String::from_utf8_lossy(bytes);
        let end = text.rfind('}').unwrap_or(0);
        let more = format!("{},\"unknown\":1}}", &text[..end]);
        assert!(serde_json::from_str::<Call>(&more).is_err(), "{call:?}");
    }
}

fn calls() -> Vec<Seed> {
    [
        ("spawn", r#"{"call":"spawn","argv":["sh","-c","true"],"env":{"A":"b"},"stdin":true,"stdout":true,"stderr":false,"pty":{"rows":24,"cols":80}}"#),
        ("signal", r#"{"call":"signal","target":3,"number":15}"#),
        ("resize", r#"{"call":"resize","target":3,"size":{"rows":1,"cols":2}}"#),
        ("put", r#"{"call":"put","path":"/etc/x","mode":420,"size":3}"#),
        ("get", r#"{"call":"get","path":"/etc/x"}"#),
        ("info", r#"{"call":"info"}"#),
        ("shutdown", r#"{"call":"shutdown"}"#),
    ]
    .map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()))
    .to_vec()
}
