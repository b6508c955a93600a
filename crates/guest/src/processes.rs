//! Processes across nodes: fork with copy-on-write, and a storm of fork, exec and exit.

use crate::error::{Error, Result};
use crate::report::Report;
use crate::sys::{self, Mapping, PAGE};
use crate::team::{self, Member};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::time::Instant;

/// Pages written after each fork.
const PAGES: usize = 8;

/// What went wrong around forks and execs.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Wrong {
    /// Children whose snapshot changed under them.
    pub snapshots: u64,
    /// Words that another thread saw old after the parent had written its copy.
    pub stale: u64,
    /// Stores by another thread that the parent did not see.
    pub lost: u64,
    /// Children that ended otherwise than told.
    pub exits: u64,
}

/// Every wrong child, word or store fails.
pub fn verdict(wrong: &[Wrong]) -> Vec<String> {
    let sum = |of: fn(&Wrong) -> u64| wrong.iter().map(of).sum::<u64>();
    let kinds = [
        (sum(|w| w.snapshots), "children saw their snapshot change"),
        (sum(|w| w.stale), "words were old after copy-on-write"),
        (sum(|w| w.lost), "stores were lost after copy-on-write"),
        (sum(|w| w.exits), "children ended otherwise than told"),
    ];
    let found = kinds.iter().filter(|(n, _)| *n > 0);
    found.map(|(n, what)| format!("{n} {what}")).collect()
}

/// The child of a fork: moves to another CPU, waits for a byte, looks at its snapshot.
/// Only system calls and memory accesses: the other threads of the parent are gone.
fn watch_snapshot(memory: &Mapping, pipe: i32, cpu: usize, value: u64) -> ! {
    let moved = sys::pin(cpu).is_ok();
    let mut byte = 0u8;
    // SAFETY: reads one byte into a local.
    let told = unsafe { libc::read(pipe, (&raw mut byte).cast(), 1) } == 1;
    let intact = (0..PAGES).all(|p| memory.u64(p * PAGE).load(Relaxed) == value);
    let code = match (moved && told, intact) {
        (true, true) => 0,
        (true, false) => 1,
        (false, _) => 2,
    };
    // SAFETY: ends the child without running the parent's exit handlers.
    unsafe { libc::_exit(code) }
}

struct Forks<'a> {
    memory: &'a Mapping,
    control: &'a Mapping,
    cpus: &'a [usize],
}

impl Forks<'_> {
    /// Forks, writes every page (which copies it), lets the others look, then lets the child.
    fn fork_and_write(&self, member: &Member, rounds: u64) -> Result<Wrong> {
        let (published, seen) = (self.control.u64(0), self.control.u64(64));
        let others = self.cpus.len() as u64 - 1;
        let mut wrong = Wrong::default();
        for round in 0..rounds {
            let mut pipe = [0i32; 2];
            // SAFETY: fills the two descriptors of a local array.
            if unsafe { libc::pipe(pipe.as_mut_ptr()) } != 0 {
                return Err(Error::last("pipe"));
            }
            let target = self.cpus[round as usize % self.cpus.len()];
            // SAFETY: the child only makes system calls and reads memory (see watch_snapshot).
            let child = unsafe { libc::fork() };
            match child {
                0 => watch_snapshot(self.memory, pipe[0], target, round),
                -1 => return Err(Error::last("fork")),
                _ => {}
            }
            for page in 0..PAGES {
                self.memory.u64(page * PAGE).store(round + 1, Relaxed);
            }
            published.store(round + 1, Release);
            member.spin_until(|| seen.load(Acquire) == (round + 1) * others);
            for other in 1..=others as usize {
                let missing =
                    |p: &usize| self.memory.u64(p * PAGE + other * 64).load(Relaxed) != round + 1;
                wrong.lost += (0..PAGES).filter(missing).count() as u64;
            }
            // SAFETY: writes one byte to the pipe made above, then closes both ends.
            unsafe {
                libc::write(pipe[1], [1u8].as_ptr().cast(), 1);
                libc::close(pipe[1]);
                libc::close(pipe[0]);
            }
            match sys::wait(child) {
                Some(0) => {}
                Some(1) => wrong.snapshots += 1,
                _ => wrong.exits += 1,
            }
            member.progress(round + 1);
        }
        Ok(wrong)
    }

    /// After each write of the parent: its words must be new, and own stores must stay.
    fn look(&self, member: &Member, rounds: u64) -> Wrong {
        let (published, seen) = (self.control.u64(0), self.control.u64(64));
        let mut wrong = Wrong::default();
        for round in 0..rounds {
            member.spin_until(|| {
                // Keep the old translations in use while the parent's copies replace them.
                self.memory.u64(round as usize % PAGES * PAGE).load(Relaxed);
                published.load(Acquire) > round
            });
            for page in 0..PAGES {
                let value = self.memory.u64(page * PAGE).load(Relaxed);
                wrong.stale += u64::from(value != round + 1);
                self.memory
                    .u64(page * PAGE + member.tid * 64)
                    .store(round + 1, Relaxed);
            }
            seen.fetch_add(1, SeqCst);
            member.progress(round + 1);
        }
        wrong
    }
}

/// `rounds` forks by the first CPU; its copies are seen by the others, its snapshots are not.
pub fn copy_on_write(cpus: &[usize], rounds: u64) -> Result<Report> {
    team::enter_stage("tlb copy-on-write", cpus.len());
    let memory = Mapping::new(PAGES)?;
    // Shared with nobody but the threads; on its own page, touched by no child.
    let control = Mapping::new(1)?;
    let forks = Forks {
        memory: &memory,
        control: &control,
        cpus,
    };
    let begin = Instant::now();
    let wrong = team::run(cpus, |member| match member.tid {
        0 => forks
            .fork_and_write(member, rounds)
            .unwrap_or_else(|e| team::give_up(&e)),
        _ => forks.look(member, rounds),
    });
    Ok(Report::new("tlb")
        .with("part", "copy on write")
        .with("cpus", cpus.iter().map(|&c| c as u64).collect::<Vec<u64>>())
        .with("forks", rounds)
        .with("seconds", begin.elapsed().as_secs_f64())
        .failing(verdict(&wrong)))
}

/// The exit code that a child of the storm is told to end with.
fn code_of(round: u64, tid: usize) -> u8 {
    ((round * 7 + tid as u64 * 3) % 100) as u8 + 1
}

/// What the child of the storm does: some memory, then the exit code it was told.
pub fn storm_child(code: u8) -> i32 {
    let numbers: Vec<u64> = (0..32_768).collect();
    let sum: u64 = std::hint::black_box(&numbers).iter().sum();
    if sum == 32_767 * 32_768 / 2 {
        i32::from(code)
    } else {
        0
    }
}

/// Each CPU starts `rounds` processes of this program one after the other.
pub fn exec_storm(cpus: &[usize], rounds: u64) -> Result<Report> {
    team::enter_stage("tlb exec storm", cpus.len());
    let path = std::env::current_exe().map_err(|e| Error::Read {
        path: "/proc/self/exe".to_string(),
        reason: e.to_string(),
    })?;
    let begin = Instant::now();
    let wrong = team::run(cpus, |member| {
        let mut wrong = Wrong::default();
        for round in 0..rounds {
            let code = code_of(round, member.tid);
            let mut command = Command::new(&path);
            command
                .args(["storm-child", &code.to_string()])
                .stdin(Stdio::null());
            match command.status() {
                Ok(status) if status.code() == Some(i32::from(code)) => {}
                Ok(_) => wrong.exits += 1,
                Err(e) => {
                    let errno = e.raw_os_error().unwrap_or(0);
                    team::give_up(&Error::Syscall {
                        call: "execve",
                        errno,
                    });
                }
            }
            member.progress(round + 1);
        }
        wrong
    });
    Ok(Report::new("tlb")
        .with("part", "exec storm")
        .with("cpus", cpus.iter().map(|&c| c as u64).collect::<Vec<u64>>())
        .with("processes", rounds * cpus.len() as u64)
        .with("seconds", begin.elapsed().as_secs_f64())
        .failing(verdict(&wrong)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_wrong_fails() {
        assert!(verdict(&[Wrong::default(); 3]).is_empty());
        for i in 0..4 {
            let n = |k: u64| u64::from(k == i);
            let wrong = Wrong {
                snapshots: n(0),
                stale: n(1),
                lost: n(2),
                exits: n(3),
            };
            assert_eq!(verdict(&[Wrong::default(), wrong]).len(), 1);
        }
    }

    #[test]
    fn codes_are_never_zero_and_children_return_them() {
        for round in 0..1000 {
            let code = code_of(round, 3);
            assert!((1..=100).contains(&code));
        }
        assert_eq!(storm_child(42), 42);
    }

    #[test]
    fn this_machine_copies_on_write() {
        let cpus = crate::sys::allowed_cpus().expect("affinity");
        if cpus.len() >= 2 {
            let report = copy_on_write(&cpus, 20).expect("run");
            assert!(report.ok(), "{}", report.text());
        }
    }
}
