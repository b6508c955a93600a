//! Pinned threads that work together: barriers, bounded spinning, progress for the watchdog.

use crate::asm;
use crate::error::Error;
use crate::sys::{self, Mapping, PAGE};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

const SLOTS: usize = 64;
static STAGE: Mutex<(String, usize)> = Mutex::new((String::new(), 0));

/// One page for each member's progress, so that reporting it makes no page move between nodes; the same for members that
/// are processes.
fn progress_of(tid: usize) -> &'static AtomicU64 {
    static PAGES: OnceLock<Mapping> = OnceLock::new();
    let pages =
        PAGES.get_or_init(|| Mapping::shared(SLOTS).unwrap_or_else(|error| give_up(&error)));
    pages.u64(tid % SLOTS * PAGE)
}

/// Names what runs now (for the watchdog) and clears the progress of its `threads`.
pub fn enter_stage(name: &str, threads: usize) {
    if let Ok(mut stage) = STAGE.lock() {
        *stage = (name.to_string(), threads.min(SLOTS));
    }
    (0..SLOTS).for_each(|tid| progress_of(tid).store(0, Ordering::Relaxed));
}

/// Where the run stands, for example `clock: rounds done per thread [512, 511]`.
pub fn standing() -> String {
    let (name, threads) = STAGE.lock().map(|s| s.clone()).unwrap_or_default();
    let done = (0..threads).map(|tid| progress_of(tid).load(Ordering::Relaxed));
    let done: Vec<u64> = done.collect();
    describe(&name, &done)
}

fn describe(name: &str, done: &[u64]) -> String {
    format!("{name}: rounds done per thread {done:?}")
}

/// Ends the process with [`crate::EXIT_TIMEOUT`] when it still runs after `limit`. It sleeps in
/// one piece: a polling thread would disturb what is measured.
pub fn start_watchdog(limit: Duration, json: bool) {
    std::thread::spawn(move || {
        std::thread::sleep(limit);
        let what = format!("no end after {} s; {}", limit.as_secs(), standing());
        let report = crate::report::Report::new("watchdog").failing(vec![what]);
        let mut output = crate::report::Output::new(json);
        output.emit(&report);
        output.finish();
        std::process::exit(crate::EXIT_TIMEOUT);
    });
}

/// Ends the whole process: a thread of a team cannot go on, and the others would wait for it.
pub fn give_up(error: &Error) -> ! {
    eprintln!("lev-guest: {error} ({})", standing());
    std::process::exit(crate::EXIT_CANNOT_RUN);
}

/// Bounds of the time between announcing a common start and the start, cycles of the TSC.
const MARGIN: std::ops::RangeInclusive<u64> = 20_000..=10_000_000;
/// A common start further away than this is not waited for (time-stamps may be out of step).
const PATIENCE_CYCLES: u64 = 100_000_000;

/// Where threads meet. Everything on one page, so that a crossing moves one page only.
#[repr(align(4096))]
pub struct Barrier {
    arrived: AtomicU64,
    generation: AtomicU64,
    members: u64,
    start: AtomicU64,
    margin: AtomicU64,
    late: AtomicU64,
}

impl Barrier {
    fn new(members: usize) -> Barrier {
        Barrier {
            arrived: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            members: members as u64,
            start: AtomicU64::new(0),
            margin: AtomicU64::new(*MARGIN.start()),
            late: AtomicU64::new(0),
        }
    }

    /// A barrier in the first page of `memory`, for processes that share it.
    pub fn place(memory: &Mapping, members: usize) -> &Barrier {
        let at = memory.at(0).cast::<Barrier>();
        // SAFETY: a page, page-aligned, that nobody else uses; the reference lives no longer than the mapping.
        unsafe {
            at.write(Barrier::new(members));
            &*at
        }
    }
}

/// Waits for a time-stamp, unless it has passed.
pub fn wait_until(start: u64) {
    loop {
        let left = start.wrapping_sub(asm::rdtsc());
        if left == 0 || left > PATIENCE_CYCLES {
            return;
        }
        std::hint::spin_loop();
    }
}

/// One thread of a team.
pub struct Member<'a> {
    /// Position in the team, from 0.
    pub tid: usize,
    barrier: &'a Barrier,
    patience: u32,
}

impl<'a> Member<'a> {
    /// Member number `tid` of a team that meets at `barrier`.
    pub fn new(tid: usize, barrier: &'a Barrier, patience: u32) -> Member<'a> {
        Member {
            tid,
            barrier,
            patience,
        }
    }

    /// Tells the watchdog how many rounds this thread has done.
    pub fn progress(&self, rounds: u64) {
        progress_of(self.tid).store(rounds, Ordering::Relaxed);
    }

    /// Spins until `done`; gives the CPU away now and then, in case threads share one.
    pub fn spin_until(&self, mut done: impl FnMut() -> bool) {
        let mut spins = 0;
        while !done() {
            spins += 1;
            if spins % self.patience == 0 {
                sys::yield_cpu();
            } else {
                std::hint::spin_loop();
            }
        }
    }

    /// Waits until all members of the team are here.
    pub fn meet(&self) {
        let barrier = self.barrier;
        let generation = barrier.generation.load(Ordering::Acquire);
        let arrived = barrier.arrived.fetch_add(1, Ordering::AcqRel) + 1;
        if arrived == barrier.members * (generation + 1) {
            barrier.generation.store(generation + 1, Ordering::Release);
        } else {
            self.spin_until(|| barrier.generation.load(Ordering::Acquire) != generation);
        }
    }
}

impl Member<'_> {
    /// Like `meet`, but all threads go on at the same moment, whose time-stamp is returned.
    ///
    /// Threads leave a plain barrier one after the other; a short piece of work behind it would
    /// be done by the first before the last has started. The time allowed for leaving adapts.
    pub fn start_together(&self) -> u64 {
        let barrier = self.barrier;
        self.meet();
        if self.tid == 0 {
            let margin = barrier.margin.load(Ordering::Relaxed);
            let margin = match barrier.late.swap(0, Ordering::Relaxed) {
                0 => margin - margin / 8,
                _ => margin * 2,
            };
            let margin = margin.clamp(*MARGIN.start(), *MARGIN.end());
            barrier.margin.store(margin, Ordering::Relaxed);
            barrier
                .start
                .store(asm::rdtsc() + margin, Ordering::Relaxed);
        }
        self.meet();
        let start = barrier.start.load(Ordering::Relaxed);
        if asm::rdtsc() > start {
            barrier.late.fetch_add(1, Ordering::Relaxed);
        }
        wait_until(start);
        start
    }
}

/// Rounds between two common starts, so that the threads meet even if one is much faster.
pub fn together_every(rounds: u64) -> u64 {
    rounds.div_ceil(32)
}

/// Whether each thread of a team would have a CPU of its own: only then do they run at once.
pub fn have_cpu_each(cpus: &[usize]) -> bool {
    let mut distinct = cpus.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    distinct.len() == cpus.len()
}

/// How often a member that waits looks before it gives its CPU away. With a CPU each that would only be a detour through
/// the kernel, whose pages another node may have.
pub fn patience(cpus: &[usize]) -> u32 {
    if have_cpu_each(cpus) {
        1_000_000
    } else {
        50
    }
}

/// Runs `body` on one thread for each entry of `cpus`, pinned there; results in that order.
/// All threads are on their CPU before the first one starts.
pub fn run<R: Send>(cpus: &[usize], body: impl Fn(&Member) -> R + Sync) -> Vec<R> {
    let patience = patience(cpus);
    let barrier = Box::new(Barrier::new(cpus.len()));
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (tid, &cpu) in cpus.iter().enumerate() {
            let (barrier, body) = (&*barrier, &body);
            let member = Member::new(tid, barrier, patience);
            let start = move || {
                if let Err(error) = sys::pin(cpu) {
                    give_up(&error);
                }
                member.meet();
                body(&member)
            };
            let thread = std::thread::Builder::new().spawn_scoped(scope, start);
            threads.push(thread.unwrap_or_else(|e| {
                let errno = e.raw_os_error().unwrap_or(0);
                give_up(&Error::Syscall {
                    call: "clone",
                    errno,
                })
            }));
        }
        let join = |t: std::thread::ScopedJoinHandle<R>| match t.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        threads.into_iter().map(join).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_waits_at_the_barrier() {
        let cpus: Vec<usize> = sys::allowed_cpus()
            .expect("affinity")
            .into_iter()
            .cycle()
            .take(4)
            .collect();
        let before = AtomicU64::new(0);
        let seen = run(&cpus, |member| {
            let mut seen = Vec::new();
            for _ in 0..100 {
                before.fetch_add(1, Ordering::SeqCst);
                member.meet();
                seen.push(before.load(Ordering::SeqCst));
                member.meet();
            }
            assert_eq!(sys::current_cpu().expect("getcpu"), cpus[member.tid]);
            seen
        });
        let expected: Vec<u64> = (1..=100).map(|n| n * 4).collect();
        for one in seen {
            assert_eq!(one, expected);
        }
    }

    #[test]
    fn standing_names_the_stage_and_its_threads() {
        assert_eq!(
            describe("clock", &[0, 9]),
            "clock: rounds done per thread [0, 9]"
        );
    }
}
