//! Who gets a channel and who does not.

mod node;

use lev_transport::{connect, Credentials, Encrypt, Listener, NodeId, Purpose, TransportError};
use node::{credentials, listener, meet, PATIENCE};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The reason of a refusal.
fn reason(error: Option<TransportError>) -> TransportError {
    match error {
        Some(TransportError::Refused { peer, reason }) => {
            assert!(peer.starts_with("127.0.0.1:"), "{peer}");
            *reason
        }
        other => panic!("not refused: {other:?}"),
    }
}

/// Refused by `listener` with this reason, after `bytes` and the end of the stream.
fn refused(listener: &Listener, bytes: &[u8]) -> TransportError {
    let mut stranger = TcpStream::connect(listener.local_address()).unwrap();
    stranger.write_all(bytes).unwrap();
    stranger.shutdown(Shutdown::Write).unwrap();
    reason(
        listener
            .accept(&credentials(1, Encrypt::On), PATIENCE)
            .err(),
    )
}

#[test]
fn equal_credentials_meet() {
    let (initiator, acceptor) = meet(
        &credentials(0, Encrypt::Auto),
        1,
        &credentials(1, Encrypt::Auto),
    );
    assert_eq!((initiator, acceptor), (None, None));
}

#[test]
fn the_channel_says_who_and_what_for() {
    let (listener, address) = listener();
    for purpose in [
        Purpose::Control,
        Purpose::Vcpu(7),
        Purpose::Interrupt,
        Purpose::Page,
    ] {
        let address = address.clone();
        let connecting = std::thread::spawn(move || {
            connect(
                &address,
                NodeId(1),
                purpose,
                &credentials(3, Encrypt::Auto),
                PATIENCE,
            )
            .unwrap()
        });
        let accepted = listener
            .accept(&credentials(1, Encrypt::Auto), PATIENCE)
            .unwrap();
        assert_eq!((accepted.from, accepted.purpose), (NodeId(3), purpose));
        let channel = connecting.join().unwrap();
        assert_eq!(
            (channel.peer(), channel.purpose(), channel.encrypted()),
            (NodeId(1), purpose, false)
        );
        assert_eq!(channel.peer_address(), accepted.channel.local_address());
        assert_eq!(channel.local_address(), accepted.channel.peer_address());
    }
}

#[test]
fn another_secret_is_refused_and_told_on_the_accepting_side_only() {
    let initiator = Credentials {
        secret: [43; 32],
        ..credentials(0, Encrypt::Off)
    };
    let (initiator, acceptor) = meet(&initiator, 1, &credentials(1, Encrypt::Off));
    assert_eq!(initiator, Some(TransportError::Rejected));
    assert_eq!(reason(acceptor), TransportError::Secret);
}

#[test]
fn another_run_is_told_as_such() {
    let initiator = Credentials {
        run_id: [8; 16],
        ..credentials(0, Encrypt::Off)
    };
    let (initiator, acceptor) = meet(&initiator, 1, &credentials(1, Encrypt::Off));
    assert_eq!(initiator, Some(TransportError::Run));
    assert_eq!(reason(acceptor), TransportError::Run);
}

#[test]
fn another_version_is_told_as_such_before_anything_else() {
    let version = |ours: &str, theirs: &str| TransportError::Version {
        ours: ours.into(),
        theirs: theirs.into(),
    };
    // Numbers differ: told in the clear. Only the text differs: told after authentication.
    for text in ["1.2.4", "2.2.3", "1.2.3-rc1"] {
        let mut initiator = Credentials {
            version: text.into(),
            ..credentials(0, Encrypt::Off)
        };
        if text != "1.2.3-rc1" {
            (initiator.secret, initiator.run_id) = ([0; 32], [0; 16]);
        }
        let (initiator, acceptor) = meet(&initiator, 1, &credentials(1, Encrypt::Off));
        assert_eq!(initiator, Some(version(text, "1.2.3")));
        assert_eq!(reason(acceptor), version("1.2.3", text));
    }
}

#[test]
fn another_node_is_told_on_both_sides() {
    let (initiator, acceptor) = meet(
        &credentials(0, Encrypt::Off),
        2,
        &credentials(1, Encrypt::Off),
    );
    let error = TransportError::Node {
        expected: NodeId(2),
        found: NodeId(1),
    };
    assert_eq!(initiator, Some(error.clone()));
    assert_eq!(reason(acceptor), error);
    let (initiator, acceptor) = meet(
        &credentials(1, Encrypt::Off),
        1,
        &credentials(1, Encrypt::Off),
    );
    assert_eq!(
        initiator,
        Some(TransportError::SameNode { node: NodeId(1) })
    );
    assert_eq!(
        reason(acceptor),
        TransportError::SameNode { node: NodeId(1) }
    );
}

#[test]
fn encryption_forbidden_and_demanded_do_not_meet() {
    for (ours, theirs) in [(Encrypt::On, Encrypt::Off), (Encrypt::Off, Encrypt::On)] {
        let (initiator, acceptor) = meet(&credentials(0, ours), 1, &credentials(1, theirs));
        let on = ours == Encrypt::On;
        assert_eq!(
            initiator,
            Some(TransportError::Encryption {
                ours: on,
                theirs: !on
            })
        );
        assert_eq!(
            reason(acceptor),
            TransportError::Encryption {
                ours: !on,
                theirs: on
            }
        );
    }
}

#[test]
fn garbage_is_refused_and_the_listener_goes_on() {
    let (listener, address) = listener();
    let web = b"GET / HTTP/1.1\r\nHost: example\r\n\r\n";
    assert_eq!(
        refused(&listener, web),
        TransportError::NotLeviathan {
            bytes: *b"GET / HT"
        }
    );
    assert_eq!(refused(&listener, b""), TransportError::Rejected);
    assert_eq!(
        refused(&listener, b"LEVIATHN"),
        TransportError::Truncated { have: 8, need: 32 }
    );
    let greeting = recorded(&address, &listener)[..32].to_vec();
    assert_eq!(refused(&listener, &greeting), TransportError::Rejected);
    let huge = [&greeting[..], &[0xff, 0xff, 1, 2, 3]].concat();
    assert!(matches!(
        refused(&listener, &huge),
        TransportError::HandshakeLength { len: 65535, .. }
    ));
    for len in [16u16, 31, 32, 48, 80, 256] {
        let noise = [&greeting[..], &len.to_le_bytes(), &vec![0x5a; len.into()]].concat();
        assert_eq!(
            refused(&listener, &noise),
            TransportError::Secret,
            "{len} bytes"
        );
    }
    // After all that an honest node still gets in.
    recorded(&address, &listener);
}

/// What the initiator of a good handshake sent, seen by somebody between the nodes.
fn recorded(address: &str, listener: &Listener) -> Vec<u8> {
    let between = TcpListener::bind("127.0.0.1:0").unwrap();
    let front = between.local_addr().unwrap().to_string();
    let back = address.to_owned();
    let tapping = std::thread::spawn(move || {
        let (mut near, _) = between.accept().unwrap();
        let mut far = TcpStream::connect(back).unwrap();
        let (mut near_in, mut far_in) = (near.try_clone().unwrap(), far.try_clone().unwrap());
        let back = std::thread::spawn(move || {
            let _ = std::io::copy(&mut far_in, &mut near_in);
            let _ = near_in.shutdown(Shutdown::Both);
        });
        let (mut tape, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(n @ 1..) = near.read(&mut buffer) {
            tape.extend_from_slice(&buffer[..n]);
            let _ = far.write_all(&buffer[..n]);
        }
        let _ = far.shutdown(Shutdown::Both);
        back.join().unwrap();
        tape
    });
    let connecting = std::thread::spawn(move || {
        connect(
            &front,
            NodeId(1),
            Purpose::Page,
            &credentials(0, Encrypt::On),
            PATIENCE,
        )
        .unwrap()
    });
    let accepted = listener
        .accept(&credentials(1, Encrypt::On), PATIENCE)
        .unwrap();
    let (sender, _keep) = connecting.join().unwrap().split();
    sender.send(5, 0, 0, &[b"secret words"]).unwrap();
    let (_, mut receiver) = accepted.channel.split();
    assert_eq!(receiver.recv().unwrap().1, b"secret words");
    sender.shutdown();
    tapping.join().unwrap()
}

#[test]
fn a_replayed_handshake_gives_no_channel() {
    let (listener, address) = listener();
    let tape = recorded(&address, &listener);
    assert!(
        !tape.windows(6).any(|window| window == b"secret"),
        "the frame went out in the clear"
    );
    assert_eq!(refused(&listener, &tape), TransportError::NotConfirmed);
    // Cut before the confirmation: nothing is given out either.
    let first = 32 + 2 + usize::from(u16::from_le_bytes([tape[32], tape[33]]));
    assert_eq!(refused(&listener, &tape[..first]), TransportError::Rejected);
}

#[test]
fn a_silent_stranger_keeps_nobody_waiting() {
    let (mut listener, address) = listener();
    listener.set_handshake_timeout(Duration::from_secs(6));
    let strangers: Vec<_> = (0..5)
        .map(|_| TcpStream::connect(&address).unwrap())
        .collect();
    let start = Instant::now();
    let connecting = std::thread::spawn(move || {
        connect(
            &address,
            NodeId(1),
            Purpose::Page,
            &credentials(0, Encrypt::On),
            PATIENCE,
        )
        .map(|_| ())
    });
    assert!(listener
        .accept(&credentials(1, Encrypt::On), PATIENCE)
        .is_ok());
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "waited for the strangers: {:?}",
        start.elapsed()
    );
    connecting.join().unwrap().unwrap();
    for _ in &strangers {
        let error = reason(
            listener
                .accept(&credentials(1, Encrypt::On), PATIENCE)
                .err(),
        );
        assert!(
            matches!(
                error,
                TransportError::Timeout {
                    waited_ms: 6000..,
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[test]
fn nobody_comes() {
    let (listener, _) = listener();
    let error = listener
        .accept(&credentials(1, Encrypt::On), Duration::from_millis(30))
        .err()
        .unwrap();
    assert!(
        matches!(
            error,
            TransportError::Timeout {
                waited_ms: 30..,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn the_connecting_side_may_start_first() {
    // An address of its own: on 127.0.0.1 another test might get the port in between.
    let free = TcpListener::bind("127.0.0.9:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let address = free.clone();
    let (tell, told) = mpsc::channel();
    let connecting = std::thread::spawn(move || {
        tell.send(()).unwrap();
        connect(
            &address,
            NodeId(1),
            Purpose::Page,
            &credentials(0, Encrypt::On),
            PATIENCE,
        )
        .map(|_| ())
    });
    told.recv().unwrap();
    std::thread::sleep(Duration::from_millis(150));
    let listener = Listener::bind(&free).unwrap();
    listener
        .accept(&credentials(1, Encrypt::On), PATIENCE)
        .unwrap();
    connecting.join().unwrap().unwrap();
}

#[test]
fn a_forwarder_without_target_is_tried_again() {
    let forwarder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = forwarder.local_addr().unwrap().to_string();
    let closing =
        std::thread::spawn(move || (0..3).for_each(|_| drop(forwarder.accept().unwrap())));
    let limit = Duration::from_millis(300);
    let error = connect(
        &address,
        NodeId(1),
        Purpose::Page,
        &credentials(0, Encrypt::On),
        limit,
    )
    .err()
    .unwrap();
    closing.join().unwrap();
    assert!(matches!(error, TransportError::Connect { .. }), "{error:?}");
}

#[test]
fn nobody_listens() {
    let free = "127.0.0.1:1"; // no port that was just given back: another test may get it, and answers
    let limit = Duration::from_millis(100);
    let error = connect(
        free,
        NodeId(1),
        Purpose::Page,
        &credentials(0, Encrypt::On),
        limit,
    )
    .err()
    .unwrap();
    let refused = libc::ECONNREFUSED;
    assert!(
        matches!(&error, TransportError::Connect { errno, address, .. } if *errno == refused && address == free)
    );
    assert!(error.hint().is_some() && error.to_string().contains(free));
}

#[test]
fn bad_addresses_are_refused_by_name() {
    for address in ["", "localhost", "localhost:port", "::1:70000", "[::1]"] {
        let connected = connect(
            address,
            NodeId(1),
            Purpose::Page,
            &credentials(0, Encrypt::On),
            PATIENCE,
        );
        assert!(
            matches!(connected.err(), Some(TransportError::Address { .. })),
            "{address}"
        );
        assert!(
            matches!(
                Listener::bind(address).err(),
                Some(TransportError::Address { .. })
            ),
            "{address}"
        );
    }
}

#[test]
fn a_port_in_use_is_told_with_a_hint() {
    let (_listener, address) = listener();
    let error = Listener::bind(&address).err().unwrap();
    assert_eq!(
        error,
        TransportError::Io {
            what: "listening",
            errno: libc::EADDRINUSE
        }
    );
    assert!(error.hint().unwrap().contains("port"));
}
