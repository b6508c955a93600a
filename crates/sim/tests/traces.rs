//! Traces as work for the simulator: exactly what was recorded, or the same program on more nodes.

use lev_sim::{Mix, Outcome, Pattern, Replay, Sharing};
use lev_trace::{flag, Header, Kind, Pages, Record, Trace, MERGED};
use lev_wire::NodeId;
use proptest::prelude::*;

const NODES: u16 = 3;

fn event(at_us: u64, node: u16, thread: u32, page: u64, kind: Kind) -> Record {
    let write = matches!(kind, Kind::Write | Kind::Upgrade);
    Record {
        at_ns: at_us * 1000,
        page,
        node: NodeId(node),
        kind,
        flags: if write { flag::WRITE } else { 0 },
        other: NodeId(0),
        thread,
    }
}

fn trace(mut records: Vec<Record>) -> Trace {
    records.sort_by_key(|record| record.at_ns);
    let trace = Trace {
        header: Header {
            node: MERGED,
            hold_us: 50,
            ..Header::new(NODES, NodeId(0), 0)
        },
        homes: Default::default(),
        records,
    };
    // Homes come from records: pages 0 to 99 on node 1, all others on the head.
    let mut with_homes = trace.clone();
    with_homes
        .records
        .insert(0, Record::home(0, 100, NodeId(1)));
    Trace::parse(&with_homes.bytes()).unwrap()
}

fn replay(trace: &Trace, replay: Replay) -> Outcome {
    let outcome = replay.run(trace).unwrap();
    assert_eq!(outcome.stale_reads, 0);
    outcome
}

fn on(nodes: u16) -> Replay {
    Replay {
        nodes: Some(nodes),
        ..Replay::default()
    }
}

/// A shared page that two nodes write in turn, a page that all read, a page of each node's own.
fn program(rounds: u64) -> Trace {
    let mut records = Vec::new();
    for round in 0..rounds {
        for node in 0..NODES {
            let at = round * 3000 + u64::from(node) * 1000;
            let page = |class: u64| class * 1000 + round % 4;
            records.push(event(at, node, 7, page(1), Kind::Read));
            records.push(event(at + 100, node, 7, page(1), Kind::Upgrade));
            records.push(event(at + 200, node, 7, page(2), Kind::Read));
            let own = 3000 + u64::from(node) * 100 + round;
            records.push(event(at + 300, node, 8, own, Kind::Write));
        }
    }
    trace(records)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_trace_is_replayed_to_its_end(
        steps in proptest::collection::vec((0u64..500, 0..NODES, 0u32..3, 90u64..110, 0usize..5), 1..200),
        pool: bool,
    ) {
        let kinds = [Kind::Read, Kind::Write, Kind::Upgrade, Kind::Join, Kind::Send];
        let records: Vec<Record> = steps
            .iter()
            .map(|(at, node, thread, page, kind)| event(*at, *node, *thread, *page, kinds[*kind]))
            .collect();
        let accesses = records.iter().filter(|record| record.kind.is_fault()).count() as u64;
        let trace = trace(records);
        let options = Replay { promote_after: Some(if pool { 2 } else { 0 }), ..Replay::default() };
        // It checks itself that the order was that of the trace.
        let outcome = replay(&trace, options);
        prop_assert_eq!(outcome.accesses, accesses);
        prop_assert_eq!(outcome, replay(&trace, options));
    }
}

#[test]
fn the_order_holds_even_where_the_machine_is_slow() {
    let mut slow = Replay::default();
    slow.costs.latency_ns = 5_000_000;
    let trace = program(10);
    let (fast, slow) = (replay(&trace, Replay::default()), replay(&trace, slow));
    assert_eq!(fast.order, slow.order);
    assert!(slow.time_us > fast.time_us);
    let fast_threads = replay(
        &trace,
        Replay {
            speed: 10.0,
            ..Replay::default()
        },
    );
    assert_eq!(fast_threads.order, fast.order);
    assert!(fast_threads.time_us < fast.time_us / 5.0);
    // Another order is another number.
    let mut other = trace.clone();
    other.records[0].page += 1;
    assert_ne!(replay(&other, Replay::default()).order, fast.order);
}

#[test]
fn times_of_years_do_no_harm() {
    let trace = trace(vec![
        event(1, 0, 1, 5, Kind::Read),
        event(1 << 45, 1, 1, 5, Kind::Write),
    ]);
    for nodes in [None, Some(4)] {
        let options = Replay {
            nodes,
            speed: 1e-6,
            ..Replay::default()
        };
        assert!(replay(&trace, options).accesses > 0);
    }
}

#[test]
fn who_sent_contents_first_had_them() {
    let at_start = |sender| {
        let mut records = vec![event(10, 2, 1, 5, Kind::Read)];
        if let Some(sender) = sender {
            records.push(event(11, sender, 0, 5, Kind::Send));
        }
        replay(&trace(records), Replay::default())
    };
    // Its home, node 1, answers by itself that the page is zero; else the contents come, from the home or another node.
    let [zero, home, head] = [None, Some(1), Some(0)].map(at_start);
    assert!(zero.bytes_per_fault < 1000.0, "{zero:?}");
    assert!(home.bytes_per_fault > 4096.0, "{home:?}");
    assert!(head.frames_per_fault > home.frames_per_fault, "{head:?}");
}

#[test]
fn a_program_is_measured() {
    let trace = program(20);
    let mix = Mix::of(&trace, &Pages::of(&trace)).unwrap();
    assert_eq!((mix.nodes, mix.threads, mix.accesses), (NODES, 2, 40));
    let class = |pattern| {
        let found = mix.classes.iter().find(|class| class.pattern == pattern);
        found.unwrap_or_else(|| panic!("no {pattern:?} in {mix:?}"))
    };
    let (own, read, written) = (
        class(Pattern::Private),
        class(Pattern::ReadMostly),
        class(Pattern::Migratory),
    );
    assert_eq!((own.share, read.share, written.share), (0.25, 0.25, 0.5));
    assert_eq!((own.pages, read.pages, written.pages), (20, 4, 4));
    assert_eq!((own.nodes, written.nodes), (1.0, 3.0));
    assert_eq!(
        (written.reads, written.updates, written.writes),
        (0.0, 0.5, 0.0)
    );
    assert_eq!((own.writes, read.reads), (1.0, 1.0));
    assert!(Mix::of(&crate::trace(vec![]), &Pages::default()).is_err());
}

#[test]
fn its_program_runs_on_any_number_of_nodes() {
    let trace = program(20);
    for nodes in [1, 2, 3, 5, 64, 130] {
        for sharing in [Sharing::Grows, Sharing::Stays] {
            let options = Replay {
                sharing,
                ..on(nodes)
            };
            let outcome = replay(&trace, options);
            assert_eq!(outcome.accesses, 40 * 2 * u64::from(nodes), "{nodes}");
            assert_eq!(outcome, replay(&trace, options));
            let other = Replay { seed: 1, ..options };
            assert_ne!(outcome.order, replay(&trace, other).order);
        }
    }
    assert!(on(1025).run(&trace).unwrap_err().contains("nodes"));
    assert!(on(0).run(&trace).unwrap_err().contains("nodes"));
}

#[test]
fn groups_that_stay_small_stay_fast() {
    let trace = program(20);
    let mean = |nodes, sharing| {
        let outcome = replay(
            &trace,
            Replay {
                sharing,
                ..on(nodes)
            },
        );
        let classes = outcome.classes.iter();
        let mut migratory = classes.filter(|class| class.pattern == Pattern::Migratory);
        migratory.next().unwrap().mean_us
    };
    let few = mean(3, Sharing::Stays);
    assert!(mean(96, Sharing::Stays) < 2.0 * few);
    assert!(mean(96, Sharing::Grows) > 4.0 * few);
}
