//! A team whose members are processes instead of threads: they share the pages of [`Mapping::shared`] and nothing else.
//!
//! Threads have one set of page tables, which bounces between nodes along with what they work on (a processor counts a
//! walk of a guest's page tables as a write to them). Processes have their own, so that only the pages that a check is about
//! move. That is much faster where nodes have no pool.

use crate::error::{Error, Result};
use crate::sys::{self, Mapping, PAGE};
use crate::team::{self, Barrier, Member};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

static APART: AtomicBool = AtomicBool::new(false);

/// From now on [`run`] makes processes.
pub fn choose() {
    APART.store(true, Relaxed);
}

/// As [`team::run`], for bodies that share nothing but `Mapping::shared`. Member 0 is this process itself, so what its
/// body leaves in other memory is there afterwards.
pub fn run<R: Copy + Send + 'static>(
    cpus: &[usize],
    body: impl Fn(&Member) -> R + Sync,
) -> Result<Vec<R>> {
    if !APART.load(Relaxed) {
        return Ok(team::run(cpus, body));
    }
    const { assert!(size_of::<R>() <= PAGE && align_of::<R>() <= PAGE) };
    let shared = Mapping::shared(1 + cpus.len())?;
    let barrier = Barrier::place(&shared, cpus.len());
    let patience = team::patience(cpus);
    let before = sys::allowed_cpus()?;
    let mut children = Vec::new();
    for (tid, &cpu) in cpus.iter().enumerate().skip(1) {
        // SAFETY: the child only runs `work`, which ends it; the watchdog's thread, which it lacks, is nobody's owner of a lock.
        match unsafe { libc::fork() } {
            0 => work(&Member::new(tid, barrier, patience), cpu, &shared, &body),
            child if child > 0 => children.push(child),
            _ => return Err(Error::last("fork")),
        }
    }
    sys::pin(cpus[0])?;
    let member = Member::new(0, barrier, patience);
    member.meet();
    let mut results = vec![body(&member)];
    sys::pin_to(&before)?;
    for (tid, child) in (1..).zip(children) {
        let code = sys::wait(child);
        if code != Some(0) {
            team::give_up(&Error::Member { tid, code });
        }
        // SAFETY: the child has written an R into its page before it ended with 0 (see `work`); R is Copy and aligned.
        results.push(unsafe { std::ptr::read(shared.at((1 + tid) * PAGE).cast::<R>()) });
    }
    Ok(results)
}

/// The life of a member that is a process of its own; it ends with 0 only if its result is in its page.
fn work<R: Copy>(member: &Member, cpu: usize, shared: &Mapping, body: impl Fn(&Member) -> R) -> ! {
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        // SAFETY: numbers only. A member does not outlive the program.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        if let Err(error) = sys::pin(cpu) {
            team::give_up(&error);
        }
        member.meet();
        let result = body(member);
        // SAFETY: a page of its own, large and aligned enough for R (asserted by the caller).
        unsafe { std::ptr::write(shared.at((1 + member.tid) * PAGE).cast(), result) };
    }));
    let code = if done.is_ok() { 0 } else { 101 };
    // SAFETY: ends the child without the parent's exit handlers.
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a process of its own: the choice holds for the whole process.
    #[test]
    fn members_share_only_what_is_mapped_for_it() {
        // SAFETY: the child makes its own processes, compares, and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            choose();
            let cpus = sys::allowed_cpus().expect("affinity");
            let team: Vec<usize> = cpus.into_iter().cycle().take(3).collect();
            let page = Mapping::shared(1).expect("mmap");
            let private = std::sync::atomic::AtomicU64::new(0);
            let seen = run(&team, |member| {
                page.u64(0).fetch_add(1, Relaxed);
                private.fetch_add(1, Relaxed);
                member.meet();
                (member.tid, page.u64(0).load(Relaxed), private.load(Relaxed))
            });
            let good = seen.is_ok_and(|seen| seen == [(0, 3, 1), (1, 3, 1), (2, 3, 1)]);
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(!good)) };
        }
        assert_eq!(sys::wait(child), Some(0));
    }
}
