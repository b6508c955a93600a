//! Regions of several nodes in one process: what each sees, how they meet, and what a loss does.

use lev_region::{Region, RegionError, Seat, Shape};
use lev_wire::cluster::{Cluster, EngineOptions, Node, Transport};
use lev_wire::NodeId;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

/// Where nobody listens. No port that a seat gave back: the next test in this process may get it, and answers.
const NOBODY: &str = "127.0.0.1:1";

/// What carries the pages: `make test-ucx` runs all of this over UCX, too.
fn transport() -> Transport {
    match std::env::var("LEV_TEST_TRANSPORT").as_deref() {
        Ok("ucx") => Transport::Ucx,
        _ => Transport::Tcp,
    }
}

fn describe(addresses: Vec<String>) -> Cluster {
    let node = |(index, address): (usize, String)| Node {
        name: format!("node{index}"),
        address: Some(address),
        vcpus: vec![],
    };
    Cluster {
        schema: 1,
        run_id: "0123456789abcdef".repeat(2),
        secret: "5a".repeat(32),
        nodes: addresses.into_iter().enumerate().map(node).collect(),
        memory: vec![],
        pool: None,
        encrypt: lev_wire::cluster::Encrypt::Auto,
        transport: transport(),
        engine: EngineOptions::default(),
        events: None,
        report: None,
        kept: Vec::new(),
        trace: None,
    }
}

/// Joins `shapes.len()` nodes at once; each result in order.
fn join(shapes: Vec<Shape>, limit: Duration) -> Vec<Result<Region, RegionError>> {
    let seats: Vec<Seat> = shapes
        .iter()
        .map(|_| Seat::at("127.0.0.1:0").unwrap())
        .collect();
    let cluster = Arc::new(describe(
        seats
            .iter()
            .map(|seat| seat.address().to_string())
            .collect(),
    ));
    let threads: Vec<_> = seats
        .into_iter()
        .zip(shapes)
        .enumerate()
        .map(|(node, (seat, shape))| {
            let cluster = Arc::clone(&cluster);
            std::thread::spawn(move || seat.join(&cluster, NodeId(node as u16), &shape, limit))
        })
        .collect();
    threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect()
}

fn regions(nodes: u16, bytes: u64) -> Vec<Arc<Region>> {
    let shapes = (0..nodes).map(|_| Shape::even(bytes, nodes)).collect();
    join(shapes, LIMIT)
        .into_iter()
        .map(|region| Arc::new(region.unwrap()))
        .collect()
}

/// Runs `body` on every node at once.
fn everywhere(regions: &[Arc<Region>], body: impl Fn(usize, &Region) + Send + Sync + 'static) {
    let body = Arc::new(body);
    let run = |(node, region): (usize, &Arc<Region>)| {
        let (region, body) = (Arc::clone(region), Arc::clone(&body));
        std::thread::spawn(move || body(node, &region))
    };
    let threads: Vec<_> = regions.iter().enumerate().map(run).collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
}

#[test]
fn all_nodes_see_what_each_wrote_and_none_loses_an_addition() {
    let regions = regions(3, 100 * 4096);
    assert!(regions.iter().all(|region| region.len() == 100 * 4096));
    everywhere(&regions, |node, region| {
        for page in (node as u64..100).step_by(3) {
            region
                .word(page * 4096 + 8)
                .unwrap()
                .store(page + 1, Ordering::Release);
        }
        for _ in 0..200 {
            region.word(16).unwrap().fetch_add(1, Ordering::Relaxed);
        }
        region.barrier(LIMIT).unwrap();
        for page in 0..100 {
            assert_eq!(
                region
                    .word(page * 4096 + 8)
                    .unwrap()
                    .load(Ordering::Acquire),
                page + 1
            );
        }
        assert_eq!(region.word(16).unwrap().load(Ordering::Acquire), 600);
        // However they came: asked for, or sent ahead of a fault.
        assert!(region.counters().pages_received > 0);
    });
    everywhere(&regions, |_, region| {
        region.close(LIMIT).unwrap();
        assert!(matches!(region.barrier(LIMIT), Err(RegionError::Closed)));
        assert!(matches!(region.word(0), Err(RegionError::Closed)));
    });
}

#[test]
fn one_node_alone_is_a_region() {
    let regions = regions(1, 5);
    regions[0].word(0).unwrap().store(7, Ordering::Relaxed);
    regions[0].barrier(LIMIT).unwrap();
    regions[0].close(LIMIT).unwrap();
}

#[test]
fn a_place_outside_or_between_words_is_refused_with_its_numbers() {
    let regions = regions(1, 4096);
    for offset in [4096, 4, u64::MAX - 7] {
        let error = regions[0].word(offset).unwrap_err().to_string();
        assert!(
            error.contains(&offset.to_string()) && error.contains("4096"),
            "{error}"
        );
    }
}

#[test]
fn nodes_that_disagree_about_the_shape_do_not_come_together() {
    let results = join(vec![Shape::even(4096, 2), Shape::even(8192, 2)], LIMIT);
    for result in results {
        let error = result.err().expect("must not join").to_string();
        assert!(error.contains("lost") || error.contains("size"), "{error}");
    }
}

#[test]
fn a_node_that_does_not_come_is_named() {
    let seat = Seat::at("127.0.0.1:0").unwrap();
    let cluster = describe(vec![NOBODY.into(), seat.address().to_string()]);
    let result = seat.join(
        &cluster,
        NodeId(1),
        &Shape::even(4096, 2),
        Duration::from_millis(300),
    );
    let error = result.err().expect("must not join");
    assert!(
        matches!(&error, RegionError::Missing { nodes, .. } if nodes == &[NodeId(0)]),
        "{error}"
    );
}

#[test]
fn who_never_comes_is_the_only_one_that_is_named() {
    let mut seats: Vec<Option<Seat>> = (0..5)
        .map(|_| Some(Seat::at("127.0.0.1:0").unwrap()))
        .collect();
    seats[2] = None; // killed before it joins
    let address = |seat: &Option<Seat>| match seat {
        Some(seat) => seat.address().to_string(),
        None => NOBODY.to_string(),
    };
    let cluster = describe(seats.iter().map(address).collect());
    std::thread::scope(|scope| {
        for (node, seat) in seats.into_iter().enumerate() {
            let (Some(seat), cluster) = (seat, &cluster) else {
                continue;
            };
            scope.spawn(move || {
                let shape = Shape::even(4096 * 5, 5);
                let limit = Duration::from_secs(2);
                let joined = seat.join(cluster, NodeId(node as u16), &shape, limit);
                let error = joined.err().expect("must not join");
                let right = match &error {
                    RegionError::Missing { nodes, .. } => nodes == &[NodeId(2)],
                    RegionError::Channel { node, .. } => *node == Some(NodeId(2)),
                    _ => false,
                };
                assert!(right, "node{node}: {error}");
            });
        }
    });
}

#[test]
fn all_that_do_not_come_are_named() {
    let first = Seat::at("127.0.0.1:0").unwrap();
    let cluster = describe(vec![
        first.address().to_string(),
        NOBODY.into(),
        NOBODY.into(),
    ]);
    let limit = Duration::from_millis(700);
    let error = first.join(&cluster, NodeId(0), &Shape::even(4096 * 3, 3), limit);
    let error = error.err().expect("must not join").to_string();
    assert!(
        error.starts_with("node1, node2 did not come to the region"),
        "{error}"
    );
}

#[test]
fn a_lost_node_ends_waits_and_is_named() {
    let mut regions = regions(3, 4096 * 9);
    drop(regions.remove(1)); // without goodbye, like a process that dies
    everywhere(&regions, |_, region| {
        let error = region.barrier(LIMIT).unwrap_err();
        assert!(matches!(error, RegionError::Lost { .. }), "{error}");
        assert!(region.word(0).is_err());
        assert!(region.close(LIMIT).is_err());
    });
}

#[test]
fn everybody_names_the_node_that_was_lost_and_not_who_noticed_it_first() {
    for _ in 0..10 {
        let mut regions = regions(5, 4096 * 10);
        drop(regions.remove(3));
        everywhere(&regions, |_, region| {
            let error = region.barrier(LIMIT).unwrap_err();
            assert!(error.to_string().starts_with("node3 is lost"), "{error}");
        });
    }
}

#[test]
fn a_node_that_ends_while_others_still_work_is_lost_though_it_has_said_goodbye() {
    let regions = regions(2, 4096 * 2);
    regions[1].word(4096).unwrap().store(7, Ordering::Release);
    let left = regions[1].close(Duration::from_millis(50)); // node 0 does not leave
    assert!(matches!(left, Err(RegionError::Missing { .. })));
    let start = std::time::Instant::now();
    while regions[0].check().is_ok() && start.elapsed() < LIMIT {
        std::thread::sleep(Duration::from_millis(1));
    }
    let error = regions[0].word(4096).unwrap_err();
    assert!(error.to_string().starts_with("node1 is lost"), "{error}");
}
