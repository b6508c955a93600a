//! Pinned threads that work together: barriers, bounded spinning, progress for the watchdog.

use crate::asm;
use crate::error::Error;
use crate::sys;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;
use std::time::Duration;

/// One page for each thread's progress, so that reporting it makes no page move between nodes.
#[repr(align(4096))]
struct Slot(AtomicU64);

const SLOTS: usize = 64;
static PROGRESS: [Slot; SLOTS] = [const { Slot(AtomicU64::new(0)) }; SLOTS];
static STAGE: Mutex<(String, usize)> = Mutex::new((String::new(), 0));

/// Names what runs now (for the watchdog) and clears the progress of its `threads`.
pub fn enter_stage(name: &str, threads: usize) {
    if let Ok(mut stage) = STAGE.lock() {
        *stage = (name.to_string(), threads.min(SLOTS));
    }
    PROGRESS
        .iter()
        .for_each(|slot| slot.0.store(0, Ordering::Relaxed));
}

/// Where the run stands, for example `clock: rounds done per thread [512, 511]`.
pub fn standing() -> String {
    let (name, threads) = STAGE.lock().map(|s| s.clone()).unwrap_or_default();
    let done = PROGRESS.iter().take(threads);
    let done: Vec<u64> = done.map(|slot| slot.0.load(Ordering::Relaxed)).collect();
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
struct Barrier {
    arrived: AtomicU64,
    generation: AtomicU64,
    members: u64,
    start: AtomicU64,
    margin: AtomicU64,
    late: AtomicU64,
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

impl Member<'_> {
    /// Tells the watchdog how many rounds this thread has done.
    pub fn progress(&self, rounds: u64) {
        PROGRESS[self.tid % SLOTS]
            .0
            .store(rounds, Ordering::Relaxed);
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

/// Whether each thread of a team would have a CPU of its own: only then do they run at once.
pub fn have_cpu_each(cpus: &[usize]) -> bool {
    let mut distinct = cpus.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    distinct.len() == cpus.len()
}

/// Runs `body` on one thread for each entry of `cpus`, pinned there; results in that order.
/// All threads are on their CPU before the first one starts.
pub fn run<R: Send>(cpus: &[usize], body: impl Fn(&Member) -> R + Sync) -> Vec<R> {
    // With a CPU for each thread, yielding is only a safety net.
    let patience = if have_cpu_each(cpus) { 20_000 } else { 50 };
    let barrier = Box::new(Barrier {
        arrived: AtomicU64::new(0),
        generation: AtomicU64::new(0),
        members: cpus.len() as u64,
        start: AtomicU64::new(0),
        margin: AtomicU64::new(*MARGIN.start()),
        late: AtomicU64::new(0),
    });
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (tid, &cpu) in cpus.iter().enumerate() {
            let (barrier, body) = (&*barrier, &body);
            let member = Member {
                tid,
                barrier,
                patience,
            };
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
