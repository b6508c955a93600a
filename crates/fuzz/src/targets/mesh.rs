//! JSON between the nodes of a VM, and the cluster description, which is a file.

use super::target;
use crate::{Seed, Target};
use lev_mesh::message::{Configure, Configured, DoorbellMessage, Event, Segment};
use lev_mesh::report::NodeReport;
use lev_mesh::Loss;
use lev_wire::cluster::{Cluster, EngineOptions, HomeRange, Node, Pool};
use lev_wire::NodeId;
use serde::de::DeserializeOwned;
use serde::Serialize;
use std::time::Duration;

/// What is worth trying anywhere in JSON.
pub(super) const JSON: &[&[u8]] = &[
    b"-1",
    b"0",
    b"1e999",
    b"4294967296",
    b"18446744073709551615",
    b"18446744073709551616",
    b"1.5",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b"\"\"",
    b"\"\\ud800\"",
    b"\"\\u0000\"",
    b"[[[[[[[[",
    b"{\"a\":",
    b",",
    b":",
    b"}",
    b"]",
    b"\xFF\xFE",
];

pub(super) fn all() -> Vec<Target> {
    let json = |name, run, seeds| Target {
        words: JSON,
        rounds: 3000,
        ..target(name, run, seeds)
    };
    vec![
        json("cluster", stable::<Cluster>, clusters),
        json("mesh-configure", configure, configures),
        json("mesh-segment", segment, segments),
        json("mesh-event", stable::<Event>, events),
        json("mesh-doorbells", stable::<Vec<DoorbellMessage>>, doorbells),
        json("mesh-report", stable::<NodeReport>, reports),
    ]
}

/// What is read is written so that it is read as the same.
fn stable<T: DeserializeOwned + Serialize>(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(bytes) else {
        return;
    };
    let once = serde_json::to_vec(&value).expect("plain values");
    let again: T = serde_json::from_slice(&once).expect("what was written can be read");
    assert_eq!(serde_json::to_vec(&again).expect("plain values"), once);
}

fn seed<T: Serialize>(name: &str, value: &T) -> Seed {
    let text = serde_json::to_vec(value).expect("plain values");
    (name.to_owned(), text)
}

fn cluster() -> Cluster {
    let node = |name: &str, address: Option<&str>, vcpus: &[u32]| Node {
        name: name.into(),
        address: address.map(str::to_owned),
        vcpus: vcpus.to_vec(),
    };
    Cluster {
        schema: 1,
        run_id: "01".repeat(16),
        secret: "23".repeat(32),
        nodes: vec![
            node("head", None, &[0, 1]),
            node("worker", Some("127.0.0.1:7000"), &[2]),
        ],
        memory: vec![HomeRange {
            gpa: 1 << 32,
            len: 1 << 30,
            node: NodeId(1),
        }],
        pool: Some(Pool {
            path: Some("/dev/dax0.0".into()),
            len: 1 << 24,
        }),
        encrypt: Default::default(),
        transport: Default::default(),
        engine: EngineOptions::default(),
        events: None,
        report: Some("report.json".into()),
        kept: vec!["/mnt/disk.raw".into()],
        trace: Some("/tmp/lev/head.trace".into()),
    }
}

fn clusters() -> Vec<Seed> {
    vec![seed("two-nodes", &cluster())]
}

fn configure(bytes: &[u8]) {
    stable::<Configure>(bytes);
    stable::<Configured>(bytes);
    if let Ok(configure) = serde_json::from_slice::<Configure>(bytes) {
        // What a worker makes of it before anything is started.
        let _ = lev_transport::Credentials::from_cluster(&configure.cluster, configure.node);
    }
}

fn configures() -> Vec<Seed> {
    let configure = Configure {
        cluster: cluster(),
        node: NodeId(1),
        pool_path: Some("/proc/1/fd/7".into()),
        tsc_khz: 2_000_000,
    };
    let configured = Configured {
        memory_available: 1 << 33,
        pid: 77,
    };
    vec![
        seed("configure", &configure),
        seed("configured", &configured),
    ]
}

fn segment(bytes: &[u8]) {
    stable::<Segment>(bytes);
    if let Ok(segment) = serde_json::from_slice::<Segment>(bytes) {
        let sum = segment.homes.iter().map(|(pages, _)| u128::from(*pages));
        let sum: u128 = sum.sum();
        assert_eq!(
            segment.pages().map(u128::from),
            u64::try_from(sum).ok().map(u128::from)
        );
    }
}

#[allow(clippy::single_range_in_vec_init)]
fn segments() -> Vec<Seed> {
    let segment = Segment {
        first_page: 0x7_F000_0000,
        homes: vec![(512, NodeId(0)), (512, NodeId(1))],
        populated: vec![0x7_F000_0000..0x7_F000_0010],
    };
    vec![seed("halves", &segment)]
}

fn events() -> Vec<Seed> {
    let lost = Event::NodeLost {
        node: NodeId(2),
        loss: Loss::silence(Duration::from_secs(4)),
    };
    let failed = Event::Failed {
        message: "out of memory".into(),
    };
    vec![seed("lost", &lost), seed("failed", &failed)]
}

fn doorbells() -> Vec<Seed> {
    let bell = |value, port| DoorbellMessage {
        index: 1,
        address: 0xFE00_0000,
        len: 4,
        value,
        port,
    };
    vec![seed("two", &[bell(Some(3), false), bell(None, true)])]
}

fn reports() -> Vec<Seed> {
    let report = NodeReport {
        node: 1,
        name: "worker".into(),
        memory: [("faults_read".to_owned(), 7)].into(),
        hot_pages: vec![(5, 6)],
        ..NodeReport::default()
    };
    vec![seed("worker", &report)]
}
