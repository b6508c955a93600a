//! One time-stamp counter over all nodes.
//!
//! The guest's counter is the head's host counter plus an offset that makes it start near zero. A worker on the same host has
//! the same counter; on another one the distance is measured by exchanges of which the fastest counts: its error is at
//! most half that round trip, and no message between vCPUs is faster than half a round trip. Hosts' counters drift apart;
//! a thread follows them (`lev_mesh::drift`).

use crate::fail;
use crate::vm::Vm;
use crate::watch;
use lev_mesh::control::ControlClient;
use lev_mesh::drift::{Drift, Exchange};
use lev_mesh::message::control;
use lev_mesh::peers::spawn_first;
use lev_mesh::{host, MeshError};
use lev_vcpu::clock::host_tsc;
use std::sync::Arc;

/// Exchanges by which a worker's clock is set.
const EXCHANGES: usize = 64;
/// Most exchanges with a worker in one round of following.
const BURST: usize = 16;

/// A worker and the offset that makes its counter the guest's.
struct Clock {
    worker: Arc<ControlClient>,
    offset: u64,
}

impl Clock {
    fn tell(&self) -> Result<(), MeshError> {
        let bytes = self.offset.to_le_bytes();
        self.worker
            .ask(control::SET_CLOCK, 0, &[&bytes])
            .map(|_| ())
    }

    fn step(&mut self, ticks: u64) -> Result<(), MeshError> {
        if ticks == 0 {
            return Ok(());
        }
        self.offset = self.offset.wrapping_add(ticks);
        self.tell()
    }
}

/// Sets the clock of every node before the guest starts, and follows those on other hosts from then on.
pub fn set(vm: &'static Vm) {
    let offset = host_tsc().wrapping_neg();
    // The first setting: there is nothing to go back from.
    let _ = vm.fabric.set_clock(offset);
    let (mut near, mut far, mut set_by) = (Vec::new(), Vec::new(), Vec::new());
    for worker in vm.workers() {
        let address = vm.cluster.nodes[worker.node.index()]
            .address
            .as_deref()
            .unwrap_or("");
        let measured = fastest(worker).unwrap_or_else(|error| vm.fail("clock", &error));
        // Behind a loopback address may be a tunnel to another host: one counter shows no distance.
        let same = is_loopback(address) && measured.distance().unsigned_abs() <= measured.trip();
        let exchange = (!same).then_some(measured);
        let distance = exchange.map_or(0, |exchange| exchange.distance());
        let clock = Clock {
            worker: Arc::clone(worker),
            offset: offset.wrapping_add(distance as u64),
        };
        if let Err(error) = clock.tell() {
            vm.fail("clock", &error);
        }
        fail::event(&serde_json::json!({
            "event": "clock", "node": worker.node.0, "distance": distance,
            "trip": measured.trip(),
        }));
        match exchange {
            Some(exchange) => {
                far.push(clock);
                set_by.push(exchange);
            }
            None => near.push(clock),
        }
    }
    if far.is_empty() {
        return;
    }
    let khz = host::tsc_khz(vm.fd).unwrap_or(0);
    let drift = Drift::new(&set_by, khz);
    let body = move || match follow(vm, drift, offset, near, far) {
        Err(error @ MeshError::Refused { .. }) if !watch::ending() => vm.fail("clock", &error),
        // The end of a channel is its reader's to report.
        _ => {}
    };
    if let Err(message) = spawn_first("lev-clock", body) {
        fail::die(fail::NOT_STARTED, &message, None);
    }
}

/// Steps everybody forward who falls behind. `near`: workers on the head's host, whose clocks are the head's own.
fn follow(
    vm: &'static Vm,
    mut drift: Drift,
    mut offset: u64,
    mut near: Vec<Clock>,
    mut far: Vec<Clock>,
) -> Result<(), MeshError> {
    let mut told = false;
    loop {
        std::thread::sleep(drift.pause());
        if watch::ending() {
            return Ok(());
        }
        for (index, clock) in far.iter().enumerate() {
            if !burst(&clock.worker, |exchange| drift.heard(index, exchange))? {
                drift.missed(index);
            }
        }
        let apart = drift.visible().then(|| drift.skew()).flatten();
        let steps = drift.steps(host_tsc());
        if steps.head > 0 {
            offset = offset.wrapping_add(steps.head);
            let _ = vm.fabric.set_clock(offset);
            for clock in &mut near {
                clock.step(steps.head)?;
            }
        }
        for (clock, ticks) in far.iter_mut().zip(steps.workers) {
            clock.step(ticks)?;
        }
        if let Some((index, ticks)) = apart.filter(|_| !told) {
            told = true;
            let node = far[index].worker.node;
            fail::event(&serde_json::json!({
                "event": "clock-apart", "node": node.0, "name": vm.name_of(node), "ticks": ticks,
                "ppm": drift.parts_per_million(index),
            }));
        }
    }
}

fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

fn exchange(worker: &ControlClient) -> Result<Exchange, MeshError> {
    let asked = host_tsc();
    let answer = worker.ask(control::CLOCK_SAMPLE, 0, &[])?;
    let Some(bytes) = answer.payload.first_chunk::<8>() else {
        return Err(MeshError::Protocol {
            node: worker.node,
            what: "clock sample".to_owned(),
        });
    };
    Ok(Exchange {
        asked,
        theirs: u64::from_le_bytes(*bytes),
        answered: answer.arrived_tsc,
    })
}

/// Exchanges until one is good enough; false: none was.
fn burst(
    worker: &ControlClient,
    mut enough: impl FnMut(&Exchange) -> bool,
) -> Result<bool, MeshError> {
    for _ in 0..BURST {
        if enough(&exchange(worker)?) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn fastest(worker: &ControlClient) -> Result<Exchange, MeshError> {
    let mut best = exchange(worker)?;
    for _ in 1..EXCHANGES {
        let next = exchange(worker)?;
        if next.trip() < best.trip() {
            best = next;
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn the_same_host_is_recognized() {
        for address in ["127.0.0.1:4", "localhost:1", "[::1]:9"] {
            assert!(is_loopback(address), "{address}");
        }
        assert!(!is_loopback("10.87.0.2:4000"));
        assert!(!is_loopback("node-b:1"));
    }
}
