//! Files: what is written is read as the same, and what is read from anywhere is an answer or an error with its place.

use lev_trace::{
    flag, merge, Header, Kind, Record, Ring, Trace, TraceError, Writer, HEADER_LEN, MERGED,
    RECORD_LEN,
};
use lev_wire::NodeId;
use proptest::prelude::*;
use std::io::Cursor;

const NODES: u16 = 3;

fn record(node: u16) -> impl Strategy<Value = Record> {
    let kinds: Vec<Kind> = Kind::ALL
        .into_iter()
        .filter(|kind| *kind != Kind::Home)
        .collect();
    (
        0..1u64 << 40,
        0..1u64 << 47,
        proptest::sample::select(kinds),
        0..8u8,
        0..NODES,
        1..1u32 << 20,
    )
        .prop_map(move |(at_ns, page, kind, flags, other, thread)| Record {
            at_ns,
            page,
            node: NodeId(node),
            kind,
            flags,
            other: NodeId(other),
            thread,
        })
}

fn header(node: u16) -> Header {
    Header {
        promote_after: 2,
        hold_us: 50,
        ..Header::new(NODES, NodeId(node), 1000)
    }
}

/// A finished file of one node.
fn file(node: u16, records: &[Record], offset_ns: i64) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let mut writer = Writer::new(&mut bytes, header(node), u64::MAX).unwrap();
    writer.add(&Record::home(0, 1 << 20, NodeId(1)));
    records.iter().for_each(|record| writer.add(record));
    writer.finish(&Ring::new(2), offset_ns).unwrap();
    bytes.into_inner()
}

proptest! {
    #[test]
    fn a_record_is_read_as_it_was_written(record in record(2)) {
        prop_assert_eq!(Record::decode(&record.encode()), Some(record));
        prop_assert_eq!(Record::of_words(record.words()), Some(record));
    }

    #[test]
    fn a_file_is_read_as_it_was_written(mut records in proptest::collection::vec(record(2), 0..60)) {
        let trace = Trace::parse(&file(2, &records, -7)).unwrap();
        records.sort_by_key(|record| record.at_ns);
        prop_assert_eq!(&trace.records, &records);
        prop_assert_eq!((trace.header.node, trace.header.clock_offset_ns, trace.header.finished), (2, -7, true));
        prop_assert_eq!(trace.homes.of_page(5), NodeId(1));
        prop_assert_eq!(Trace::parse(&trace.bytes()).unwrap(), trace);
    }

    #[test]
    fn joined_files_are_in_the_order_of_the_heads_clock(
        first in proptest::collection::vec(record(0), 0..40),
        second in proptest::collection::vec(record(1), 0..40),
        offset in -1_000_000i64..1_000_000,
    ) {
        let parts = [file(0, &first, 0), file(1, &second, offset)];
        let parts = parts.map(|bytes| Trace::parse(&bytes).unwrap());
        let merged = merge(&parts).unwrap();
        prop_assert_eq!(merged.header.node, MERGED);
        prop_assert_eq!(merged.records.len(), first.len() + second.len());
        prop_assert!(merged.records.windows(2).all(|pair| pair[0].at_ns <= pair[1].at_ns));
        // Two events of two nodes are as far apart as on the head's clock.
        for (ours, theirs) in parts[0].records.iter().zip(&parts[1].records) {
            let moved = |node, page| {
                let of = |record: &&Record| (record.node.0, record.page) == (node, page);
                merged.records.iter().find(of).map(|record| record.at_ns as i64)
            };
            let unique = |records: &[Record], page| records.iter().filter(|r| r.page == page).count() == 1;
            if unique(&first, ours.page) && unique(&second, theirs.page) {
                let apart = moved(1, theirs.page).unwrap() - moved(0, ours.page).unwrap();
                prop_assert_eq!(apart, theirs.at_ns as i64 + offset - ours.at_ns as i64);
            }
        }
        prop_assert_eq!(Trace::parse(&merged.bytes()).unwrap(), merged);
    }

    #[test]
    fn whatever_bytes_come_there_is_an_answer(
        records in proptest::collection::vec(record(0), 0..6),
        cut in 0usize..400,
        at in 0usize..400,
        byte: u8,
    ) {
        let mut bytes = file(0, &records, 0);
        let place = at % bytes.len();
        bytes[place] = byte;
        bytes.truncate(cut.max(place + 1));
        if let Ok(trace) = Trace::parse(&bytes) {
            prop_assert_eq!(Trace::parse(&trace.bytes()).unwrap().records, trace.records);
        }
    }
}

#[test]
fn errors_name_the_place() {
    let wrong = |place: usize, byte: u8| {
        let records = [Record {
            at_ns: 5,
            page: 9,
            node: NodeId(0),
            kind: Kind::Send,
            flags: flag::ZERO,
            other: NodeId(2),
            thread: 0,
        }];
        let mut bytes = file(0, &records, 0);
        bytes[place] = byte;
        Trace::parse(&bytes).unwrap_err().to_string()
    };
    let second = HEADER_LEN + RECORD_LEN;
    for (place, byte, said) in [
        (second + 7, 1, "offset 104: a time that is years after"),
        (0, b'X', "offset 0: not a trace"),
        (8, 2, "offset 8: version 2"),
        (12, 25, "offset 12: a record's length cannot be 25"),
        (15, 9, "offset 14: the number of nodes cannot be 2307"),
        (16, 3, "offset 16: the node cannot be 3"),
        (19, 1, "offset 18: the flags cannot be 257"),
        (20, 1, "offset 20: the page size cannot be 4097"),
        (40, 9, "offset 40: 9 records are announced, and 48 bytes"),
        (79, 1, "offset 72: what is reserved"),
        (second + 16, 99, "offset 104: there is no such kind"),
        (second + 17, 8, "offset 104: there is no such kind"),
        (
            second + 18,
            3,
            "offset 104: a node that is not in the cluster",
        ),
        (second + 14, 1, "offset 104: an event of another node"),
    ] {
        let error = wrong(place, byte);
        assert!(error.starts_with(said), "{place}: {error}");
    }
    assert_eq!(Trace::parse(&[0; 10]), Err(TraceError::Short(10)));
    let mut bytes = file(0, &[], 0);
    bytes[HEADER_LEN..HEADER_LEN + 8].fill(0);
    let error = Trace::parse(&bytes).unwrap_err().to_string();
    assert_eq!(error, "offset 80: a run of no pages, or past the last one");
}

#[test]
fn a_joined_trace_is_in_order() {
    let event = |at_ns| Record {
        at_ns,
        page: 1,
        node: NodeId(1),
        kind: Kind::Read,
        flags: 0,
        other: NodeId(0),
        thread: 1,
    };
    let trace = |records| Trace {
        header: Header {
            node: MERGED,
            ..header(0)
        },
        homes: Default::default(),
        records,
    };
    assert!(Trace::parse(&trace(vec![event(1), event(1), event(2)]).bytes()).is_ok());
    let error = Trace::parse(&trace(vec![event(2), event(1)]).bytes()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "offset 104: before the record in front of it"
    );
}

#[test]
fn a_file_that_was_not_finished_gives_what_is_whole() {
    let mut bytes = Cursor::new(Vec::new());
    let mut writer = Writer::new(&mut bytes, header(1), u64::MAX).unwrap();
    let ring = Ring::new(8);
    for at_ns in 0..3 {
        ring.put(&Record {
            at_ns,
            page: 4,
            node: NodeId(1),
            kind: Kind::Write,
            flags: flag::WRITE,
            other: NodeId(0),
            thread: 77,
        });
    }
    writer.drain(&ring);
    drop(writer);
    let mut bytes = bytes.into_inner();
    bytes.truncate(bytes.len() - 1);
    let trace = Trace::parse(&bytes).unwrap();
    assert!(!trace.header.finished);
    assert_eq!((trace.records.len(), trace.header.records), (2, 2));
}

#[test]
fn a_file_has_a_greatest_length_and_says_what_came_after() {
    let mut bytes = Cursor::new(Vec::new());
    let mut writer = Writer::new(&mut bytes, header(0), 2).unwrap();
    (0..5).for_each(|first| writer.add(&Record::home(first, 1, NodeId(0))));
    let header = writer.finish(&Ring::new(2), 0).unwrap();
    assert_eq!((header.records, header.cut), (2, 3));
    assert_eq!(Trace::parse(&bytes.into_inner()).unwrap().header, header);
}

#[test]
fn only_files_of_one_run_are_joined() {
    let part = |node| Trace::parse(&file(node, &[], 0)).unwrap();
    assert!(merge(&[part(0), part(0)]).is_err());
    let mut other = part(1);
    other.header.nodes = 4;
    let error = merge(&[part(0), other]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "not of one run: the number of nodes is 3 and 4"
    );
    let merged = merge(&[part(0), part(2)]).unwrap();
    assert!(merge(&[part(1), merged]).is_err());
}
