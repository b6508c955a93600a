//! Trace files: they come from other machines, and from other people.

use super::target;
use crate::{Seed, Target};
use lev_trace::{flag, merge, Header, Kind, Record, Ring, Summary, Trace, Writer};
use lev_wire::NodeId;
use std::io::Cursor;

pub(super) fn all() -> Vec<Target> {
    vec![Target {
        words: &[b"LEVTRACE", &[0xFF; 8], &[0; 8]],
        // A summary has a line for each node that the header announces, 1,024 at most.
        memory: 512 << 10,
        ..target("trace", trace, traces)
    }]
}

/// What is read is written so that it is read as the same, can be summed up, and joined with itself or not.
fn trace(bytes: &[u8]) {
    let Ok(trace) = Trace::parse(bytes) else {
        return;
    };
    let again = Trace::parse(&trace.bytes()).expect("what was written can be read");
    assert_eq!(
        (&again.records, &again.homes),
        (&trace.records, &trace.homes)
    );
    let summary = Summary::of(&trace, 3);
    let faults = trace.records.iter().filter(|record| record.kind.is_fault());
    assert_eq!(summary.faults, faults.count() as u64);
    if let Ok(merged) = merge(std::slice::from_ref(&trace)) {
        Trace::parse(&merged.bytes()).expect("what was joined can be read");
    }
}

fn traces() -> Vec<Seed> {
    let record = |at_ns, kind, flags, other| Record {
        at_ns,
        page: 0x7_F000_0000,
        node: NodeId(1),
        kind,
        flags,
        other: NodeId(other),
        thread: 5,
    };
    let records = [
        Record::home(0x7_F000_0000, 512, NodeId(1)),
        record(10, Kind::Read, 0, 0),
        record(70, Kind::Grant, flag::ZERO, 0),
        record(90, Kind::Upgrade, flag::WRITE, 0),
        record(95, Kind::Fill, flag::WRITE | flag::ZERO, 0),
        record(99, Kind::Send, flag::WRITE, 2),
    ];
    let file = |finished: bool| {
        let mut bytes = Cursor::new(Vec::new());
        let header = Header::new(3, NodeId(1), 1000);
        let mut writer = Writer::new(&mut bytes, header, 100).expect("memory");
        let ring = Ring::new(8);
        records.iter().for_each(|record| ring.put(record));
        writer.drain(&ring);
        if finished {
            writer.finish(&ring, -40).expect("memory");
        } else {
            drop(writer);
        }
        bytes.into_inner()
    };
    let merged = merge(&[Trace::parse(&file(true)).expect("a trace")]).expect("one of a run");
    vec![
        ("node".into(), file(true)),
        ("unfinished".into(), file(false)),
        ("merged".into(), merged.bytes()),
    ]
}
