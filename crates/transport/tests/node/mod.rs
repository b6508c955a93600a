//! Two nodes of one run on the loopback interface.
#![allow(dead_code)] // Each test binary uses its part.

use lev_transport::{
    connect, Channel, Credentials, Encrypt, Listener, NodeId, Purpose, TransportError,
};
use std::time::Duration;

/// Long enough for a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Credentials of a node of the test run.
pub fn credentials(node: u16, encrypt: Encrypt) -> Credentials {
    Credentials {
        run_id: [7; 16],
        secret: [42; 32],
        me: NodeId(node),
        version: "1.2.3".into(),
        encrypt,
    }
}

/// A listener on a free port.
pub fn listener() -> (Listener, String) {
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_address().to_string();
    (listener, address)
}

/// A channel between node 0 (first) and node 1 (second).
pub fn pair(encrypt: Encrypt) -> (Channel, Channel) {
    let (listener, address) = listener();
    let accepting =
        std::thread::spawn(move || listener.accept(&credentials(1, encrypt), PATIENCE).unwrap());
    let head = connect(
        &address,
        NodeId(1),
        Purpose::Page,
        &credentials(0, encrypt),
        PATIENCE,
    )
    .unwrap();
    (head, accepting.join().unwrap().channel)
}

/// What both sides say when node `from` connects to node `to`, with credentials changed by the test.
pub fn meet(
    initiator: &Credentials,
    to: u16,
    acceptor: &Credentials,
) -> (Option<TransportError>, Option<TransportError>) {
    let (listener, address) = listener();
    let acceptor = acceptor.clone();
    let accepting = std::thread::spawn(move || listener.accept(&acceptor, PATIENCE).err());
    let connected = connect(&address, NodeId(to), Purpose::Control, initiator, PATIENCE).err();
    (connected, accepting.join().unwrap())
}
