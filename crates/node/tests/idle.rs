//! A worker with nothing to do sleeps: it wakes for heartbeats only, a few times a second.

mod workers;

use std::time::Duration;
use workers::Workers;

/// Wake-ups a second of all threads together: a beat of its own, its peer's and the head's, each twice a second, its watch over
/// the head, and as many again for chance.
const WAKE_UPS: u64 = 16;
const SECONDS: u64 = 4;

#[test]
fn an_idle_worker_wakes_for_heartbeats_only() {
    let Some(workers) = Workers::start(|address| address.to_owned()) else {
        return;
    };
    workers.keep_beating(Duration::from_secs(1));
    let count = || [1, 2].map(|node| workers.wake_ups(node));
    let before = count();
    workers.keep_beating(Duration::from_secs(SECONDS));
    for (node, (after, before)) in count().into_iter().zip(before).enumerate() {
        let rate = (after - before) / SECONDS;
        println!("worker {}: {rate} wake-ups a second", node + 1);
        assert!(rate <= WAKE_UPS, "worker {}: {rate} a second", node + 1);
    }
}
