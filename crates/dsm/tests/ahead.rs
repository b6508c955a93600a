//! Pages that come along with one that was asked for: how many messages they save, whom they go to, and that memory
//! stays coherent when all nodes touch untouched memory at once, again and again.

mod cluster;

use cluster::{Body, Cluster, Node, Shape};
use lev_wire::NodeId;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

/// Two nodes; all pages are at home on the second one.
fn elsewhere(pages: u64) -> Shape {
    Shape {
        homes: Some(vec![(pages, NodeId(1))]),
        ..Shape::new(2, pages)
    }
}

fn run(cluster: &Arc<Cluster>, body: impl FnOnce(&Cluster) + Send + 'static) {
    cluster.run(LIMIT, vec![Box::new(body)]);
    cluster.stop();
}

/// The node has filled so many pages with zeroes. Threads that wait for a page go on before it is counted.
fn filled(node: &Node, pages: u64) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while node.engine.counters().pages_zero_filled != pages && Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert_eq!(node.engine.counters().pages_zero_filled, pages);
}

#[test]
fn memory_touched_in_order_comes_in_blocks() {
    run(&Cluster::start(elsewhere(4096)), |cluster| {
        let (head, home) = (&cluster.nodes[0], &cluster.nodes[1]);
        (0..4096).for_each(|page| head.write(page, 3, page + 1));
        let counters = head.engine.counters();
        assert!(
            counters.faults_write < 32,
            "{} requests for 4096 pages",
            counters.faults_write
        );
        filled(head, 4096);
        // A thread may ask for a page that is on its way, so that the sum can be more.
        assert!(home.engine.counters().zero_range_pages + counters.faults_write >= 4096);
        assert!((0..4096).all(|page| home.read(page, 3) == page + 1));
    });
}

#[test]
fn a_lone_touch_gets_a_few_pages_only() {
    run(&Cluster::start(elsewhere(1 << 16)), |cluster| {
        let (head, home) = (&cluster.nodes[0], &cluster.nodes[1]);
        (0..1 << 16)
            .step_by(4096)
            .for_each(|page| assert_eq!(head.read(page + 100, 0), 0));
        assert_eq!(home.engine.counters().zero_range_pages, 16 * 15);
        filled(head, 16 * 16);
        home.write(112, 0, 5); // the first one after them is still the home's
        assert_eq!(head.engine.counters().invalidations, 0);
        assert_eq!(head.read(112, 0), 5);
    });
}

#[test]
fn a_run_ends_at_the_first_page_that_somebody_has() {
    let mut shape = elsewhere(1024);
    shape.options.zero_block = 64;
    shape.before = vec![(30, 7), (70, 8)];
    run(&Cluster::start(shape), |cluster| {
        let head = &cluster.nodes[0];
        let requests = |pages: &[u64]| {
            pages.iter().for_each(|page| head.write(*page, 1, 1));
            head.engine.counters().faults_write
        };
        assert_eq!(requests(&[16, 17, 29]), 1); // 16..30
        assert_eq!(requests(&[31, 15]), 3); // upwards: 31..63, downwards: 0..16
        assert_eq!(requests(&[60, 63]), 4); // 63..70
        assert_eq!(requests(&[71, 127, 64, 69]), 5); // 71..135
        assert_eq!((head.read(30, 0), head.read(70, 0)), (7, 8));
    });
}

#[test]
fn switched_off_each_page_is_asked_for() {
    let mut shape = elsewhere(64);
    shape.options.zero_block = 1;
    run(&Cluster::start(shape), |cluster| {
        (0..64).for_each(|page| cluster.nodes[0].write(page, 0, 1));
        assert_eq!(cluster.nodes[0].engine.counters().faults_write, 64);
        assert_eq!(cluster.total("zero_range_pages"), 0);
    });
}

/// All pages at home on the head, with contents from before.
fn loaded(nodes: u16, pages: u64) -> Shape {
    Shape {
        homes: Some(vec![(pages, NodeId(0))]),
        before: (0..pages).map(|page| (page, page + 1)).collect(),
        ..Shape::new(nodes, pages)
    }
}

/// Everything that the home sends because of what `reader` has asked for so far is in place: it handles one frame of a peer
/// after the other, so the answer to a question about a page that nobody has comes last.
fn arrived(reader: &Node, untouched: u64) {
    let len = lev_wire::PAGE_SIZE;
    reader.engine.discard(reader.address(untouched), len);
}

#[test]
fn memory_read_in_order_comes_in_groups() {
    let mut shape = loaded(2, 1024);
    (shape.pages, shape.homes) = (1025, Some(vec![(1025, NodeId(0))]));
    run(&Cluster::start(shape), |cluster| {
        let (home, reader) = (&cluster.nodes[0], &cluster.nodes[1]);
        for page in 0..1024 {
            assert_eq!(reader.read(page, 0), page + 1);
            // Whoever reads faster than that overtakes copies that are on their way, and asks for them.
            arrived(reader, 1024);
        }
        let faults = reader.engine.counters().faults_read;
        // Groups of 1, 4, 16, 64 pages, three of 256, and the rest.
        assert_eq!(
            (faults, home.engine.counters().read_ahead_sent),
            (8, 1024 - 8)
        );
        // Copies that nobody asked for are as coherent as others.
        (0..1024).for_each(|page| home.write(page, 0, page + 2));
        assert!((0..1024).all(|page| reader.read(page, 0) == page + 2));
        (0..1024).for_each(|page| reader.write(page, 1, 3));
        assert!((0..1024).all(|page| (home.read(page, 0), home.read(page, 1)) == (page + 2, 3)));
    });
}

#[test]
fn scattered_reads_bring_nothing_along() {
    run(&Cluster::start(loaded(2, 2048)), |cluster| {
        for page in (0..2048).step_by(64) {
            assert_eq!(cluster.nodes[1].read(page, 0), page + 1);
        }
        assert_eq!(cluster.total("read_ahead_sent"), 0);
    });
}

#[test]
fn read_ahead_can_be_switched_off() {
    let mut shape = loaded(2, 64);
    shape.options.read_ahead = 0;
    run(&Cluster::start(shape), |cluster| {
        assert!((0..64).all(|page| cluster.nodes[1].read(page, 0) == page + 1));
        assert_eq!(cluster.nodes[1].engine.counters().faults_read, 64);
        assert_eq!(cluster.total("read_ahead_sent"), 0);
    });
}

#[test]
fn empty_and_bouncing_pages_stay_where_they_are() {
    let shape = Shape {
        before: vec![],
        ..loaded(2, 64)
    };
    run(&Cluster::start(shape), |cluster| {
        let (home, reader) = (&cluster.nodes[0], &cluster.nodes[1]);
        // The home has all 64 pages, but something is only in the first half, and page 5 has been elsewhere.
        (0..32).for_each(|page| home.write(page, 0, page + 1));
        reader.write(5, 1, 1);
        home.write(5, 1, 2);
        std::thread::sleep(Duration::from_millis(2)); // nothing is held any more
        let upgrades = |pages: std::ops::Range<u64>| {
            let before = home.engine.counters().faults_upgrade;
            pages.for_each(|page| home.write(page, 2, 9));
            home.engine.counters().faults_upgrade - before
        };
        for page in [0, 1, 2, 16, 32, 33, 34, 48] {
            assert_eq!(reader.read(page, 0), if page < 32 { page + 1 } else { 0 });
        }
        assert_eq!(upgrades(5..6), 0);
        assert_eq!(upgrades(32..64), 4); // those that were asked for
        assert_eq!(upgrades(16..32), 16);
    });
}

/// The home changes its pages all the time while others read them in order: no word goes back.
#[test]
fn nobody_who_reads_ahead_reads_old_words() {
    let (pages, scans) = (192, 40);
    let cluster = Cluster::start(loaded(3, pages));
    let body = move |cluster: &Cluster, me: usize| {
        let node = &cluster.nodes[me];
        let mut seen: Vec<u64> = (1..=pages).collect();
        for scan in 0..scans {
            for page in 0..pages {
                if me == 0 && (page * 7 + scan) % 5 == 0 {
                    // Other words of the page, too, so that a torn or old page shows.
                    let value = node.read(page, 0) + 1;
                    node.word(page, 511).store(value, Release);
                    node.word(page, 0).store(value, Release);
                }
                let value = node.word(page, 0).load(Acquire);
                let last = node.word(page, 511).load(Acquire);
                let seen = &mut seen[page as usize];
                assert!(value >= *seen, "page {page} went back to {value}");
                assert!(
                    last >= value || last == 0,
                    "page {page}: {value} before {last}"
                );
                *seen = value;
            }
        }
    };
    let body = Arc::new(body);
    let bodies = (0..3).map(|me| {
        let body = Arc::clone(&body);
        Box::new(move |cluster: &Cluster| body(cluster, me)) as Body
    });
    cluster.run(LIMIT, bodies.collect());
    assert!(cluster.total("read_ahead_sent") > 0);
    cluster.stop();
}

/// Every thread has a word in each page. All touch everything in their own order, at first alone and then again to look
/// at the others; then each compares everything with what was written, and one node discards it all, and everybody must see zeroes.
fn rounds_of_first_touches(mut shape: Shape, threads: usize, rounds: u64) {
    shape.options.zero_block = 32; // so that nobody gets everything at once
    let (nodes, pages) = (usize::from(shape.nodes), shape.pages);
    let cluster = Cluster::start(shape);
    let barrier = Arc::new(Barrier::new(threads));
    let written = Arc::new(Mutex::new(vec![vec![0; pages as usize]; threads]));
    let body = move |cluster: &Cluster, me: usize, barrier: &Barrier| {
        let node = &cluster.nodes[me % nodes];
        let mut seed = me as u64 * 7 + 1;
        let mut random = move |below: u64| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for round in 1..=rounds {
            // In order from somewhere, or at random; a part of the pages, so that some stay untouched.
            let (first, in_order) = (random(pages), random(2) == 0);
            let mut mine = vec![0u64; pages as usize];
            for step in 0..pages / 2 {
                let page = match in_order {
                    true => (first + step) % pages,
                    false => random(pages),
                };
                if random(3) > 0 {
                    mine[page as usize] = round * 1000 + step;
                    node.word(page, me * 8).store(mine[page as usize], Release);
                }
                assert_eq!(node.word(page, me * 8).load(Acquire), mine[page as usize]);
                let other = random(threads as u64) as usize;
                let value = node.word(page, other * 8).load(Acquire);
                assert!(
                    value == 0 || value / 1000 == round,
                    "page {page}, round {round}: {value} of another round"
                );
            }
            barrier.wait();
            written.lock().unwrap()[me] = mine;
            barrier.wait();
            let expected = written.lock().unwrap().clone();
            for page in (0..pages).map(|page| (first + page) % pages) {
                for (other, expected) in expected.iter().enumerate() {
                    assert_eq!(node.read(page, other * 8), expected[page as usize]);
                }
            }
            barrier.wait();
            if me as u64 == round % threads as u64 {
                node.engine
                    .discard(node.address(0), pages as usize * cluster::PAGE);
            }
            barrier.wait();
            let sample = random(pages);
            assert!((0..threads).all(|other| node.read(sample, other * 8) == 0));
            barrier.wait();
        }
    };
    let body = Arc::new(body);
    let bodies = (0..threads).map(|me| {
        let (body, barrier) = (Arc::clone(&body), Arc::clone(&barrier));
        Box::new(move |cluster: &Cluster| body(cluster, me, &barrier)) as Body
    });
    cluster.run(LIMIT, bodies.collect());
    assert!(cluster.total("zero_range_pages") > 0 && cluster.total("read_ahead_sent") > 0);
    cluster.stop();
}

#[test]
fn first_touches_of_two_nodes_are_coherent() {
    rounds_of_first_touches(elsewhere(300), 4, 30);
}

#[test]
fn first_touches_of_three_nodes_with_a_pool_are_coherent() {
    rounds_of_first_touches(Shape::new(3, 260).with_pool(64, 4), 3, 30);
}

#[test]
fn first_touches_of_four_nodes_are_coherent() {
    let mut shape = Shape::new(4, 200);
    shape.options.hold_us = 0;
    rounds_of_first_touches(shape, 8, 12);
}
