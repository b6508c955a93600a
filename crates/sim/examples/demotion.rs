//! What a pool gains that has fewer slots than there are hot pages, when pages leave it: for how long they stay at least, and
//! how programs change what they share.
//!
//! `cargo run --release -p lev-sim --example demotion [TRACE…]`; traces are those of `lev trace record`.

use lev_sim::{Costs, Outcome, Pool, Replay};
use lev_trace::{flag, Header, Kind, Record, Trace, MERGED};
use lev_wire::NodeId;

const NODES: u16 = 4;
/// A thread's own work between two accesses.
const THINK_NS: u64 = 20_000;
const SECONDS: u64 = 3;
/// One way between nodes where that is slow; else as the simulator has it.
const SLOW_NS: u64 = 200_000;
/// Pages that are hot at a time; their homes are all nodes in turn.
const HOT: u64 = 64;
/// Slots of all homes together.
const SLOTS: u32 = 32;
/// Shortest stays that are tried, milliseconds; 0: pages never leave.
const STAYS_MS: [u64; 6] = [0, 1, 10, 100, 300, 1000];

fn random(seed: &mut u64, below: u64) -> u64 {
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % below
}

/// Every node reads a page and then writes it, all the time; `choose`: which page, at a time in ns.
fn program(mut choose: impl FnMut(u64, &mut u64) -> u64) -> Trace {
    let mut records = Vec::new();
    let (mut seed, mut pages) = (1, 0);
    for at_ns in (0..SECONDS * 1_000_000_000).step_by(2 * THINK_NS as usize) {
        for node in 0..NODES {
            let page = choose(at_ns, &mut seed);
            pages = pages.max(page + 1);
            for (kind, flags, later) in [(Kind::Read, 0, 0), (Kind::Upgrade, flag::WRITE, THINK_NS)]
            {
                records.push(Record {
                    at_ns: at_ns + later + u64::from(node) * 100,
                    page,
                    node: NodeId(node),
                    kind,
                    flags,
                    other: NodeId::HEAD,
                    thread: 1,
                });
            }
        }
    }
    records.sort_by_key(|record| record.at_ns);
    let homes =
        (0..pages).map(|page| Record::home(page, 1, NodeId((page % u64::from(NODES)) as u16)));
    let header = Header {
        node: MERGED,
        hold_us: 50,
        ..Header::new(NODES, NodeId(0), 0)
    };
    let whole = Trace {
        header,
        homes: Default::default(),
        records: homes.chain(records).collect(),
    };
    Trace::parse(&whole.bytes()).expect("a trace made here")
}

/// One of 64 pages, the first ones far more often than the last ones.
fn skewed(seed: &mut u64) -> u64 {
    (0..3).map(|_| random(seed, HOT)).min().unwrap_or(0)
}

fn programs() -> Vec<(&'static str, Trace)> {
    let phase = |ms: u64| {
        move |at: u64, seed: &mut u64| at / (ms * 1_000_000) * HOT / 2 + random(seed, HOT / 2)
    };
    vec![
        ("all equal", program(|_, seed| random(seed, HOT))),
        ("some hotter", program(|_, seed| skewed(seed))),
        // The hot ones come when the pool is full already.
        (
            "hot ones late",
            program(|at, seed| {
                let cold = HOT - 1 - random(seed, HOT / 2);
                if at < 100_000_000 {
                    cold
                } else {
                    skewed(seed)
                }
            }),
        ),
        // Each of them moves now and then, and none is worth a slot.
        ("many, none hot", program(|_, seed| random(seed, 64 * HOT))),
        ("others each 1 s", program(phase(1000))),
        ("others each 300 ms", program(phase(300))),
        ("others each 50 ms", program(phase(50))),
    ]
}

/// Microseconds that an access waits, on average, those that wait for nothing included.
fn wait_us(outcome: &Outcome) -> f64 {
    assert_eq!(outcome.stale_reads, 0);
    outcome.mean_us * outcome.faults as f64 / outcome.accesses as f64
}

fn replayed(trace: &Trace, pages: u32, stay_ms: u64, latency_ns: u64) -> Outcome {
    let replay = Replay {
        costs: Costs {
            latency_ns,
            ..Costs::default()
        },
        promote_after: Some(2),
        pool: Pool {
            pages,
            demote_after_ns: stay_ms * 1_000_000,
        },
        ..Replay::default()
    };
    replay.run(trace).expect("a trace that can be replayed")
}

fn table(name: &str, trace: &Trace, pages: u32, latency_ns: u64) {
    let nodes = trace.header.nodes;
    println!(
        "\n{name}: {nodes} nodes, {pages} slots on each, {} us one way",
        latency_ns / 1000
    );
    println!("| stay | wait, us an access | frames an access | moved in | left |");
    println!("| --- | --- | --- | --- | --- |");
    let whole = replayed(trace, 0, 0, latency_ns);
    let all = std::iter::once(("slots for all".to_owned(), whole));
    let stays = STAYS_MS.map(|ms| {
        let name = if ms == 0 {
            "for ever".into()
        } else {
            format!("{ms} ms")
        };
        (name, replayed(trace, pages, ms, latency_ns))
    });
    for (stay, outcome) in all.chain(stays) {
        println!(
            "| {stay} | {:.1} | {:.2} | {} | {} |",
            wait_us(&outcome),
            outcome.frames_per_fault * outcome.faults as f64 / outcome.accesses as f64,
            outcome.promotions,
            outcome.demotions
        );
    }
}

fn main() {
    for (name, trace) in programs() {
        for latency_ns in [Costs::default().latency_ns, SLOW_NS] {
            table(name, &trace, SLOTS / u32::from(NODES), latency_ns);
        }
    }
    for file in std::env::args().skip(1) {
        let trace =
            Trace::parse(&std::fs::read(&file).expect("a file that can be read")).expect("a trace");
        for pages in [1, 8, 32] {
            table(&file, &trace, pages, Costs::default().latency_ns);
        }
    }
}
