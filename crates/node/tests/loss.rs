//! A worker that stops, a head that falls silent, a network that parts two workers: noticed by everybody.
//! Real `lev-node` processes; the test is the head. Needs KVM descriptors and userfaultfd; says so and passes without.

mod forwarder;
mod workers;

use forwarder::Forwarder;
use lev_mesh::message::Event;
use lev_wire::NodeId;
use std::time::{Duration, Instant};
use workers::Workers;

/// What the project promises is 5 s; `pulse` counts beats for 4.0 to 4.5 s of them. The rest is for a machine that is busy
/// with other tests: this one shows that everybody notices, not how exactly a loaded scheduler keeps time.
const PROMISE: Duration = Duration::from_secs(8);

fn lost(event: &Event, node: u16) -> bool {
    matches!(event, Event::NodeLost { node: NodeId(lost), loss } if *lost == node && loss.silent)
}

#[test]
fn a_stopped_worker_is_noticed_by_its_peer_and_by_the_head() {
    let Some(workers) = Workers::start(|address| address.to_owned()) else {
        return;
    };
    workers.keep_beating(Duration::from_secs(1));
    let start = Instant::now();
    workers.stop(2);
    let mut head_noticed = None;
    let told = workers.beat_until(PROMISE + Duration::from_secs(1), |node, silence| {
        assert_eq!(node, NodeId(2), "{silence:?}");
        head_noticed = Some(start.elapsed());
    });
    let (from, event, when) = told.expect("worker 1 says that worker 2 is lost");
    assert!(from == NodeId(1) && lost(&event, 2), "{from} {event:?}");
    assert!(when < PROMISE, "{when:?}");
    assert!(
        head_noticed.is_some_and(|when| when < PROMISE),
        "{head_noticed:?}"
    );
}

#[test]
fn a_silent_head_ends_its_workers() {
    let Some(mut workers) = Workers::start(|address| address.to_owned()) else {
        return;
    };
    workers.keep_beating(Duration::from_secs(1));
    // The channels stay open.
    let start = Instant::now();
    for node in [1, 2] {
        assert_eq!(workers.exit_code(node, PROMISE), Some(123), "worker {node}");
    }
    assert!(start.elapsed() < PROMISE, "{:?}", start.elapsed());
}

#[test]
fn workers_that_no_longer_reach_each_other_say_so() {
    let forwarder = Forwarder::start();
    let between = forwarder.clone();
    let Some(workers) = Workers::start(move |address| between.to(address)) else {
        return;
    };
    workers.keep_beating(Duration::from_secs(1));
    forwarder.cut();
    let told = workers.beat_until(PROMISE, |node, _| panic!("the head still hears {node}"));
    let (from, event, _) = told.expect("one worker says that the other is lost");
    let other = 3 - from.0;
    assert!(lost(&event, other), "{from} {event:?}");
}

/// A request of the head's may take longer than silence may last: the worker's beats go on meanwhile.
#[test]
fn a_long_request_is_no_silence() {
    let forwarder = Forwarder::start();
    let between = forwarder.clone();
    let Some(mut workers) = Workers::start(move |address| between.to(address)) else {
        return;
    };
    workers.keep_beating(Duration::from_secs(1));
    forwarder.shut();
    // Waits 20 s for a handshake.
    workers.ask_to_join(1);
    workers.keep_beating(PROMISE);
    assert_eq!(workers.exit_code(1, Duration::from_millis(100)), None);
}
