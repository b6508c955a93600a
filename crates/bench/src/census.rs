//! What this process consists of, as the kernel says it: to see whether something was left behind.

use crate::command::Answer;
use std::fs;
use std::io;

/// Threads and descriptors now.
pub fn take() -> io::Result<Answer> {
    let mut threads = Vec::new();
    for entry in fs::read_dir("/proc/self/task")? {
        // Threads may end meanwhile.
        if let Ok(name) = fs::read_to_string(entry?.path().join("comm")) {
            threads.push(name.trim_end().to_owned());
        }
    }
    let mut descriptors = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        if let Ok(target) = fs::read_link(entry?.path()) {
            descriptors.push(target.to_string_lossy().into_owned());
        }
    }
    descriptors.retain(|target| !target.ends_with("/fd")); // the folder that was just read
    threads.sort();
    descriptors.sort();
    Ok(Answer::Census {
        threads,
        descriptors,
    })
}
