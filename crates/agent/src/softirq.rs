//! Network work of a lab machine before its vCPUs.
//!
//! When the kernel defers network work to its softirq threads, they compete with vCPU threads for time slices of milliseconds,
//! and every remote fault waits behind them. In a lab machine, which is ours alone, they may run first.

use std::fs;

/// Gives the kernel's softirq threads a real-time priority. A kernel that refuses loses speed, nothing else.
pub fn run_first() {
    let Ok(processes) = fs::read_dir("/proc") else {
        return;
    };
    for process in processes.flatten() {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        if name.starts_with("ksoftirqd/") {
            let parameters = libc::sched_param { sched_priority: 2 };
            // SAFETY: plain numbers and a valid structure; a thread that refuses is an error that does not matter.
            unsafe { libc::sched_setscheduler(pid, libc::SCHED_FIFO, &parameters) };
        }
    }
}
