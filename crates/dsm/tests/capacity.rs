//! Memory of a cluster is the sum of what its nodes give: limits are kept, contents survive every move, and when there
//! is no room anywhere the guest waits.

mod cluster;

use cluster::{Body, Cluster, Shape, PAGE};
use lev_dsm::{Backing, RoomEvent};
use lev_wire::NodeId;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longer than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(1800);
/// Pages of a third of the region.
const UNIT: u64 = 512;

/// A value that tells every page and round.
fn stamp(page: u64, round: u64) -> u64 {
    (page + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ round
}

/// Watches what the nodes hold, until dropped; the most that any of them ever held.
fn watch(cluster: &Arc<Cluster>, done: &Arc<AtomicBool>) -> Arc<AtomicU64> {
    let most = Arc::new(AtomicU64::new(0));
    let (cluster, done, seen) = (Arc::clone(cluster), Arc::clone(done), Arc::clone(&most));
    std::thread::spawn(move || {
        while !done.load(Ordering::Acquire) {
            let now = cluster.nodes.iter().map(|node| node.engine.resident());
            seen.fetch_max(now.max().unwrap_or(0), Ordering::Relaxed);
            std::thread::sleep(Duration::from_micros(500));
        }
    });
    most
}

/// Fills a region of three units from one node, or from all, and verifies it from every node, page by page.
fn fill_and_verify(shape: Shape, from_all: bool) {
    let (pages, limit) = (shape.pages, shape.options.node_memory / PAGE as u64);
    let nodes = u64::from(shape.nodes);
    let cluster = Cluster::start(shape);
    let done = Arc::new(AtomicBool::new(false));
    let most = watch(&cluster, &done);
    cluster.run(
        LIMIT,
        vec![Box::new(move |cluster: &Cluster| {
            for page in 0..pages {
                let node = if from_all { page % nodes } else { 0 };
                let node = &cluster.nodes[node as usize];
                node.write(page, (page % 512) as usize, stamp(page, 1));
            }
            for (index, node) in cluster.nodes.iter().enumerate() {
                for page in 0..pages {
                    let value = node.read(page, (page % 512) as usize);
                    assert_eq!(value, stamp(page, 1), "page {page} on node {index}");
                }
            }
        })],
    );
    done.store(true, Ordering::Release);
    let most = most.load(Ordering::Relaxed);
    println!(
        "{pages} pages, limit {limit}, at most {most} on a node; {} evictions, {} waits, {} refused",
        cluster.total("evictions"),
        cluster.total("room_waits"),
        cluster.total("room_refused")
    );
    // What others were promised, or send for a request that is under way, may come on top of the limit.
    assert!(
        most <= limit + limit / 16,
        "{most} pages on a node with a limit of {limit}"
    );
    assert!(cluster.total("evictions") > 0);
    cluster.stop();
}

fn thirds() -> Shape {
    Shape::new(3, 3 * UNIT).with_limit(UNIT + UNIT / 4)
}

#[test]
fn three_units_fit_on_three_nodes_of_one_and_a_quarter() {
    fill_and_verify(thirds(), false);
}

#[test]
fn they_fit_when_all_nodes_fill() {
    fill_and_verify(thirds(), true);
}

#[test]
fn they_fit_when_one_node_is_home_to_all() {
    let shape = Shape {
        homes: Some(vec![(3 * UNIT, NodeId(1))]),
        ..thirds()
    };
    fill_and_verify(shape, false);
}

/// `cargo test --release -p lev-dsm --test capacity -- --ignored` takes 4 GiB and minutes.
#[test]
#[ignore = "takes 4 GiB of memory and minutes"]
fn three_gibibytes_fit_on_three_nodes_of_one_and_a_quarter() {
    let unit = (1 << 30) / PAGE as u64;
    let shape = Shape::new(3, 3 * unit).with_limit(unit + unit / 4);
    fill_and_verify(shape, false);
}

#[test]
fn who_reads_through_more_than_fits_gets_it_in_runs_and_once() {
    const PART: u64 = 8192;
    let cluster = Cluster::start(Shape::new(3, 3 * PART).with_limit(PART + PART / 4));
    cluster.run(
        LIMIT,
        vec![Box::new(|cluster: &Cluster| {
            for page in 0..3 * PART {
                let node = &cluster.nodes[(page / PART) as usize];
                node.write(page, 3, stamp(page, 3));
            }
            let reader = &cluster.nodes[0];
            assert!((0..3 * PART).all(|page| reader.read(page, 3) == stamp(page, 3)));
            let counters = reader.engine.counters();
            let (faults, came) = (counters.faults_read, counters.pages_received);
            println!("{faults} faults, {came} pages came");
            // One for each page without room for what is sent ahead. A slow reader may find some dropped again.
            assert!(
                faults < 3 * PART / 2,
                "{faults} faults for {} pages",
                2 * PART
            );
            assert!(came < 3 * PART, "{came} pages came for {}", 2 * PART);
            assert_eq!(counters.evictions, 0);
        })],
    );
    cluster.stop();
}

#[test]
fn they_fit_in_shared_memory() {
    let shape = Shape {
        backing: Backing::Shmem,
        ..thirds()
    };
    fill_and_verify(shape, false);
}

#[test]
fn without_room_anywhere_the_guest_waits_and_goes_on_when_there_is_some() {
    let cluster = Cluster::start(Shape::new(2, 4096).with_limit(512));
    let events = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&events);
    cluster.nodes[0]
        .engine
        .on_room(move |event| told.lock().unwrap().push(event));
    let filled = Arc::new(AtomicU64::new(0));
    let so_far = Arc::clone(&filled);
    let fills: Body = Box::new(move |cluster: &Cluster| {
        for page in 0..2048 {
            cluster.nodes[0].write(page, 3, stamp(page, 2));
            so_far.store(page + 1, Ordering::Release);
        }
    });
    let frees: Body = Box::new(move |cluster: &Cluster| {
        let deadline = Instant::now() + LIMIT;
        let full = || {
            let events = events.lock().unwrap();
            events
                .iter()
                .any(|event| matches!(event, RoomEvent::Full { limit: 512, .. }))
        };
        while !full() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(full(), "nobody was told");
        let stuck = filled.load(Ordering::Acquire);
        assert!((800..1100).contains(&stuck), "{stuck} pages filled");
        assert!(cluster.nodes[0].counter("room_waits") > 0);
        // The guest gives memory back, as a balloon would; node 1 does it, because node 0 has no room to run anything.
        while filled.load(Ordering::Acquire) < 2048 && Instant::now() < deadline {
            let done = filled.load(Ordering::Acquire).saturating_sub(16);
            let engine = &cluster.nodes[1].engine;
            engine.discard(cluster.nodes[1].address(0), done as usize * PAGE);
            std::thread::sleep(Duration::from_millis(5));
        }
        while !events.lock().unwrap().contains(&RoomEvent::Relieved) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(events.lock().unwrap().contains(&RoomEvent::Relieved));
        assert_eq!(cluster.nodes[1].read(2047, 3), stamp(2047, 2));
    });
    cluster.run(LIMIT, vec![fills, frees]);
    cluster.stop();
}

#[test]
fn a_limit_that_no_instruction_could_live_with_is_refused() {
    let options = lev_wire::cluster::EngineOptions {
        node_memory: 100 * PAGE as u64,
        ..Default::default()
    };
    let error = cluster::start_alone(options)
        .err()
        .map(|error| error.to_string());
    let expected = "the memory engine cannot start: a node needs at least 1 MiB of guest memory";
    assert_eq!(error.as_deref(), Some(expected));
}
