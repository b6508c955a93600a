//! What the worker tells whoever started it: one JSON object a line on standard output.

use serde_json::{json, Value};
use std::io::Write;

/// Prints one event. A reader that has gone is no reason to stop.
pub fn emit(event: &Value) {
    let mut line = event.to_string();
    line.push('\n');
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(line.as_bytes());
    let _ = out.flush();
}

/// Something went on that is worth a line in the log.
pub fn log(message: &str) {
    emit(&json!({"event": "log", "message": message}));
}

/// The worker cannot go on.
pub fn error(message: &str, hint: Option<&str>) {
    emit(&json!({"event": "error", "message": message, "hint": hint}));
}
