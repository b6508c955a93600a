//! Regions over UCX: what is refused, and what a lost process does.

use lev_region::{Region, RegionError, Seat, Shape};
use lev_wire::cluster::{Cluster, Encrypt, Transport};
use lev_wire::NodeId;
#[cfg(feature = "ucx")]
use std::net::UdpSocket;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

fn describe(seats: &[Seat], encrypt: Encrypt, transport: &[Transport]) -> Vec<Cluster> {
    let nodes: Vec<_> = seats
        .iter()
        .map(|seat| serde_json::json!({"name": "a", "address": seat.address().to_string(), "vcpus": []}))
        .collect();
    let cluster = |transport: &Transport| {
        serde_json::from_value(serde_json::json!({
            "schema": 1, "run_id": "0123456789abcdef".repeat(2), "secret": "5a".repeat(32),
            "nodes": nodes, "encrypt": encrypt, "transport": transport,
        }))
        .unwrap()
    };
    transport.iter().map(cluster).collect()
}

/// Joins two nodes at `address`, each with its own choice; each result.
fn join(
    address: &str,
    encrypt: Encrypt,
    transport: [Transport; 2],
) -> Vec<Result<Region, RegionError>> {
    let seats: Vec<Seat> = (0..2).map(|_| Seat::at(address).unwrap()).collect();
    let clusters = describe(&seats, encrypt, &transport);
    std::thread::scope(|scope| {
        let run = |(node, (seat, cluster)): (u16, (Seat, &Cluster))| {
            let cluster = cluster.clone();
            let shape = Shape::even(8192, 2);
            scope.spawn(move || seat.join(&cluster, NodeId(node), &shape, LIMIT))
        };
        let threads: Vec<_> = (0..)
            .zip(seats.into_iter().zip(&clusters))
            .map(run)
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

#[test]
fn what_must_be_encrypted_does_not_go_over_ucx() {
    for result in join("127.0.0.1:0", Encrypt::On, [Transport::Ucx; 2]) {
        let error = result.err().expect("must not join");
        assert!(
            matches!(error, RegionError::Clear { node: None }),
            "{error}"
        );
        let hint = error.hint().unwrap();
        assert!(hint.contains("encrypt") && hint.contains("tcp"), "{hint}");
    }
}

/// An address of this machine that is not the loopback interface's: channels to it count as leaving the machine.
#[cfg(feature = "ucx")]
fn outside() -> Option<std::net::IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?; // sends nothing
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

#[cfg(feature = "ucx")]
#[test]
fn what_leaves_the_machine_is_refused_unless_encryption_is_off() {
    let Some(address) = outside() else {
        println!("skipped: this machine has the loopback interface only");
        return;
    };
    let address = format!("{address}:0");
    let errors: Vec<_> = join(&address, Encrypt::Auto, [Transport::Ucx; 2])
        .into_iter()
        .map(|result| result.err().expect("must not join"))
        .collect();
    // Who is faster refuses, the other may hear of that first.
    let refused = |error: &RegionError| matches!(error, RegionError::Clear { node: Some(_) });
    assert!(errors.iter().any(refused), "{errors:?}");
    for result in join(&address, Encrypt::Off, [Transport::Ucx; 2]) {
        result.unwrap();
    }
}

#[cfg(feature = "ucx")]
#[test]
fn nodes_that_choose_differently_do_not_come_together() {
    for result in join(
        "127.0.0.1:0",
        Encrypt::Auto,
        [Transport::Ucx, Transport::Tcp],
    ) {
        let error = result.err().expect("must not join").to_string();
        assert!(
            error.contains("UCX") || error.contains("transport") || error.contains("lost"),
            "{error}"
        );
    }
}

#[cfg(not(feature = "ucx"))]
#[test]
fn a_build_without_ucx_says_so() {
    for result in join("127.0.0.1:0", Encrypt::Auto, [Transport::Ucx; 2]) {
        let error = result.err().expect("must not join");
        assert!(error.to_string().contains("does not have UCX"), "{error}");
        assert!(error.hint().unwrap().contains("libucx-dev"));
    }
}
