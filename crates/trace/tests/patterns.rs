//! Each rule of the classifier, and its borders.

use lev_trace::{flag, Header, Kind, Pages, Pattern, Record, Summary, Trace, MERGED};
use lev_wire::NodeId;

const PAGE: u64 = 0x7F00;

/// A trace of one page from words such as `0r`: node 0 faults to read. `w`: write, `u`: upgrade, `t`: first touch, `g`:
/// granted, `s`: sends contents, `z`: sends zeroes, `c`: puts contents into the pool, `p`: uses it in the pool. A millisecond apart.
fn trace(words: &str) -> Trace {
    let records = words.split_whitespace().enumerate().map(|(number, word)| {
        let (node, what) = word.split_at(1);
        let (kind, flags) = match what {
            "r" => (Kind::Read, 0),
            "w" => (Kind::Write, flag::WRITE),
            "u" => (Kind::Upgrade, flag::WRITE),
            "t" => (Kind::Touch, flag::WRITE),
            "g" => (Kind::Grant, 0),
            "s" => (Kind::Send, 0),
            "z" => (Kind::Send, flag::ZERO),
            "p" => (Kind::Pool, flag::WRITE),
            "c" => (Kind::Collect, 0),
            other => panic!("{other}"),
        };
        Record {
            at_ns: number as u64 * 1_000_000,
            page: PAGE,
            node: NodeId(node.parse().unwrap()),
            kind,
            flags,
            other: NodeId(0),
            thread: 1,
        }
    });
    Trace {
        header: Header {
            node: MERGED,
            ..Header::new(4, NodeId(0), 0)
        },
        homes: Default::default(),
        records: records.collect(),
    }
}

fn pattern(words: &str) -> Pattern {
    Pages::of(&trace(words)).get(PAGE).unwrap().pattern
}

#[test]
fn a_page_of_one_node_is_private() {
    assert_eq!(pattern("0t"), Pattern::Private);
    assert_eq!(pattern("1r 1g 1u 1g 1w 1g"), Pattern::Private);
    // The home had only zeroes to give.
    assert_eq!(pattern("1w 0z 1g"), Pattern::Private);
    assert_eq!(pattern("1w 0c 1p"), Pattern::Migratory);
    // In the pool already, because others had it before the trace.
    assert_eq!(pattern("1r 1p"), Pattern::Migratory);
    assert_eq!(pattern("1w 0s 1g"), Pattern::Migratory);
}

#[test]
fn a_page_that_is_read_is_read_mostly() {
    // What was there before the trace was written by its holder, who does not write it any more.
    assert_eq!(pattern("1r 0s 1g 2r 0s 2g"), Pattern::ReadMostly);
    // One write in ten faults still is.
    let reads = "1r 1g 0r 0g ".repeat(4);
    assert_eq!(pattern(&format!("{reads} 1r 1u")), Pattern::ReadMostly);
    assert_ne!(pattern(&format!("{reads} 1u")), Pattern::ReadMostly);
}

#[test]
fn one_writer_and_readers_are_a_producer_and_consumers() {
    let round = "0w 0g 1r 0s 1g ";
    assert_eq!(pattern(&round.repeat(3)), Pattern::ProducerConsumer);
    assert_eq!(
        pattern(&format!("{} 1w", round.repeat(3))),
        Pattern::Migratory
    );
}

#[test]
fn writers_in_turn_are_migratory_and_writers_at_once_are_hot() {
    // Between two moves everybody works for a while.
    let calm = "0w 0g 3g 3g 3g 3g 3g 3g 3g 1w 1g 3g 3g 3g 3g 3g 3g 3g ";
    assert_eq!(pattern(&calm.repeat(20)), Pattern::Migratory);
    // Somebody always waits.
    let hot = "0w 0g 1w 1g ";
    assert_eq!(pattern(&hot.repeat(20)), Pattern::HotCounter);
    // Not often enough to tell.
    assert_eq!(pattern(&hot.repeat(8)), Pattern::Migratory);
}

#[test]
fn what_is_fetched_ahead_is_used_and_what_comes_unasked_is_not() {
    // Granted without a fault: prefetched, because the threads of node 1 run through memory.
    assert_eq!(pattern("0w 0g 0s 1g"), Pattern::ReadMostly);
    // Sent ahead by its home: perhaps for nobody.
    let mut unasked = trace("0w 0g 0s 1g");
    unasked.records[3].flags = flag::UNASKED;
    let pages = Pages::of(&unasked);
    assert_eq!(pages.get(PAGE).unwrap().pattern, Pattern::Private);
}

#[test]
fn a_page_in_the_pool_is_marked() {
    let pages = trace("0w 0g 1w 1p 0w 0p");
    let pages = Pages::of(&pages);
    let page = pages.get(PAGE).unwrap();
    assert!(page.pooled);
    assert_eq!(
        (page.faults, page.moves, page.nodes, page.writers),
        (3, 2, 2, 2)
    );
    assert_eq!(page.waited_ns, 3_000_000);
}

#[test]
fn a_summary_adds_up() {
    let summary = Summary::of(&trace("0t 1r 0s 1g 1u 1g 0r 1s 0g"), 5);
    assert_eq!((summary.events, summary.faults, summary.pages), (9, 4, 1));
    assert_eq!(summary.pages_sent, 2);
    assert_eq!(summary.by_node[1].events["read"], 1);
    assert_eq!(
        (summary.by_node[1].threads, summary.by_node[3].threads),
        (1, 0)
    );
    assert_eq!(summary.by_node[1].p99_us, 2000.0);
    assert_eq!(summary.patterns.len(), 1);
    assert_eq!(summary.patterns[0].share, 1.0);
    assert_eq!(summary.hottest[0].page, PAGE);
}
