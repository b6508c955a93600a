//! Blocks that only their home touches: out of userfaultfd, and back before anybody else sees a page of them.

mod cluster;

use cluster::{Body, Cluster, Node, Shape, PAGE};
use lev_dsm::Backing;
use lev_wire::NodeId;
use std::sync::Arc;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const BLOCK: u64 = 512;

/// Two nodes; everything is at home on the first one.
fn shape(blocks: u64) -> Shape {
    Shape {
        homes: Some(vec![(blocks * BLOCK, NodeId(0))]),
        ..Shape::new(2, blocks * BLOCK)
    }
}

fn run(cluster: &Arc<Cluster>, body: impl FnOnce(&Cluster) + Send + 'static) {
    cluster.run(LIMIT, vec![Box::new(body)]);
    cluster.stop();
}

fn moves(node: &Node) -> (u64, u64) {
    (
        node.counter("blocks_loosened"),
        node.counter("blocks_tightened"),
    )
}

#[test]
fn a_block_comes_back_with_all_that_its_home_wrote() {
    run(&Cluster::start(shape(3)), |cluster| {
        let (home, other) = (&cluster.nodes[0], &cluster.nodes[1]);
        (0..2 * BLOCK).for_each(|page| home.write(page, 3, page + 1));
        assert_eq!((moves(home), home.counter("frames_sent")), ((2, 0), 0));
        assert_eq!(other.read(700, 3), 701);
        assert_eq!(moves(home), (2, 1));
        (BLOCK..2 * BLOCK).for_each(|page| assert_eq!(other.read(page, 3), page + 1));
        // Now it is watched: what either of them writes the other one sees.
        other.write(700, 3, 1);
        assert_eq!(home.read(700, 3), 1);
        home.write(700, 3, 2);
        assert_eq!(other.read(700, 3), 2);
        assert_eq!(moves(home), (2, 1));
    });
}

#[test]
fn pages_of_a_block_that_its_home_never_touched_are_zero() {
    run(&Cluster::start(shape(1)), |cluster| {
        let (home, other) = (&cluster.nodes[0], &cluster.nodes[1]);
        home.write(17, 0, 5);
        assert_eq!(moves(home), (1, 0));
        assert_eq!(other.read(400, 511), 0);
        other.write(401, 0, 7);
        assert_eq!((home.read(401, 0), home.read(402, 9)), (7, 0));
        assert_eq!(other.read(17, 0), 5);
    });
}

/// KiB of the mapping around an address that huge pages hold, as the kernel tells (`AnonHugePages` in smaps).
fn huge_kib(address: u64) -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    for line in text.lines() {
        let word = line.split(' ').next().unwrap();
        if let Some((start, end)) = word.split_once('-') {
            let number = |text| u64::from_str_radix(text, 16).unwrap();
            inside = (number(start)..number(end)).contains(&address);
        } else if inside && word == "AnonHugePages:" {
            let kib = line.split_whitespace().nth(1).unwrap();
            return kib.parse().unwrap();
        }
    }
    0
}

fn collapses() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|word| word.parse().unwrap_or(0u32));
    let version = (numbers.next().unwrap(), numbers.next().unwrap());
    let huge = std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists();
    huge && version >= (6, 1)
}

#[test]
fn a_block_that_only_its_home_touches_is_a_huge_page_from_its_first_touch() {
    if !collapses() {
        println!("skipped: a kernel before 6.1, or without transparent huge pages, makes none of 4 KiB pages");
        return;
    }
    run(&Cluster::start(shape(2)), |cluster| {
        let (home, other) = (&cluster.nodes[0], &cluster.nodes[1]);
        assert_eq!(home.read(BLOCK + 3, 0), 0);
        home.write(3, 0, 1);
        // Who touched it goes on before its engine has made one page of it.
        let all = || (0..2).all(|block| huge_kib(home.address(block * BLOCK) as u64) >= 2048);
        for _ in 0..500 {
            if all() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(all(), "no huge page after 5 s");
        assert_eq!(other.read(3, 0), 1);
    });
}

#[test]
fn a_discarded_block_is_zero_and_may_leave_again() {
    run(&Cluster::start(shape(1)), |cluster| {
        let (home, other) = (&cluster.nodes[0], &cluster.nodes[1]);
        home.write(9, 0, 5);
        home.engine.discard(home.address(0), PAGE * BLOCK as usize);
        assert_eq!(other.read(9, 0), 0);
        home.engine.discard(home.address(0), PAGE * BLOCK as usize);
        home.write(9, 1, 6);
        assert_eq!(moves(home), (2, 1));
        assert_eq!((other.read(9, 0), other.read(9, 1)), (0, 6));
    });
}

#[test]
fn nothing_leaves_that_could_not_be_a_huge_page_or_is_not_wanted_to() {
    let limited = shape(2).with_limit(2 * BLOCK);
    let mut unwanted = shape(2);
    unwanted.options.huge_pages = false;
    let mut shmem = shape(2);
    shmem.backing = Backing::Shmem;
    let before = Shape {
        before: vec![(5, 50), (BLOCK + 5, 51)],
        ..shape(2)
    };
    for shape in [limited, unwanted, shmem, before] {
        run(&Cluster::start(shape), |cluster| {
            let home = &cluster.nodes[0];
            home.write(0, 0, 1);
            home.write(BLOCK, 0, 1);
            assert_eq!(moves(home), (0, 0));
        });
    }
    run(&Cluster::start(shape(2)), |cluster| {
        // Somebody else has a page of the first block.
        cluster.nodes[1].write(1, 0, 1);
        cluster.nodes[0].write(100, 0, 1);
        assert_eq!(moves(&cluster.nodes[0]), (0, 0));
    });
}

#[test]
fn threads_of_the_home_lose_no_write_while_blocks_come_back() {
    const BLOCKS: u64 = 8;
    const THREADS: u64 = 3;
    const ROUNDS: u64 = 6;
    let cluster = Cluster::start(shape(BLOCKS));
    // Each thread counts in a word of its own on every page; the other node looks at pages in a scattered order, and
    // counts, too.
    let count = |node: usize, word: usize, step: u64| -> Body {
        Box::new(move |cluster: &Cluster| {
            let pages = BLOCKS * BLOCK;
            for round in 0..ROUNDS {
                for at in 0..pages {
                    let page = at * step % pages;
                    let seen = cluster.nodes[node].read(page, word);
                    assert_eq!(seen, round, "page {page}, word {word}");
                    cluster.nodes[node].write(page, word, round + 1);
                }
            }
        })
    };
    let mut bodies: Vec<Body> = (0..THREADS)
        .map(|thread| count(0, thread as usize, 2 * thread + 1))
        .collect();
    bodies.push(count(1, 100, 1021));
    cluster.run(LIMIT, bodies);
    assert!(moves(&cluster.nodes[0]).1 > 0);
    let check: Body = Box::new(|cluster: &Cluster| {
        for (page, node) in (0..BLOCKS * BLOCK).zip([0, 1].into_iter().cycle()) {
            let node = &cluster.nodes[node];
            for word in [0, 1, 2, 100] {
                assert_eq!(node.read(page, word), ROUNDS, "page {page}, word {word}");
            }
        }
    });
    cluster.run(LIMIT, vec![check]);
    cluster.stop();
}

/// Linux 6.7 and later forgets a thread that begins to wait for a page just while its block leaves userfaultfd.
#[test]
fn who_waits_while_a_block_leaves_is_woken() {
    const BLOCKS: u64 = 200;
    run(&Cluster::start(shape(BLOCKS)), |cluster| {
        let home = &cluster.nodes[0];
        // Seen with threads of low priority only; the priority is this thread's.
        // SAFETY: the call takes numbers only.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 15) };
        (0..BLOCKS * BLOCK).for_each(|page| home.write(page, 0, page));
        assert_eq!(moves(home), (BLOCKS, 0));
    });
}
