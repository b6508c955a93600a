//! Pages that a node asks for because its faults run through memory: how many faults they save, what they leave alone.

mod cluster;

use cluster::{Cluster, Shape};
use lev_wire::NodeId;
use std::sync::Arc;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const PAGES: u64 = 1024;

/// Two nodes; all pages are at home on node `home` and have contents that node 0 put there.
fn loaded(home: u16, prefetch: u32) -> Shape {
    let mut shape = Shape {
        homes: Some(vec![(PAGES, NodeId(home))]),
        before: (0..PAGES).map(|page| (page, page + 1)).collect(),
        ..Shape::new(2, PAGES)
    };
    shape.options.prefetch = prefetch;
    shape
}

fn run(cluster: &Arc<Cluster>, body: impl FnOnce(&Cluster) + Send + 'static) {
    cluster.run(LIMIT, vec![Box::new(body)]);
    cluster.stop();
}

#[test]
fn pages_of_this_home_that_another_node_holds_are_read_in_groups() {
    run(&Cluster::start(loaded(1, 16)), |cluster| {
        let reader = &cluster.nodes[1];
        assert!((0..PAGES).all(|page| reader.read(page, 0) == page + 1));
        let counters = reader.engine.counters();
        // A reader may overtake what is on its way, which is no new request.
        assert!(counters.faults_read < PAGES / 8, "{}", counters.faults_read);
        assert!(counters.prefetched > PAGES * 3 / 4);
    });
}

#[test]
fn pages_that_a_third_node_holds_are_read_in_groups() {
    let mut shape = Shape {
        homes: Some(vec![(PAGES, NodeId(2))]),
        ..Shape::new(3, PAGES)
    };
    shape.options.prefetch = 16;
    run(&Cluster::start(shape), |cluster| {
        let (reader, holder) = (&cluster.nodes[0], &cluster.nodes[1]);
        (0..PAGES).for_each(|page| holder.write(page, 0, page + 1));
        assert!((0..PAGES).all(|page| reader.read(page, 0) == page + 1));
        let counters = reader.engine.counters();
        assert!(counters.faults_read < PAGES / 8, "{}", counters.faults_read);
        assert!(counters.prefetched > PAGES * 3 / 4);
    });
}

#[test]
fn pages_written_in_order_come_in_groups() {
    for home in [0, 1] {
        run(&Cluster::start(loaded(home, 16)), move |cluster| {
            let (holder, writer) = (&cluster.nodes[0], &cluster.nodes[1]);
            (0..PAGES).for_each(|page| writer.write(page, 1, page));
            let faults = writer.engine.counters().faults_write;
            assert!(faults < PAGES / 8, "{faults} with the home at {home}");
            for page in 0..PAGES {
                assert_eq!(
                    (holder.read(page, 0), holder.read(page, 1)),
                    (page + 1, page)
                );
            }
        });
    }
}

#[test]
fn it_can_be_switched_off() {
    run(&Cluster::start(loaded(1, 0)), |cluster| {
        let reader = &cluster.nodes[1];
        assert!((0..PAGES).all(|page| reader.read(page, 0) == page + 1));
        assert_eq!(reader.engine.counters().faults_read, PAGES);
        assert_eq!(reader.engine.counters().prefetched, 0);
    });
}

#[test]
fn scattered_faults_ask_for_nothing_else() {
    run(&Cluster::start(loaded(0, 16)), |cluster| {
        for page in (0..PAGES).step_by(64) {
            cluster.nodes[1].write(page, 1, 5);
        }
        assert_eq!(cluster.total("prefetched"), 0);
    });
}
