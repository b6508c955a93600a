//! Pages that one node after the other reads and then writes: the right to write comes with the read.

mod cluster;

use cluster::{Cluster, Shape};
use lev_wire::NodeId;
use std::sync::Arc;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const PAGES: u64 = 16;
const ROUNDS: u64 = 10;
const NODES: u64 = 3;

/// Three nodes; all pages are at home on node 0. Nothing goes ahead, so that each access counts.
fn shape(migratory: bool) -> Shape {
    let mut shape = Shape {
        homes: Some(vec![(PAGES, NodeId(0))]),
        ..Shape::new(NODES as u16, PAGES)
    };
    (shape.options.read_ahead, shape.options.migratory) = (0, migratory);
    shape
}

fn run(cluster: &Arc<Cluster>, body: impl FnOnce(&Cluster) + Send + 'static) {
    cluster.run(LIMIT, vec![Box::new(body)]);
    cluster.stop();
}

/// One node after the other adds to each page.
fn go_round(cluster: &Cluster, rounds: u64) {
    for round in 0..rounds {
        for (number, node) in cluster.nodes.iter().enumerate() {
            for page in 0..PAGES {
                let before = node.read(page, 0);
                assert_eq!(before, round * NODES + number as u64);
                node.write(page, 0, before + 1);
            }
        }
    }
}

#[test]
fn who_reads_next_writes_without_asking() {
    run(&Cluster::start(shape(true)), |cluster| {
        go_round(cluster, ROUNDS);
        // The home filled the page itself, the second node showed the habit.
        let saved = PAGES * (ROUNDS * NODES - 2);
        assert_eq!(cluster.total("lent_to_write"), saved);
        assert_eq!(cluster.total("upgrades_saved"), saved);
        assert_eq!(cluster.total("faults_upgrade"), PAGES);
    });
}

#[test]
fn it_can_be_switched_off() {
    run(&Cluster::start(shape(false)), |cluster| {
        go_round(cluster, ROUNDS);
        assert_eq!(cluster.total("lent_to_write"), 0);
        let asked = PAGES * (ROUNDS * NODES - 1);
        assert_eq!(cluster.total("faults_upgrade"), asked);
    });
}

#[test]
fn readers_that_do_not_write_share_again() {
    run(&Cluster::start(shape(true)), |cluster| {
        go_round(cluster, 1);
        let lent = cluster.total("lent_to_write");
        let read_all = || {
            for node in &cluster.nodes {
                assert!((0..PAGES).all(|page| node.read(page, 0) == NODES));
            }
        };
        read_all();
        // The home got it and did not write, which it said when the next one asked.
        assert_eq!(cluster.total("lent_to_write"), lent + 2 * PAGES);
        let reads = cluster.total("faults_read");
        (0..ROUNDS).for_each(|_| read_all());
        // Only the first reader lost its copy to the guess.
        assert_eq!(cluster.total("faults_read"), reads + PAGES);
        assert_eq!(cluster.total("lent_to_write"), lent + 2 * PAGES);
    });
}
