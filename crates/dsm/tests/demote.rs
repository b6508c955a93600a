//! More hot pages than the pool has slots: pages leave it and come back, and nobody ever sees anything but the last write.

mod cluster;

use cluster::{Body, Cluster, Shape, PAGE};
use lev_dsm::Backing;
use lev_wire::NodeId;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);
/// A word that every page has, and that nobody changes.
const MARK: usize = 511;

fn mark(page: u64) -> u64 {
    0xFEED_0000 + page
}

/// Pages stay in the pool for 5 ms at least; they get a slot again if they want one twice within that time.
fn shape(nodes: u16, pages: u64, slots: u64) -> Shape {
    let mut shape = Shape::new(nodes, pages).with_pool(slots, 2);
    shape.options.demote_after_ms = 5;
    shape
}

fn random(seed: &mut u64, below: u64) -> u64 {
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % below
}

fn run(cluster: &Arc<Cluster>, body: impl FnOnce(&Cluster) + Send + 'static) {
    cluster.run(LIMIT, vec![Box::new(body)]);
    cluster.stop();
}

/// Two nodes write the page in turn until it has moved into the pool, or not.
fn bounce(cluster: &Cluster, page: u64, times: u64) {
    for time in 0..times {
        for node in &cluster.nodes[..2] {
            node.write(page, 1, time);
        }
    }
}

/// Mappings of this process that lie in a node's guest memory.
fn mappings(cluster: &Cluster, node: usize) -> usize {
    let base = cluster.nodes[node].base;
    let memory = base..base + cluster.shape.pages * PAGE as u64;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let inside = |line: &&str| {
        let start = line.split('-').next().unwrap();
        memory.contains(&u64::from_str_radix(start, 16).unwrap())
    };
    maps.lines().filter(inside).count()
}

#[test]
fn a_random_program_matches_the_oracle() {
    for (nodes, slots, stripes, backing) in [
        (2, 4, 1, Backing::Anonymous),
        (3, 6, 3, Backing::Anonymous),
        (2, 4, 2, Backing::Shmem),
    ] {
        let mut shape = Shape {
            backing,
            ..shape(nodes, 40, slots)
        };
        shape.options.stripes = stripes;
        run(&Cluster::start(shape), move |cluster| {
            let (mut oracle, mut seed) = (HashMap::new(), 1);
            let end = Instant::now() + Duration::from_secs(3);
            let mut step = 0;
            while step < 8000 || (cluster.total("pages_demoted") < 200 && Instant::now() < end) {
                step += 1;
                let node = &cluster.nodes[random(&mut seed, nodes.into()) as usize];
                let (page, index) = (random(&mut seed, 40), random(&mut seed, 512) as usize);
                match random(&mut seed, 20) {
                    0..=8 => {
                        node.write(page, index, step);
                        oracle.insert((page, index), step);
                    }
                    9 if step % 8 == 0 => {
                        node.engine.discard(node.address(page), PAGE);
                        oracle.retain(|(other, _), _| *other != page);
                    }
                    _ => {
                        let expected = oracle.get(&(page, index)).copied().unwrap_or(0);
                        let found = node.read(page, index);
                        assert_eq!(found, expected, "step {step}, page {page}, word {index}");
                    }
                }
            }
            let (left, back) = (cluster.total("pages_demoted"), cluster.total("promotions"));
            println!("{nodes} nodes, {backing:?}: {step} steps, {left} pages left the pool");
            assert!(left >= 20 && back >= left, "{left} left, {back} moved in");
            for page in 0..40 {
                for node in &cluster.nodes {
                    let expected = oracle.get(&(page, 3)).copied().unwrap_or(0);
                    assert_eq!(node.read(page, 3), expected);
                }
            }
        });
    }
}

/// A thread of a node that adds to words of its own, checks that nobody else has changed them, and that marks are there.
fn adder(
    node: usize,
    word: usize,
    pages: u64,
    until: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
) -> Body {
    Box::new(move |cluster: &Cluster| {
        let (mut mine, mut seed) = (vec![0u64; pages as usize], word as u64 + 17);
        let node = &cluster.nodes[node];
        while !until.load(Ordering::Relaxed) {
            let page = random(&mut seed, pages);
            let count = &mut mine[page as usize];
            for _ in 0..20 {
                assert_eq!(node.read(page, MARK), mark(page), "page {page}");
                assert_eq!(node.read(page, word), *count, "page {page}, word {word}");
                *count += 1;
                node.write(page, word, *count);
            }
            // All threads of all nodes add to this one.
            node.word(page, 0).fetch_add(1, Ordering::SeqCst);
            rounds.fetch_add(1, Ordering::Relaxed);
        }
        for (page, count) in mine.iter().enumerate() {
            assert_eq!(node.read(page as u64, word), *count);
        }
    })
}

fn stop_when(
    done: impl Fn(&Cluster) -> bool + Send + 'static,
    most: Duration,
    until: Arc<AtomicBool>,
) -> Body {
    Box::new(move |cluster: &Cluster| {
        let end = Instant::now() + most;
        while !done(cluster) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        until.store(true, Ordering::Relaxed);
    })
}

fn hammer(shape: Shape, pages: u64, left: u64) {
    let nodes = usize::from(shape.nodes);
    let cluster = Cluster::start(shape);
    let (until, rounds) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    (0..pages).for_each(|page| cluster.nodes[0].write(page, MARK, mark(page)));
    let mut bodies: Vec<Body> = (0..2 * nodes)
        .map(|thread| {
            let (until, rounds) = (Arc::clone(&until), Arc::clone(&rounds));
            adder(thread / 2, thread + 1, pages, until, rounds)
        })
        .collect();
    let enough = move |cluster: &Cluster| cluster.total("pages_demoted") >= left;
    bodies.push(stop_when(enough, Duration::from_secs(20), until));
    cluster.run(LIMIT, bodies);
    let sum: u64 = (0..pages).map(|page| cluster.nodes[1].read(page, 0)).sum();
    let gone = cluster.total("pages_demoted");
    println!("{nodes} nodes: {sum} rounds, {gone} pages left the pool");
    assert_eq!(sum, rounds.load(Ordering::Relaxed));
    assert!(gone >= left, "only {gone} pages left");
    assert!(cluster
        .nodes
        .iter()
        .all(|node| node.fatal.lock().unwrap().is_empty()));
    cluster.stop();
}

#[test]
fn threads_that_write_all_the_time_lose_nothing() {
    hammer(shape(2, 24, 6), 24, 100);
    hammer(shape(3, 24, 6), 24, 100);
    hammer(
        Shape {
            backing: Backing::Shmem,
            ..shape(2, 24, 6)
        },
        24,
        100,
    );
}

#[test]
fn the_same_with_little_memory_on_each_node() {
    hammer(shape(3, 600, 12).with_limit(256), 600, 20);
}

#[test]
fn discards_meet_pages_that_leave() {
    const PAGES: u64 = 24;
    let cluster = Cluster::start(shape(2, PAGES, 4));
    let until = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&until);
    // Of each page one node writes growing numbers and discards it now and then, in between all write another word.
    let writer = |own: u64, until: Arc<AtomicBool>| -> Body {
        Box::new(move |cluster: &Cluster| {
            let (node, mut seed) = (&cluster.nodes[own as usize], own + 5);
            let mut latest = [0u64; PAGES as usize];
            let mut number = 0;
            while !until.load(Ordering::Relaxed) {
                let page = random(&mut seed, PAGES);
                if page % 2 != own {
                    node.write(page, 9, 1);
                    continue;
                }
                let found = node.read(page, 0);
                assert_eq!(found, latest[page as usize], "page {page}");
                number += 1;
                latest[page as usize] = if random(&mut seed, 10) == 0 {
                    node.engine.discard(node.address(page), PAGE);
                    0
                } else {
                    node.write(page, 0, number);
                    number
                };
            }
        })
    };
    let enough = |cluster: &Cluster| cluster.total("pages_demoted") >= 100;
    let bodies = vec![
        writer(0, Arc::clone(&until)),
        writer(1, Arc::clone(&until)),
        stop_when(enough, Duration::from_secs(20), stop),
    ];
    cluster.run(LIMIT, bodies);
    assert!(cluster.total("pages_demoted") >= 100 && cluster.total("discards") > 10);
    cluster.stop();
}

#[test]
fn what_takes_the_place_of_slots_joins_its_neighbours() {
    for backing in [Backing::Anonymous, Backing::Shmem] {
        let shape = Shape {
            backing,
            homes: Some(vec![(512, NodeId(0))]),
            ..shape(2, 512, 16)
        };
        run(&Cluster::start(shape), move |cluster| {
            let before = [0, 1].map(|node| mappings(cluster, node));
            // One page after the other, all with a neighbour that stays out; the head's part of the pool has 8 slots.
            for round in 0..6 {
                for page in (0..512).step_by(2) {
                    bounce(cluster, page, 8);
                    assert_eq!(cluster.nodes[round % 2].read(page, 1), 7);
                    std::thread::sleep(Duration::from_micros(200));
                }
            }
            let left = cluster.total("pages_demoted");
            let pooled = cluster.nodes[0].counter("pool_pages") as usize;
            assert!(left > 200 && pooled <= 8, "{left} left, {pooled} are there");
            for (node, before) in before.iter().enumerate() {
                let now = mappings(cluster, node);
                println!(
                    "{backing:?}, node {node}: {before} mappings, {now} after {left} pages left"
                );
                assert!(now <= before + 2 * 8, "{now} mappings");
            }
            // Runs of pages go across all of them.
            (0..512).for_each(|page| cluster.nodes[0].write(page, 2, page + 1));
            assert!((0..512).all(|page| cluster.nodes[1].read(page, 2) == page + 1));
        });
    }
}

#[test]
fn pages_stay_where_that_is_switched_off() {
    let mut shape = shape(2, 40, 4);
    shape.options.demote_after_ms = 0;
    run(&Cluster::start(shape), |cluster| {
        for _ in 0..20 {
            (0..40).for_each(|page| bounce(cluster, page, 3));
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(cluster.total("promotions"), 4);
        assert_eq!(cluster.total("pages_demoted"), 0);
        assert_eq!(cluster.total("pool_free"), 0);
    });
}

#[test]
fn engines_stop_while_pages_leave() {
    for round in 0..10 {
        let mut shape = shape(2, 24, 4);
        shape.options.stripes = 2;
        let cluster = Cluster::start(shape);
        let until = Arc::new(AtomicBool::new(false));
        let worker = |number: usize, until: Arc<AtomicBool>| -> Body {
            Box::new(move |cluster: &Cluster| {
                let mut seed = number as u64;
                while !until.load(Ordering::Relaxed) {
                    let page = random(&mut seed, 24);
                    cluster.nodes[number % 2].write(page, number, 1);
                }
            })
        };
        let mut bodies: Vec<Body> = (0..4)
            .map(|thread| worker(thread, Arc::clone(&until)))
            .collect();
        bodies.push(Box::new(move |cluster: &Cluster| {
            let end = Instant::now() + Duration::from_secs(20);
            while cluster.total("pages_demoted") < 10 && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(round));
            assert!(cluster.total("pages_demoted") >= 10);
            cluster.stop();
            until.store(true, Ordering::Relaxed);
        }));
        cluster.run(LIMIT, bodies);
    }
}

#[test]
fn a_node_may_be_lost_while_pages_leave() {
    const PAGES: u64 = 24;
    let shape = Shape {
        homes: Some(vec![(PAGES, NodeId(0))]),
        may_fail: true,
        ..shape(3, PAGES, 12)
    };
    let cluster = Cluster::start(shape);
    (0..PAGES).for_each(|page| cluster.nodes[0].write(page, MARK, mark(page)));
    let until = Arc::new(AtomicBool::new(false));
    let worker = |number: usize, until: Arc<AtomicBool>| -> Body {
        Box::new(move |cluster: &Cluster| {
            let (node, mut seed) = (&cluster.nodes[number], number as u64);
            let alone = |page: u64| number == 2 || page % 2 == 1;
            while !until.load(Ordering::Relaxed) {
                let page = random(&mut seed, PAGES);
                // What the lost node alone had is gone, so it only reads: copies and the pool survive.
                if number != 2 && alone(page) {
                    node.word(page, number).fetch_add(1, Ordering::Relaxed);
                }
                assert_eq!(node.read(page, MARK), mark(page), "page {page}");
            }
        })
    };
    let mut bodies: Vec<Body> = (0..2)
        .map(|node| worker(node, Arc::clone(&until)))
        .collect();
    let third = Arc::new(AtomicBool::new(false));
    bodies.push(worker(2, Arc::clone(&third)));
    bodies.push(Box::new(move |cluster: &Cluster| {
        let left = |more: u64| {
            let (from, end) = (
                cluster.total("pages_demoted"),
                Instant::now() + Duration::from_secs(20),
            );
            while cluster.total("pages_demoted") < from + more {
                assert!(Instant::now() < end, "pages leave no more");
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        left(30);
        third.store(true, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(50));
        cluster.nodes[2].cut();
        left(30);
        until.store(true, Ordering::Relaxed);
    }));
    cluster.run(LIMIT, bodies);
    assert!((0..PAGES).all(|page| cluster.nodes[0].read(page, MARK) == mark(page)));
    assert!(cluster.nodes[0].fatal.lock().unwrap().is_empty());
    cluster.stop();
}

/// Two nodes use hot pages, more than the pool has slots for: accesses a second, and faults that needed another node in a
/// thousand accesses.
fn rate(stay_ms: u32, hot: u64, phase: Option<Duration>) -> (u64, u64) {
    const TIME: Duration = Duration::from_secs(2);
    let pages = hot * phase.map_or(1, |phase| TIME.as_millis() / phase.as_millis()) as u64 + hot;
    let mut shape = Shape {
        homes: Some(
            (0..pages)
                .map(|page| (1, NodeId(page as u16 % 2)))
                .collect(),
        ),
        ..shape(2, pages, 16)
    };
    shape.options.demote_after_ms = stay_ms;
    let cluster = Cluster::start(shape);
    let count = Arc::new(AtomicU64::new(0));
    let worker = |number: usize, count: Arc<AtomicU64>| -> Body {
        Box::new(move |cluster: &Cluster| {
            let (start, mut seed) = (Instant::now(), number as u64);
            while start.elapsed() < TIME {
                let phase =
                    phase.map_or(0, |phase| start.elapsed().as_millis() / phase.as_millis());
                let page = phase as u64 * hot + random(&mut seed, hot);
                cluster.nodes[number]
                    .word(page, 0)
                    .fetch_add(1, Ordering::Relaxed);
                count.fetch_add(1, Ordering::Relaxed);
                let work = Instant::now();
                while work.elapsed() < Duration::from_micros(20) {
                    std::hint::spin_loop();
                }
            }
        })
    };
    let bodies = (0..2)
        .map(|node| worker(node, Arc::clone(&count)))
        .collect();
    cluster.run(LIMIT, bodies);
    let faults = ["faults_read", "faults_write", "faults_upgrade"].map(|name| cluster.total(name));
    cluster.stop();
    let count = count.load(Ordering::Relaxed);
    (
        count / TIME.as_secs(),
        faults.iter().sum::<u64>() * 1000 / count,
    )
}

#[test]
#[ignore = "two minutes; prints what leaving gains here"]
fn figures() {
    const STAYS_MS: [u32; 3] = [0, 1, 10];
    for (name, hot, phase) in [
        ("all pages equally hot", 32, None),
        ("other pages each second", 16, Some(1000)),
        ("other pages each 300 ms", 16, Some(300)),
        ("other pages each 50 ms", 16, Some(50)),
    ] {
        // In turn, because machines do not stay equally fast.
        let rounds = [(); 4]
            .map(|()| STAYS_MS.map(|stay_ms| rate(stay_ms, hot, phase.map(Duration::from_millis))));
        for (index, stay_ms) in STAYS_MS.iter().enumerate() {
            let rates = rounds.map(|round| round[index]);
            println!("{name}, {stay_ms} ms: {rates:?} (accesses a second, faults in 1000)");
        }
    }
}
