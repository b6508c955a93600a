//! What an engine records: every fault and what came of it, on both sides, and nothing while nobody wants to know.

mod cluster;

use cluster::{Cluster, Shape, FIRST};
use lev_trace::{merge, Kind, Pages, Pattern, Record, Trace};
use lev_wire::NodeId;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const PAGES: u64 = 64;

fn run(cluster: &Arc<Cluster>, body: impl FnOnce(&Cluster) + Send + 'static) {
    cluster.run(LIMIT, vec![Box::new(body)]);
    cluster.stop();
}

/// A file without a name, and another way to its bytes.
fn memory_file() -> (File, File) {
    // SAFETY: a name and flags; the result is a new descriptor that nobody else has.
    let file =
        unsafe { File::from_raw_fd(libc::memfd_create(c"trace".as_ptr(), libc::MFD_CLOEXEC)) };
    assert!(file.as_raw_fd() >= 0);
    let other = file.try_clone().unwrap();
    (file, other)
}

fn bytes(file: File) -> Vec<u8> {
    std::fs::read(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap()
}

/// Two nodes, page 0 at home on node 0, no prefetching.
fn shape() -> Shape {
    let mut shape = Shape {
        homes: Some(vec![(PAGES, NodeId(0))]),
        before: vec![(0, 7)],
        ..Shape::new(2, PAGES)
    };
    shape.options.prefetch = 0;
    shape.options.read_ahead = 0;
    shape.options.zero_block = 1;
    shape
}

#[test]
fn both_sides_of_a_fault_are_in_the_trace() {
    run(&Cluster::start(shape()), |cluster| {
        let [head, worker] = [&cluster.nodes[0], &cluster.nodes[1]];
        worker.write(9, 0, 1); // before anybody wants a trace
        let files = [memory_file(), memory_file()];
        let mut readers = Vec::new();
        for (node, (file, reader)) in cluster.nodes.iter().zip(files) {
            node.engine.start_trace(file).unwrap();
            readers.push(reader);
        }
        assert!(head.engine.start_trace(memory_file().0).is_err());
        assert_eq!(worker.read(0, 0), 7);
        worker.write(0, 1, 8);
        assert_eq!(head.read(0, 1), 8);
        head.write(5, 0, 1);
        for node in &cluster.nodes {
            // A thread is woken before its page's lock is let go: only with that is the event recorded.
            assert!(!node.engine.describe_page(FIRST).is_empty());
            let header = node.engine.stop_trace(0).unwrap().unwrap();
            assert_eq!((header.dropped, header.cut), (0, 0));
        }
        assert!(head.engine.stop_trace(0).unwrap().is_none());
        worker.read(1, 0); // after it
        let parts: Vec<Trace> = readers
            .into_iter()
            .map(|file| Trace::parse(&bytes(file)).unwrap())
            .collect();
        assert_eq!(parts[1].header.nodes, 2);
        let trace = merge(&parts).unwrap();
        assert_eq!(trace.homes.runs().len(), 1);
        let first = trace.homes.runs()[0].0;
        let of = |page: u64, node: u16| -> Vec<Kind> {
            let mine = |record: &&Record| record.page == first + page && record.node.0 == node;
            let kinds = trace.records.iter().filter(mine).map(|record| record.kind);
            kinds
                .filter(|kind| !matches!(kind, Kind::Hold | Kind::Wait | Kind::Stale))
                .collect()
        };
        assert_eq!(
            of(0, 1),
            [
                Kind::Read,
                Kind::Grant,
                Kind::Upgrade,
                Kind::Grant,
                Kind::Protect,
                Kind::Drop, // it was the page's second reader and then its writer: whoever reads it next has it alone
                Kind::Send
            ]
        );
        assert_eq!(
            of(0, 0),
            [
                Kind::Protect,
                Kind::Send,
                Kind::Drop,
                Kind::Read,
                Kind::Grant
            ]
        );
        assert_eq!(of(5, 0), [Kind::Fill, Kind::Touch]);
        assert!(of(9, 1).is_empty() && of(1, 1).is_empty());
        let threads = trace.records.iter().filter(|record| record.kind.is_fault());
        assert!(threads.clone().count() > 0 && threads.into_iter().all(|record| record.thread > 0));
        let pages = Pages::of(&trace);
        assert_eq!(pages.get(first).unwrap().nodes, 2);
        assert_eq!(pages.get(first + 5).unwrap().pattern, Pattern::Private);
    });
}

#[test]
fn a_second_trace_begins_anew() {
    run(&Cluster::start(shape()), |cluster| {
        let worker = &cluster.nodes[1];
        for page in 1..4 {
            let (file, reader) = memory_file();
            worker.engine.start_trace(file).unwrap();
            worker.write(page, 0, 1);
            worker.engine.stop_trace(-5).unwrap();
            let trace = Trace::parse(&bytes(reader)).unwrap();
            let first = trace.homes.runs()[0].0;
            let faults = trace.records.iter().filter(|record| record.kind.is_fault());
            let pages: Vec<u64> = faults.map(|record| record.page - first).collect();
            assert_eq!(pages, [page]);
            assert_eq!(trace.header.clock_offset_ns, -5);
        }
    });
}
