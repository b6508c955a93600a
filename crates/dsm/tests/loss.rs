//! A node is lost: what it alone had is gone and whoever wants it is told, everything else goes on.

mod cluster;

use cluster::{Body, Cluster, Shape};
use lev_wire::NodeId;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(30);

fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// All pages are at home on the head; node 2 will be lost.
fn three(pages: u64) -> Shape {
    Shape {
        homes: Some(vec![(pages, NodeId(0))]),
        may_fail: true,
        ..Shape::new(3, pages)
    }
}

#[test]
fn what_others_have_survives() {
    let mut shape = three(64);
    shape.options.zero_block = 1; // untouched pages given to a node that did not ask would be lost with it
    let cluster = Cluster::start(shape);
    cluster.run(
        LIMIT,
        vec![Box::new(|cluster: &Cluster| {
            let [head, one, two] = [0, 1, 2].map(|node| &cluster.nodes[node]);
            (0..32).for_each(|page| two.write(page, 0, page + 1));
            // The head has read some, node 1 has others, node 2 the rest alone.
            (0..8).for_each(|page| assert_eq!(head.read(page, 0), page + 1));
            (8..16).for_each(|page| one.write(page, 1, page + 2));
            two.cut();
            for node in [head, one] {
                eventually("nobody noticed", || {
                    node.engine.describe_unsettled(1).is_empty()
                });
            }
            (0..8).for_each(|page| assert_eq!(one.read(page, 0), page + 1));
            (0..8).for_each(|page| one.write(page, 0, 7));
            assert!((0..8).all(|page| head.read(page, 0) == 7));
            assert!((8..16).all(|page| head.read(page, 0) == page + 1));
            assert!((8..16).all(|page| head.read(page, 1) == page + 2));
            one.write(40, 0, 3); // never touched before
            assert_eq!(head.read(40, 0), 3);
            assert!(head.fatal.lock().unwrap().is_empty());
        })],
    );
    cluster.stop();
}

#[test]
fn who_wants_what_is_gone_is_told() {
    let cluster = Cluster::start(three(64));
    let waits: Body = Box::new(|cluster: &Cluster| {
        let [head, one, two] = [0, 1, 2].map(|node| &cluster.nodes[node]);
        two.write(20, 0, 1);
        two.cut();
        std::thread::sleep(Duration::from_millis(100));
        let _ = one.read(20, 0); // ends when the engine is stopped
        let said = one.fatal.lock().unwrap().clone();
        assert_eq!(said, ["guest memory was lost together with node2"]);
        assert!(head.fatal.lock().unwrap().is_empty());
    });
    let stops: Body = Box::new(|cluster: &Cluster| {
        let one = &cluster.nodes[1];
        eventually("nobody was told", || !one.fatal.lock().unwrap().is_empty());
        one.engine.stop();
    });
    cluster.run(LIMIT, vec![waits, stops]);
    cluster.stop();
}

#[test]
fn who_waits_for_a_lost_home_is_told() {
    let shape = Shape {
        homes: Some(vec![(64, NodeId(2))]),
        may_fail: true,
        ..Shape::new(3, 64)
    };
    let cluster = Cluster::start(shape);
    let waits: Body = Box::new(|cluster: &Cluster| {
        cluster.nodes[1].write(3, 0, 9);
        cluster.nodes[2].cut();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(cluster.nodes[1].read(3, 0), 9); // it has the page
        cluster.nodes[1]
            .engine
            .discard(cluster.nodes[1].address(5), cluster::PAGE); // returns
        let _ = cluster.nodes[0].read(3, 0); // who has it, only the home knew
    });
    let stops: Body = Box::new(|cluster: &Cluster| {
        let head = &cluster.nodes[0];
        eventually("nobody was told", || !head.fatal.lock().unwrap().is_empty());
        head.engine.stop();
    });
    cluster.run(LIMIT, vec![waits, stops]);
    cluster.stop();
}

/// Nodes work on the same pages when one of them dies: the others get on, or are told; nobody hangs.
#[test]
fn a_node_dies_in_the_middle_of_everything() {
    for round in 0..20u64 {
        let cluster = Cluster::start(three(16).with_pool(if round % 2 == 0 { 0 } else { 8 }, 40));
        let work = move |me: usize| -> Body {
            Box::new(move |cluster: &Cluster| {
                let node = &cluster.nodes[me];
                let mut seed = round * 3 + me as u64;
                for _ in 0..100_000 {
                    seed = seed
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    if !node.fatal.lock().unwrap().is_empty() {
                        return;
                    }
                    let (page, word) = ((seed >> 33) % 16, 8 * me);
                    node.write(page, word, node.read(page, word) + 1);
                }
            })
        };
        let kill: Body = Box::new(move |cluster: &Cluster| {
            std::thread::sleep(Duration::from_millis(5 + round * 3));
            cluster.nodes[2].cut();
            // What is told of is ended, as the owner of the engine would.
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(300) {
                for node in &cluster.nodes {
                    if !node.fatal.lock().unwrap().is_empty() {
                        node.engine.stop();
                    }
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            cluster.stop();
        });
        cluster.run(LIMIT, vec![work(0), work(1), work(2), kill]);
    }
}
