//! One time-stamp counter over all nodes.
//!
//! The guest's counter is the head's host counter plus an offset that makes it start near zero. A worker on the same host has
//! the same counter; on another one the distance is measured by exchanges of which the fastest counts: its error is at
//! most half that round trip, and no message between vCPUs is faster than half a round trip.

use crate::fail;
use crate::vm::Vm;
use lev_mesh::control::ControlClient;
use lev_mesh::message::control;
use lev_mesh::MeshError;
use lev_vcpu::clock::host_tsc;

const EXCHANGES: usize = 64;

/// Sets the clock of every node, once, before the guest starts.
pub fn set(vm: &Vm) {
    let offset = host_tsc().wrapping_neg();
    vm.fabric.set_clock(offset);
    for worker in vm.workers() {
        let address = vm.cluster.nodes[worker.node.index()]
            .address
            .as_deref()
            .unwrap_or("");
        let distance = if is_loopback(address) {
            0
        } else {
            measure(worker)
                .unwrap_or_else(|error| vm.fail("clock", &error))
                .0
        };
        let theirs = offset.wrapping_add(distance as u64);
        if let Err(error) = worker.ask(control::SET_CLOCK, 0, &[&theirs.to_le_bytes()]) {
            vm.fail("clock", &error);
        }
        fail::event(&serde_json::json!({
            "event": "clock", "node": worker.node.0, "distance": distance,
        }));
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

/// Head's counter minus the worker's, and the round trip of the exchange that told it; ticks.
fn measure(worker: &ControlClient) -> Result<(i64, u64), MeshError> {
    let mut best = (0, u64::MAX);
    for _ in 0..EXCHANGES {
        let before = host_tsc();
        let answer = worker.ask(control::CLOCK_SAMPLE, 0, &[])?;
        let trip = answer.arrived_tsc.wrapping_sub(before);
        let Some(bytes) = answer.payload.first_chunk::<8>() else {
            return Err(MeshError::Protocol {
                node: worker.node,
                what: "clock sample".to_owned(),
            });
        };
        let theirs = u64::from_le_bytes(*bytes);
        if trip < best.1 {
            best = (
                before.wrapping_add(trip / 2).wrapping_sub(theirs) as i64,
                trip,
            );
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
