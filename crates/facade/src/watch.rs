//! The watch over the workers, the end of the machine, and its report.

use crate::vm::{self, Vm};
use crate::{fail, tape};
use lev_mesh::control::ask_all;
use lev_mesh::message::{control, Event};
use lev_mesh::peers::spawn_first;
use lev_mesh::pulse::BEAT;
use lev_mesh::report::{self, NodeReport};
use lev_mesh::Loss;
use lev_wire::{NodeId, PAGE_SIZE};
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};

static ENDING: AtomicBool = AtomicBool::new(false);

/// The machine is being taken down.
pub fn ending() -> bool {
    ENDING.load(Ordering::SeqCst)
}

/// A node is gone: the guest cannot go on, because part of its memory and processors is.
pub fn node_lost(vm: &Vm, node: NodeId, loss: &Loss) -> ! {
    lost(node, vm.name_of(node), loss)
}

/// The same before the machine exists, or from a channel's thread.
pub fn lost(node: NodeId, name: &str, loss: &Loss) -> ! {
    if ENDING.load(Ordering::SeqCst) {
        // The machine is being taken down; whoever does that ends the process.
        loop {
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
    }
    let Loss { reason, silent } = loss;
    fail::event(&json!({
        "event": "node-lost", "node": node.0, "name": name, "reason": reason, "silent": silent,
    }));
    fail::say(&format!("node {} ({name}) is lost: {reason}", node.0));
    // SAFETY: ends the process without running other people's exit handlers.
    unsafe { libc::_exit(fail::NODE_LOST) }
}

/// What a worker says by itself.
pub fn on_event(names: &[String], from: NodeId, event: Event) {
    let name = |node: NodeId| names.get(node.index()).map_or("?", String::as_str);
    match event {
        Event::NodeLost { node, mut loss } => {
            loss.reason += &format!(" (seen by {})", name(from));
            lost(node, name(node), &loss)
        }
        Event::Failed { message } => lost(from, name(from), &message.into()),
        Event::OutOfRoom {
            resident,
            limit,
            waiting,
        } => out_of_room(name(from), resident, limit, waiting),
        Event::Room => room_again(name(from)),
    }
}

/// No node has room for memory that CPUs of node `name` need. They wait in their faults, so the guest stands still and
/// nothing is lost; whoever started the VM decides for how long.
fn out_of_room(name: &str, resident: u64, limit: u64, waiting: u64) {
    let bytes = |pages: u64| pages * PAGE_SIZE as u64;
    fail::event(&json!({
        "event": "out-of-room", "name": name, "resident": bytes(resident), "limit": bytes(limit), "waiting": waiting,
    }));
    let mib = |pages| bytes(pages) >> 20;
    fail::say(&format!(
        "no node has room for more guest memory: {name} holds {} of {} MiB; the guest stands still",
        mib(resident),
        mib(limit)
    ));
}

fn room_again(name: &str) {
    fail::event(&json!({"event": "room-again", "name": name}));
    fail::say(&format!("{name} has room again: the guest goes on"));
}

/// Starts the beat and arranges the report at QEMU's end.
pub fn start(vm: &'static Vm) {
    // SAFETY: a plain function without arguments.
    unsafe { libc::atexit(at_exit) };
    if vm.workers().is_empty() {
        return;
    }
    let result = spawn_first("lev-beat", move || loop {
        std::thread::sleep(BEAT);
        if ENDING.load(Ordering::SeqCst) {
            return;
        }
        for worker in vm.workers() {
            if let Some(silence) = worker.beat() {
                node_lost(vm, worker.node, &Loss::silence(silence));
            }
        }
    });
    if let Err(message) = result {
        fail::die(fail::NOT_STARTED, &message, None);
    }
}

extern "C" fn at_exit() {
    let Some(vm) = vm::current() else { return };
    // First: it needs the workers, and the watch over them.
    if let Some(shared) = &vm.shared {
        vm.kept.save(&shared.engine, 0..u64::MAX);
        vm.kept.sync(&vm.cluster.kept);
    }
    if ENDING.swap(true, Ordering::SeqCst) {
        return;
    }
    if let Some(shared) = &vm.shared {
        tape::end(shared);
        shared.peers.close();
    }
    let mut nodes = vec![own_report(vm)];
    if let Ok(answers) = ask_all(vm.workers(), control::REPORT, 0, &[]) {
        nodes.extend(
            answers
                .iter()
                .filter_map(|answer| serde_json::from_slice(&answer.payload).ok()),
        );
    }
    if let Some(path) = &vm.cluster.report {
        let text = json!({"schema": 1, "nodes": nodes}).to_string();
        if let Err(error) = std::fs::write(path, text) {
            fail::say(&format!("cannot write the report {path}: {error}"));
        }
    }
    for worker in vm.workers() {
        worker.tell(control::GOODBYE);
    }
    fail::event(&json!({"event": "ended"}));
}

fn own_report(vm: &Vm) -> NodeReport {
    let shared = vm.shared.as_ref();
    report::collect(
        0,
        vm.name_of(NodeId::HEAD),
        &vm.fabric,
        shared.map(|shared| &*shared.engine),
        shared.map(|shared| &*shared.peers.interrupts),
    )
}
