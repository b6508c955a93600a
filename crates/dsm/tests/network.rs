//! Engines on a network in memory that delays and reorders as much as it may, and can be cut.

mod faulty;

use faulty::{Deliver, Network, Port};
use lev_dsm::{Backing, DsmError, Engine, EngineConfig, PageLink, SegmentSpec};
use lev_wire::cluster::EngineOptions;
use lev_wire::frame::Header;
use lev_wire::NodeId;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{mpsc, Arc, Mutex};
use std::time::Duration;

const PAGE: u64 = 4096;
const NODES: u16 = 3;
const PAGES: u64 = 6;
const FIRST: u64 = 0x7_f000_0000;

fn header(kind: u16, arg: u64) -> Header {
    Header {
        kind,
        tag: 0,
        len: 0,
        arg,
    }
}

fn port(network: &Arc<Network>, me: NodeId) -> Port {
    Port {
        network: Arc::clone(network),
        me,
    }
}

#[test]
fn pairs_keep_their_order_and_overtake_each_other() {
    let network = Network::new(NODES, Duration::from_millis(2), 7);
    let seen: Arc<Mutex<Vec<(u16, u64)>>> = Arc::default();
    let (tell, told) = mpsc::channel();
    let sink = Arc::clone(&seen);
    let deliver: Deliver = Arc::new(move |from, _, header, _| {
        sink.lock().unwrap().push((from.0, header.arg));
        tell.send(()).unwrap();
    });
    network.start(&deliver);
    let (one, two) = (port(&network, NodeId(1)), port(&network, NodeId(2)));
    for number in 0..200 {
        one.send(NodeId(0), header(1, number), &[]);
        two.send(NodeId(0), header(1, number), &[]);
    }
    for _ in 0..400 {
        told.recv().unwrap();
    }
    let seen = seen.lock().unwrap().clone();
    for node in [1, 2] {
        let numbers = seen.iter().filter(|(from, _)| *from == node);
        assert!(numbers.map(|(_, number)| *number).eq(0..200), "of one pair");
    }
    let in_turn: Vec<_> = (0..200)
        .flat_map(|number| [(1, number), (2, number)])
        .collect();
    assert_ne!(seen, in_turn, "of different pairs");
}

#[test]
fn nothing_arrives_over_a_cut() {
    let network = Network::new(NODES, Duration::ZERO, 7);
    let (tell, told) = mpsc::channel();
    let deliver: Deliver = Arc::new(move |from, _, _, _| tell.send(from).unwrap());
    let one = port(&network, NodeId(1));
    (0..50).for_each(|number| one.send(NodeId(0), header(1, number), &[]));
    network.cut(NodeId(0), NodeId(1));
    one.send(NodeId(0), header(1, 99), &[]);
    network.start(&deliver);
    // The threads of the pair end; the other pairs go on, and the sender of frames over the cut does not notice.
    let two = port(&network, NodeId(2));
    (0..64).for_each(|number| two.send(NodeId(0), header(1, number), &[]));
    for _ in 0..64 {
        assert_eq!(told.recv().unwrap(), NodeId(2));
    }
    assert!(told.try_recv().is_err());
}

fn map() -> u64 {
    // SAFETY: a new mapping at an address of the kernel's choice replaces nothing; it is never unmapped.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            (PAGES * PAGE) as usize,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert_ne!(address, libc::MAP_FAILED);
    address as u64
}

/// Ends the test process: threads that wait for a page cannot be unwound.
fn fail(message: &str) -> ! {
    eprintln!("{message}");
    std::process::abort();
}

/// Engines on one network, and where each has its memory; `None`: no right to use userfaultfd.
fn cluster(network: &Arc<Network>) -> Option<Vec<(Arc<Engine>, u64)>> {
    let mut nodes = Vec::new();
    for me in (0..NODES).map(NodeId) {
        let config = EngineConfig {
            me,
            nodes: NODES,
            options: EngineOptions::default(),
            pool: None,
            on_fatal: Box::new(move |error| fail(&format!("{me}: {error}"))),
        };
        let engine = match Engine::start(config, Arc::new(port(network, me))) {
            Ok(engine) => engine,
            Err(DsmError::Uffd(error)) => {
                println!("skipped: {error}");
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        nodes.push((engine, map()));
    }
    let engines: Vec<_> = nodes.iter().map(|(engine, _)| Arc::clone(engine)).collect();
    let deliver: Deliver = Arc::new(move |from, to, header, payload| {
        match engines[to.index()].on_frame(from, header, payload) {
            Ok(()) | Err(DsmError::Stopped) => {}
            Err(error) => fail(&format!("{to}: {error}")),
        }
    });
    network.start(&deliver);
    for (engine, local) in nodes.iter().rev() {
        let spec = SegmentSpec {
            first_page: FIRST,
            pages: PAGES,
            local: *local as *mut u8,
            homes: (0..NODES)
                .map(|node| (PAGES / u64::from(NODES), NodeId(node)))
                .collect(),
            backing: Backing::Anonymous,
        };
        engine.prepare(spec).unwrap();
        engine.activate(FIRST, &[]).unwrap();
    }
    Some(nodes)
}

#[test]
fn counters_are_exact_whatever_overtakes_what() {
    const ROUNDS: u64 = 40;
    for seed in 1..=3 {
        let network = Network::new(NODES, Duration::from_millis(1), seed);
        let Some(nodes) = cluster(&network) else {
            return;
        };
        let threads: Vec<_> = nodes
            .iter()
            .zip(0u64..)
            .map(|((_, base), node)| {
                let base = *base;
                std::thread::spawn(move || {
                    for round in 0..ROUNDS {
                        let page = (round * (node + 1) + node) % PAGES;
                        // SAFETY: aligned, inside of the node's mapping, which stays; accessed as an atomic only.
                        let word = unsafe { AtomicU64::from_ptr((base + page * PAGE) as *mut u64) };
                        word.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        let base = nodes[0].1;
        let sum: u64 = (0..PAGES)
            // SAFETY: as above.
            .map(|page| unsafe { AtomicU64::from_ptr((base + page * PAGE) as *mut u64) })
            .map(|word| word.load(Ordering::SeqCst))
            .sum();
        assert_eq!(sum, ROUNDS * u64::from(NODES));
        nodes.iter().for_each(|(engine, _)| engine.stop());
    }
}
