//! Everything that descends from the agent, whoever started it.
//!
//! The agent adopts orphans, so each descendant is a child of it as soon as all between are gone.

use std::fs;
use std::time::{Duration, Instant};

use crate::sys;

/// How long killed processes may take to end (one may be inside a long system call).
const LIMIT: Duration = Duration::from_secs(5);

/// Process ids of our children.
pub fn children() -> Vec<u32> {
    let own = std::process::id();
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| parent(*pid) == Some(own))
        .collect()
}

fn parent(pid: u32) -> Option<u32> {
    parent_field(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The parent's id in a line of `/proc/PID/stat`, whose name field may hold anything.
fn parent_field(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok()
}

/// Frees the children that have ended and are none of the `known`, whose exit codes matter.
pub fn bury(known: &[u32]) {
    for pid in children() {
        if !known.contains(&pid) {
            sys::reap(pid);
        }
    }
}

/// Kills all descendants; `turn` is called in between to take the exits of the known ones.
pub fn kill_all(known: &[u32], mut turn: impl FnMut()) {
    let limit = Instant::now() + LIMIT;
    loop {
        let left = children();
        if left.is_empty() || Instant::now() > limit {
            return;
        }
        for pid in left {
            // It may have ended meanwhile; its id is not free before it has been waited for.
            let _ = sys::kill(pid as i32, libc::SIGKILL);
        }
        turn();
        bury(known);
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_confuse_the_parent() {
        assert_eq!(parent_field("12 (a) S 99 (x) R 7 1"), Some(7));
        assert_eq!(parent_field("12 (sh) S 34 12 12"), Some(34));
        assert_eq!(parent_field("nonsense"), None);
    }
}
