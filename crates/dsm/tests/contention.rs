//! Nodes that fight: threads on several nodes work on the same pages at once, and what the memory model promises
//! must hold. Every test ends the process with a dump if it hangs.

mod cluster;

use cluster::{Body, Cluster, Node, Shape, PAGE};
use lev_dsm::Activity;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::Arc;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

fn bodies(count: usize, body: impl Fn(&Cluster, usize) + Send + Sync + 'static) -> Vec<Body> {
    let body = Arc::new(body);
    (0..count)
        .map(|index| {
            let body = Arc::clone(&body);
            Box::new(move |cluster: &Cluster| body(cluster, index)) as Body
        })
        .collect()
}

/// Threads on all nodes add to the same counters; nothing may be lost.
fn counters(shape: Shape, threads: usize, rounds: u64) {
    let nodes = usize::from(shape.nodes);
    let cluster = Cluster::start(shape);
    cluster.run(
        LIMIT,
        bodies(threads, move |cluster, thread| {
            let node = &cluster.nodes[thread % nodes];
            for round in 0..rounds {
                node.word(0, 0).fetch_add(1, SeqCst);
                node.word(1 + round % 3, 100).fetch_add(1, SeqCst);
                node.word(0, 8 + thread).fetch_add(1, Relaxed);
            }
        }),
    );
    let node = &cluster.nodes[nodes - 1];
    assert_eq!(node.read(0, 0), threads as u64 * rounds);
    assert_eq!(
        (1..4).map(|page| node.read(page, 100)).sum::<u64>(),
        threads as u64 * rounds
    );
    assert!((0..threads).all(|thread| node.read(0, 8 + thread) == rounds));
    cluster.stop();
}

#[test]
fn counters_of_two_nodes_are_exact() {
    counters(Shape::new(2, 8), 4, 3000);
}

#[test]
fn counters_of_four_nodes_are_exact() {
    counters(Shape::new(4, 8), 8, 1000);
}

#[test]
fn counters_are_exact_while_their_pages_move_into_the_pool() {
    counters(Shape::new(3, 8).with_pool(16, 20), 6, 20_000);
}

#[test]
fn counters_are_exact_without_holding_time() {
    let mut shape = Shape::new(3, 8);
    shape.options.hold_us = 0;
    counters(shape, 3, 2000);
}

/// Each word has one writer, which counts up; every reader sees it never go back, the writer always its own value.
fn own_words(shape: Shape, rounds: u64) {
    let (nodes, pages) = (usize::from(shape.nodes), shape.pages);
    let cluster = Cluster::start(shape);
    cluster.run(
        LIMIT,
        bodies(nodes, move |cluster, me| {
            let node = &cluster.nodes[me];
            let mut seed = me as u64 + 1;
            let mut mine = vec![0u64; pages as usize];
            let mut seen = vec![vec![0u64; nodes]; pages as usize];
            for _ in 0..rounds {
                seed = seed
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let (page, other) = ((seed >> 33) % pages, (seed >> 20) as usize % nodes);
                let entry = &mut mine[page as usize];
                if seed >> 62 == 0 {
                    *entry += 1;
                    node.word(page, 16 * me).store(*entry, Release);
                }
                assert_eq!(node.read(page, 16 * me), *entry);
                let value = node.word(page, 16 * other).load(Acquire);
                let last = &mut seen[page as usize][other];
                assert!(
                    value >= *last,
                    "page {page}: word of node {other} went back from {last} to {value}"
                );
                *last = value;
            }
            for (page, value) in mine.iter().enumerate() {
                assert_eq!(node.read(page as u64, 16 * me), *value);
            }
        }),
    );
    cluster.stop();
}

#[test]
fn no_word_goes_back_on_four_nodes() {
    own_words(Shape::new(4, 12), 4000);
}

#[test]
fn no_word_goes_back_with_a_small_pool() {
    own_words(Shape::new(3, 24).with_pool(9, 10), 6000);
}

/// Message passing and store buffering over two pages: x86 allows neither outcome here, because the stores of the
/// second shape are exchanges.
fn litmus(shape: Shape, rounds: u64) {
    let cluster = Cluster::start(shape);
    let passing = |cluster: &Cluster, thread: usize| {
        let node = &cluster.nodes[thread];
        for round in 1..=cluster.shape.pages * 50 {
            if thread == 0 {
                node.word(0, 0).store(round, Relaxed);
                node.word(1, 0).store(round, Release);
            } else {
                let flag = node.word(1, 0).load(Acquire);
                let data = node.word(0, 0).load(Relaxed);
                assert!(data >= flag, "flag {flag} but data {data}");
            }
        }
    };
    cluster.run(LIMIT, bodies(2, passing));
    cluster.run(
        LIMIT,
        bodies(2, move |cluster, thread| {
            let node = &cluster.nodes[thread];
            for round in 1..=rounds {
                node.word(2 + thread as u64, 0).swap(round, SeqCst);
                let other = node.word(3 - thread as u64, 0).load(SeqCst);
                node.word(4 + thread as u64, (round % 512) as usize)
                    .store(other + 1, SeqCst);
                // Meet: both must have finished the round before the next one starts.
                node.word(6, 0).fetch_add(1, SeqCst);
                while node.word(6, 0).load(SeqCst) < 2 * round {
                    std::hint::spin_loop();
                }
                let pair =
                    [4, 5].map(|page| node.word(page, (round % 512) as usize).load(SeqCst) - 1);
                assert!(
                    pair.contains(&round),
                    "round {round}: both saw the old value: {pair:?}"
                );
            }
        }),
    );
    cluster.stop();
}

#[test]
fn order_between_pages_is_kept() {
    litmus(Shape::new(2, 8), 500);
}

#[test]
fn order_between_pages_is_kept_in_the_pool() {
    litmus(Shape::new(2, 8).with_pool(8, 10), 2000);
}

/// Copies eight bytes in one instruction: both pages must be there at the same time.
fn copy_word(from: *const u8, to: *mut u8) {
    // SAFETY: both addresses are aligned words inside of a node's mapping, which is never unmapped; the instruction
    // reads one, writes the other, and changes the two registers that are declared.
    unsafe {
        std::arch::asm!("movsq", inout("rsi") from => _, inout("rdi") to => _, options(nostack, preserves_flags));
    }
}

/// Adds one in a word that lies across two pages, in one instruction.
fn add_across(at: *mut u8) {
    // SAFETY: the eight bytes lie inside of a node's mapping, which is never unmapped; nothing else is touched.
    unsafe { std::arch::asm!("add qword ptr [{0}], 1", in(reg) at, options(nostack)) };
}

/// Two nodes, each of which needs the same pages at once, again and again: both must get through.
fn duel(shape: Shape, rounds: u64) {
    let cluster = Cluster::start(shape);
    let start = std::time::Instant::now();
    cluster.run(
        LIMIT,
        bodies(2, move |cluster, me| {
            let node = &cluster.nodes[me];
            let at = |page: u64, word: usize| node.address(page).wrapping_add(word * 8);
            for round in 1..=rounds {
                // Opposite directions, so that each writes the page that the other one reads.
                let (from, to) = if me == 0 { (0, 1) } else { (1, 0) };
                node.write(from, 8 + me, round);
                copy_word(at(from, 8 + me), at(to, 16 + me));
                assert_eq!(node.read(to, 16 + me), round);
                // Longer than the short holding time now and then, so that neither gets everything done at once.
                let pause = std::time::Instant::now();
                while round % 4 == 0 && pause.elapsed() < Duration::from_micros(100) {
                    std::hint::spin_loop();
                }
            }
        }),
    );
    let met = cluster.total("pages_received");
    println!(
        "duel: {rounds} rounds each in {:?}, {met} pages moved",
        start.elapsed()
    );
    assert!(met >= 10, "the nodes hardly met: {met} pages moved");
    cluster.stop();
}

#[test]
fn nodes_that_need_the_same_two_pages_both_progress() {
    duel(Shape::new(2, 4), 4000);
}

#[test]
fn nodes_that_need_the_same_two_pages_both_progress_with_homes_elsewhere() {
    let shape = Shape {
        homes: Some(vec![(4, lev_wire::NodeId(2))]),
        ..Shape::new(3, 4)
    };
    duel(shape, 4000);
}

/// Two nodes work on so many pages at once, each of which stays for `hold_us` when it was granted; returns how many turns they
/// took.
fn siege(pages: u64, rounds: u64, hold_us: u32) -> u64 {
    let mut shape = Shape::new(2, pages);
    shape.options.hold_us = hold_us;
    let cluster = Cluster::start(shape);
    for node in &cluster.nodes {
        node.engine.take_turns(Box::new(|_| Activity {
            asleep: false,
            since_call: Duration::MAX,
            waits: false,
        }));
    }
    cluster.run(
        LIMIT,
        bodies(2, move |cluster, me| {
            for round in 0..rounds * pages {
                cluster.nodes[me]
                    .word(round % pages, 0)
                    .fetch_add(1, SeqCst);
            }
        }),
    );
    let node = &cluster.nodes[1];
    assert!((0..pages).all(|page| node.read(page, 0) == 2 * rounds));
    let turns = cluster.total("turns");
    cluster.stop();
    turns
}

#[test]
fn nodes_that_need_many_pages_take_turns() {
    assert!(siege(20, 20_000, 50) > 0);
}

#[test]
fn nodes_that_need_few_pages_do_not() {
    // Longer than fetching takes on a machine that is busy, or over UCX: else even two pages are fought over.
    assert_eq!(siege(3, 2000, 1000), 0);
}

#[test]
fn accesses_across_pages_are_coherent() {
    let cluster = Cluster::start(Shape::new(3, 8));
    let rounds = 300;
    cluster.run(
        LIMIT,
        bodies(3, move |cluster, me| {
            let node = &cluster.nodes[me];
            // Node n works across pages 2n and 2n+1 alone, and disturbs the pages of the next one.
            let own = node.address(2 * me as u64).wrapping_add(PAGE - 3);
            for _ in 0..rounds {
                add_across(own);
                let next = 2 * ((me as u64 + 1) % 3);
                node.word(next, 1).fetch_add(1, SeqCst);
                node.word(next + 1, 500).fetch_add(1, SeqCst);
            }
        }),
    );
    for (me, node) in cluster.nodes.iter().enumerate() {
        let mut bytes = [0; 8];
        read_bytes(
            &cluster.nodes[(me + 1) % 3],
            2 * me as u64,
            PAGE - 3,
            &mut bytes,
        );
        assert_eq!(u64::from_le_bytes(bytes), rounds);
        assert_eq!(
            (
                node.read(2 * me as u64, 1),
                node.read(2 * me as u64 + 1, 500)
            ),
            (rounds, rounds)
        );
    }
    cluster.stop();
}

fn read_bytes(node: &Node, page: u64, offset: usize, to: &mut [u8]) {
    let from = node.address(page).wrapping_add(offset);
    for (index, byte) in to.iter_mut().enumerate() {
        // SAFETY: the bytes lie inside of the node's mapping, which is never unmapped, and nobody writes them now.
        *byte = unsafe { from.wrapping_add(index).read_volatile() };
    }
}
