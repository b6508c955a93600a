//! How the facade speaks: one line on standard error, one JSON line in the events file, and the end of QEMU where the
//! machine cannot go on.

use serde_json::{json, Value};
use std::fs::File;
use std::io::Write;
use std::sync::{Mutex, OnceLock, PoisonError};

/// Exit code: the machine could not start.
pub const NOT_STARTED: i32 = 125;
/// Exit code: a node was lost.
pub const NODE_LOST: i32 = 123;
/// Exit code: the guest or QEMU cannot go on.
pub const GUEST_DIED: i32 = 122;

static EVENTS: OnceLock<Mutex<File>> = OnceLock::new();

/// Where events go from now on.
pub fn open_events(path: &str) -> std::io::Result<()> {
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)?;
    let _ = EVENTS.set(Mutex::new(file));
    Ok(())
}

/// Writes one event.
pub fn event(event: &Value) {
    if let Some(file) = EVENTS.get() {
        let mut line = event.to_string();
        line.push('\n');
        let _ = file
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(line.as_bytes());
    }
}

/// One line on standard error, without stdio (QEMU may hold its locks).
pub fn say(text: &str) {
    let line = format!("leviathan: {text}\n");
    // SAFETY: a buffer and its length.
    unsafe { libc::write(2, line.as_ptr().cast(), line.len()) };
}

/// Ends QEMU at once: a guest must not run on after its memory or one of its processors is gone.
pub fn die(code: i32, message: &str, hint: Option<&str>) -> ! {
    event(&json!({"event": "error", "message": message, "hint": hint}));
    say(message);
    if let Some(hint) = hint {
        say(&format!("hint: {hint}"));
    }
    // SAFETY: ends the process without running other people's exit handlers.
    unsafe { libc::_exit(code) }
}
