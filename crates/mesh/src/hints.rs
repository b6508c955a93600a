//! What a node's vCPUs and its memory tell each other: hints for speed, nothing depends on them.

use lev_dsm::{Activity, Engine, Look};
use lev_vcpu::fabric::Fabric;
use std::sync::Arc;

/// The memory learns what the vCPUs do, so that nodes can take turns; they learn when ticks are dear.
pub fn exchange(engine: &Arc<Engine>, fabric: &Arc<Fabric>) {
    let vcpus = Arc::clone(fabric);
    engine.take_turns(Box::new(move |look| {
        match look {
            Look::Glance => {}
            Look::Closely => vcpus.look(),
            Look::Anew => vcpus.look_anew(),
        }
        Activity {
            asleep: vcpus.is_asleep(),
            since_call: vcpus.since_call(),
            waits: vcpus.only_waits(),
        }
    }));
    // Weak: the engine keeps the fabric alive, and neither would end.
    let memory = Arc::downgrade(engine);
    fabric.spare_ticks(Box::new(move || {
        memory.upgrade().is_some_and(|memory| memory.is_fighting())
    }));
}
