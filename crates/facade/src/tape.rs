//! The trace of guest memory: recorded on every node for as long as a file beside the head's trace says so. Nobody can call
//! into QEMU's process, but everybody who may see its folder can put a file there.

use crate::vm::{Shared, Vm};
use crate::{fail, watch};
use lev_mesh::peers::spawn;
use lev_mesh::trace;
use serde_json::json;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The file is read so often.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Off,
    On,
    /// It was wanted and could not be; not tried again until it was not wanted in between.
    Failed,
}

static STATE: Mutex<State> = Mutex::new(State::Off);

/// Begins, if the file is there already, and watches for it from now on.
pub fn start(vm: &'static Vm) {
    let (Some(path), Some(shared)) = (&vm.cluster.trace, &vm.shared) else {
        return;
    };
    look(shared, path);
    let result = spawn("lev-tape", move || {
        while !watch::ending() {
            std::thread::sleep(LOOK);
            look(shared, path);
        }
    });
    if let Err(message) = result {
        fail::die(fail::NOT_STARTED, &message, None);
    }
}

fn look(shared: &Shared, path: &str) {
    let wanted = std::fs::read(format!("{path}.on")).is_ok_and(|text| text.starts_with(b"on"));
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    if watch::ending() {
        return;
    }
    match (wanted, *state) {
        (true, State::Off) => {
            let result = trace::start(&shared.engine, Path::new(path), &shared.workers);
            *state = match result {
                Ok(()) => {
                    fail::event(&json!({"event": "trace", "state": "on"}));
                    State::On
                }
                Err(message) => {
                    tell_failure(&message);
                    State::Failed
                }
            };
        }
        (false, State::On) => {
            complete(shared);
            *state = State::Off;
        }
        (false, State::Failed) => *state = State::Off,
        _ => {}
    }
}

/// The machine ends: so does the trace.
pub fn end(shared: &Shared) {
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    if *state == State::On {
        complete(shared);
    }
    *state = State::Off;
}

fn complete(shared: &Shared) {
    match trace::stop(&shared.engine, &shared.workers) {
        Ok(files) => {
            let nodes: Vec<_> = files
                .iter()
                .map(|file| json!({"records": file.records, "dropped": file.dropped, "cut": file.cut}))
                .collect();
            fail::event(&json!({"event": "trace", "state": "off", "nodes": nodes}));
        }
        Err(message) => tell_failure(&message),
    }
}

fn tell_failure(message: &str) {
    fail::event(&json!({"event": "trace", "state": "failed", "message": message}));
    fail::say(&format!("the trace: {message}"));
}
