//! The engine under real page faults: single operations, each with what must be true afterwards.

mod cluster;

use cluster::{Cluster, Node, Shape, FIRST};
use lev_dsm::{Backing, DsmError};
use lev_wire::frame::Header;
use lev_wire::NodeId;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);

/// Runs a body on its own thread under the watchdog.
fn run(cluster: &Arc<Cluster>, body: impl FnOnce(&Cluster) + Send + 'static) {
    cluster.run(LIMIT, vec![Box::new(body)]);
    cluster.stop();
}

#[test]
fn what_one_writes_the_others_read() {
    run(&Cluster::start(Shape::new(3, 48)), |cluster| {
        for page in 0..48 {
            for (writer, node) in cluster.nodes.iter().enumerate() {
                let value = page * 10 + writer as u64 + 1;
                node.write(page, 5, value);
                assert!(cluster
                    .nodes
                    .iter()
                    .all(|reader| reader.read(page, 5) == value));
            }
        }
        assert!(cluster.total("pages_received") > 0 && cluster.total("faults_upgrade") > 0);
    });
}

#[test]
fn contents_of_the_head_from_before_are_kept() {
    let before = vec![(0, 11), (1, 12), (40, 13), (63, 14)];
    let shape = Shape {
        before: before.clone(),
        ..Shape::new(2, 64)
    };
    run(&Cluster::start(shape), move |cluster| {
        for (page, value) in &before {
            assert_eq!(cluster.nodes[1].read(*page, 0), *value);
        }
        cluster.nodes[1].write(40, 0, 99);
        assert_eq!(cluster.nodes[0].read(40, 0), 99);
        assert_eq!(cluster.nodes[1].read(2, 0), 0);
    });
}

#[test]
fn first_touch_at_home_fills_a_block_without_traffic() {
    let mut shape = Shape::new(2, 4096);
    shape.options.huge_pages = false;
    run(&Cluster::start(shape), |cluster| {
        (0..1024).for_each(|page| cluster.nodes[0].write(page, 0, page + 1));
        let counters = cluster.nodes[0].engine.counters();
        assert_eq!(
            (
                counters.faults_zero,
                counters.pages_zero_filled,
                counters.frames_sent
            ),
            (2, 1024, 0)
        );
        assert_eq!(cluster.nodes[1].read(1000, 0), 1001);
        assert_eq!(cluster.nodes[1].read(2047, 0), 0); // never touched, at home elsewhere
        assert_eq!(cluster.nodes[0].read(4095, 0), 0);
    });
}

#[test]
fn a_random_program_matches_the_oracle() {
    for (nodes, pool, promote_after) in [(2, 0, 0), (3, 16, 3), (4, 64, 5)] {
        let shape = Shape::new(nodes, 40).with_pool(pool, promote_after);
        run(&Cluster::start(shape), move |cluster| {
            let mut oracle = HashMap::new();
            let mut seed = 0x0123_4567_89AB_CDEF_u64;
            let mut random = |below: u64| {
                seed = seed
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (seed >> 33) % below
            };
            for step in 0..6000u64 {
                let node = &cluster.nodes[random(u64::from(nodes)) as usize];
                let (page, index) = (random(40), random(512) as usize);
                match random(20) {
                    0..=8 => {
                        node.write(page, index, step + 1);
                        oracle.insert((page, index), step + 1);
                    }
                    9 => {
                        node.engine.discard(node.address(page), cluster::PAGE);
                        oracle.retain(|(other, _), _| *other != page);
                    }
                    _ => {
                        let expected = oracle.get(&(page, index)).copied().unwrap_or(0);
                        assert_eq!(
                            node.read(page, index),
                            expected,
                            "step {step}, page {page}, word {index}"
                        );
                    }
                }
            }
            if pool > 0 {
                assert!(cluster.total("promotions") > 0 && cluster.total("pool_pages") > 0);
            }
        });
    }
}

#[test]
fn shared_memory_works_like_private_memory() {
    let shape = Shape {
        backing: Backing::Shmem,
        before: vec![(3, 33)],
        ..Shape::new(2, 64)
    };
    run(&Cluster::start(shape), |cluster| {
        assert_eq!(cluster.nodes[1].read(3, 0), 33);
        for round in 0..200 {
            let (writer, reader) = (&cluster.nodes[round % 2], &cluster.nodes[(round + 1) % 2]);
            for page in [3, 10, 50] {
                writer.write(page, 7, round as u64 + 1);
                assert_eq!(reader.read(page, 7), round as u64 + 1);
            }
        }
        cluster.nodes[0]
            .engine
            .discard(cluster.nodes[0].address(3), cluster::PAGE);
        assert_eq!(
            (cluster.nodes[1].read(3, 0), cluster.nodes[0].read(3, 7)),
            (0, 0)
        );
    });
}

#[test]
fn memory_may_be_striped_over_contexts() {
    let mut shape = Shape::new(2, 16 * 1024);
    shape.options.stripes = 3;
    run(&Cluster::start(shape), |cluster| {
        let pages = (0..16 * 1024).step_by(97);
        pages
            .clone()
            .for_each(|page| cluster.nodes[(page % 2) as usize].write(page, 1, page + 1));
        for page in pages {
            assert_eq!(
                cluster.nodes[1 - (page % 2) as usize].read(page, 1),
                page + 1
            );
        }
    });
}

#[test]
fn a_bouncing_page_moves_into_the_pool_and_stays() {
    run(
        &Cluster::start(Shape::new(2, 16).with_pool(8, 6)),
        |cluster| {
            let bounce = |rounds: u64| {
                for round in 0..rounds {
                    cluster.nodes[(round % 2) as usize]
                        .word(9, 0)
                        .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
            };
            bounce(40);
            assert_eq!(cluster.total("promotions"), 1);
            let before = cluster.total("frames_sent");
            bounce(1000);
            assert_eq!(cluster.total("frames_sent"), before);
            assert_eq!(cluster.nodes[0].read(9, 0), 1040);
            // The contents of a pooled page can be discarded, too.
            cluster.nodes[0]
                .engine
                .discard(cluster.nodes[0].address(9), cluster::PAGE);
            assert_eq!(
                (cluster.nodes[0].read(9, 0), cluster.nodes[1].read(9, 0)),
                (0, 0)
            );
        },
    );
}

#[test]
fn a_full_pool_does_no_harm() {
    let mut shape = Shape::new(2, 16).with_pool(4, 3);
    shape.options.demote_after_ms = 0; // what is in it stays
    run(&Cluster::start(shape), |cluster| {
        for round in 0..50u64 {
            for page in 0..16 {
                let node = &cluster.nodes[(round % 2) as usize];
                assert_eq!(
                    node.word(page, 3)
                        .fetch_add(1, std::sync::atomic::Ordering::Relaxed),
                    round
                );
            }
        }
        assert_eq!(cluster.total("promotions"), 4);
        assert_eq!(cluster.total("pool_free"), 0);
    });
}

#[test]
fn a_discard_of_many_pages_clears_them_everywhere() {
    run(&Cluster::start(Shape::new(3, 3000)), |cluster| {
        for page in 0..3000 {
            cluster.nodes[(page % 3) as usize].write(page, 2, 7);
        }
        cluster.nodes[1]
            .engine
            .discard(cluster.nodes[1].address(10), 2000 * cluster::PAGE);
        for page in 0..3000 {
            let expected = if (10..2010).contains(&page) { 0 } else { 7 };
            assert!(
                cluster
                    .nodes
                    .iter()
                    .all(|node| node.read(page, 2) == expected),
                "page {page}"
            );
        }
    });
}

#[test]
fn a_page_dropped_behind_the_engines_back_reads_as_zero() {
    run(&Cluster::start(Shape::new(2, 8)), |cluster| {
        let drop_page = |node: &Node, page: u64| {
            // SAFETY: the page lies inside of the node's mapping; the test holds no reference into it.
            let result = unsafe {
                libc::madvise(
                    node.address(page).cast(),
                    cluster::PAGE,
                    libc::MADV_DONTNEED,
                )
            };
            assert_eq!(result, 0);
        };
        cluster.nodes[0].write(1, 0, 5);
        drop_page(&cluster.nodes[0], 1);
        assert_eq!(cluster.nodes[0].read(1, 0), 0);
        cluster.nodes[0].write(2, 0, 5);
        drop_page(&cluster.nodes[0], 2);
        assert_eq!(cluster.nodes[1].read(2, 0), 0);
    });
}

#[test]
fn segments_are_known_and_do_not_overlap() {
    run(&Cluster::start(Shape::new(2, 32)), |cluster| {
        let engine = &cluster.nodes[0].engine;
        assert_eq!(engine.contains(FIRST - 8, 16), vec![FIRST..FIRST + 8]);
        assert_eq!(engine.contains(FIRST + 32, 8), vec![]);
        let overlap = engine.prepare(cluster.spec(0)).unwrap_err();
        assert!(matches!(overlap, DsmError::Segment { .. }), "{overlap}");
        let mut other = cluster.spec(0);
        (other.first_page, other.local) =
            (FIRST + 100, cluster::map(32, Backing::Anonymous) as *mut u8);
        assert!(engine
            .prepare(lev_dsm::SegmentSpec {
                homes: vec![(31, NodeId(0))],
                ..other.clone()
            })
            .is_err());
        assert!(engine
            .prepare(lev_dsm::SegmentSpec {
                homes: vec![(32, NodeId(2))],
                ..other.clone()
            })
            .is_err());
        assert_eq!(engine.prepare(other).unwrap(), vec![]);
        assert!(engine.activate(FIRST + 99, &[]).is_err());
        let outside = vec![FIRST..FIRST + 1, FIRST + 100..FIRST + 101];
        assert!(engine.activate(FIRST + 100, &outside).is_err());
        engine.activate(FIRST + 100, &[]).unwrap();
        assert!(engine.activate(FIRST + 100, &[]).is_err());
        assert!(engine.describe_page(FIRST + 100).contains("Invalid"));
    });
}

#[test]
fn illegal_frames_are_errors_and_nothing_else() {
    run(&Cluster::start(Shape::new(2, 32)), |cluster| {
        let engine = &cluster.nodes[0].engine;
        let frame = |kind, tag, payload: &[u8]| {
            let header = Header {
                kind,
                tag,
                len: payload.len() as u32,
                arg: FIRST,
            };
            engine.on_frame(NodeId(1), header, payload)
        };
        // Of these, an empty frame is a hint that may come at any time: return, what a node has, room, unwritten.
        let hints = [0x0D0F, 0x0D16, 0x0D18, 0x0D1A];
        for kind in lev_dsm::FRAME_KINDS.skip(2) {
            for payload in [&[][..], &[1, 2, 3, 4], &[0; 4096]] {
                if payload.is_empty() && hints.contains(&kind) {
                    continue;
                }
                let result = frame(kind, 0, payload);
                assert!(
                    matches!(result, Err(DsmError::Peer { .. })),
                    "{kind:#x}: {result:?}"
                );
            }
        }
        assert!(frame(0x0D01, 2, &[]).is_err() && frame(0xFFFF, 0, &[]).is_err());
        let honest = Header {
            kind: 0x0D01,
            tag: 0,
            len: 0,
            arg: FIRST,
        };
        assert!(
            engine.on_frame(NodeId(0), honest, &[]).is_err()
                && engine.on_frame(NodeId(9), honest, &[]).is_err()
        );
        cluster.nodes[1].write(0, 0, 3);
        assert_eq!(cluster.nodes[0].read(0, 0), 3);
    });
}

#[test]
fn a_single_node_needs_nobody() {
    run(&Cluster::start(Shape::new(1, 2000)), |cluster| {
        (0..2000).for_each(|page| cluster.nodes[0].write(page, 0, page));
        assert!((0..2000).all(|page| cluster.nodes[0].read(page, 0) == page));
        cluster.nodes[0]
            .engine
            .discard(cluster.nodes[0].address(0), 1000 * cluster::PAGE);
        assert!((0..2000)
            .all(|page| cluster.nodes[0].read(page, 0) == if page < 1000 { 0 } else { page }));
        assert_eq!(cluster.total("frames_sent"), 0);
    });
}

#[test]
fn huge_pages_from_before_are_given_away_in_small_ones() {
    let pages = 2048;
    let cluster = Cluster::with(Shape::new(2, pages), |cluster| {
        let node = &cluster.nodes[0];
        // SAFETY: the advice concerns a mapping that the test owns and does not change its contents.
        unsafe {
            libc::madvise(
                node.address(0).cast(),
                pages as usize * cluster::PAGE,
                libc::MADV_HUGEPAGE,
            )
        };
        (0..pages).for_each(|page| node.write(page, 1, page + 1));
        cluster.bring_up();
    });
    run(&cluster, move |cluster| {
        for page in (0..pages).step_by(7) {
            assert_eq!(cluster.nodes[1].read(page, 1), page + 1);
            cluster.nodes[1].write(page, 2, page);
            assert_eq!(cluster.nodes[0].read(page, 2), page);
        }
        assert!((0..pages).all(|page| cluster.nodes[0].read(page, 1) == page + 1));
    });
}

#[test]
fn faults_and_frames_wait_for_activation() {
    let cluster = Cluster::with(Shape::new(2, 64), |_| {});
    let (head, worker) = (&cluster.nodes[0], &cluster.nodes[1]);
    head.engine.prepare(cluster.spec(0)).unwrap();
    worker.engine.prepare(cluster.spec(1)).unwrap();
    worker.engine.activate(FIRST, &[]).unwrap();
    let touch = |node: usize, page: u64| -> cluster::Body {
        Box::new(move |cluster: &Cluster| assert_eq!(cluster.nodes[node].read(page, 0), 0))
    };
    let activate: cluster::Body = Box::new(|cluster: &Cluster| {
        // The request of the worker arrives, and the head's own thread faults, before the head is ready for them.
        let deadline = std::time::Instant::now() + LIMIT;
        while cluster.nodes[0].engine.counters().frames_received == 0
            && std::time::Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(cluster.nodes[0].engine.counters().faults_zero, 0);
        cluster.nodes[0].engine.activate(FIRST, &[]).unwrap();
    });
    cluster.run(
        LIMIT,
        vec![touch(1, 3), touch(0, 4), touch(0, 60), activate],
    );
    cluster.stop();
}

#[test]
fn stopping_wakes_whoever_waits() {
    let cluster = Cluster::with(Shape::new(2, 64), |_| {});
    // Only the worker is active: the head never answers.
    cluster.nodes[0].engine.prepare(cluster.spec(0)).unwrap();
    cluster.nodes[1].engine.prepare(cluster.spec(1)).unwrap();
    cluster.nodes[1].engine.activate(FIRST, &[]).unwrap();
    let waits: cluster::Body = Box::new(|cluster: &Cluster| {
        cluster.nodes[1].read(3, 0);
    });
    let discards: cluster::Body = Box::new(|cluster: &Cluster| {
        cluster.nodes[1]
            .engine
            .discard(cluster.nodes[1].address(5), cluster::PAGE);
    });
    let stops: cluster::Body = Box::new(|cluster: &Cluster| {
        while cluster.nodes[1].engine.counters().frames_sent < 2 {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(cluster.nodes[1].engine.describe_unsettled(9)[0].contains("pending Some(Read)"));
        cluster.stop();
    });
    cluster.run(LIMIT, vec![waits, discards, stops]);
}
