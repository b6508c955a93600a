//! A soak: threads of several nodes work on one region and judge all that they read; see [`plan`].

mod memory;
mod plan;
mod program;
mod trap;
mod verify;

use crate::command::{Answer, SoakPlan};
use lev_region::{Region, RegionError};
use memory::Memory;
use plan::{Plan, GROUP_PAGES};
use program::{Finding, Program, Progress};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the threads are looked at.
const TICK: Duration = Duration::from_millis(100);
/// What is said of a thread that panicked.
const FAILED: &str = "a thread failed";
/// Numbers of pairs are kept in 32 bits.
const MOST_WRITERS: u64 = 4096;

/// The soak of one region on this node.
pub struct Soak {
    plan: Plan,
    memory: Memory,
    programs: Vec<Program>,
}

/// A thread at work.
struct Worker {
    thread: JoinHandle<Program>,
    progress: Arc<Progress>,
    done: u64,
    silent: u32,
}

impl Soak {
    /// Makes the programs of this node's threads.
    ///
    /// # Errors
    /// The region or the number of threads does not fit.
    pub fn new(
        region: &Region,
        described: &SoakPlan,
        node: u64,
        nodes: u64,
    ) -> Result<Self, String> {
        let memory = Memory::of(region);
        let plan = Plan {
            seed: described.seed,
            pages: memory.pages(),
            writers: nodes * described.threads,
        };
        if plan.pages == 0 || plan.pages % GROUP_PAGES != 0 {
            return Err(format!(
                "{} pages: a soak takes a multiple of {GROUP_PAGES}",
                plan.pages
            ));
        }
        if described.threads == 0 || plan.writers > MOST_WRITERS {
            return Err(format!("{} threads of 1 to {MOST_WRITERS}", plan.writers));
        }
        trap::watch(memory.base(), region.len())?;
        let program = |thread| {
            let writer = node * described.threads + thread;
            Program::new(plan.clone(), memory.clone(), writer, Arc::default())
        };
        Ok(Self {
            programs: (0..described.threads).map(program).collect(),
            plan,
            memory,
        })
    }

    /// Lets all threads work for so long (`None`: until a node is lost).
    ///
    /// # Errors
    /// A node is lost, or a thread got nowhere for `stall`: threads are left behind then, and the soak with them.
    pub fn work(
        self,
        region: &Region,
        time: Option<Duration>,
        stall: Duration,
    ) -> Result<Self, String> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut workers = self
            .programs
            .into_iter()
            .map(|program| Worker::start(program, Arc::clone(&stop)))
            .collect::<Result<Vec<_>, _>>()?;
        let start = Instant::now();
        while workers.iter().any(|worker| !worker.thread.is_finished()) {
            if time.is_some_and(|time| start.elapsed() >= time) {
                stop.store(true, Ordering::Release);
            }
            watch(region)?;
            for worker in &mut workers {
                worker.look(region, stall)?;
            }
        }
        let programs = workers
            .into_iter()
            .map(|worker| worker.thread.join().map_err(|_| FAILED.to_owned()))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self { programs, ..self })
    }

    /// Operations done so far, and what was wrong.
    pub fn report(&mut self, region: &Region) -> Answer {
        let mut operations = BTreeMap::new();
        let mut findings = Vec::new();
        for program in &mut self.programs {
            for (name, count) in program.tally.named() {
                *operations.entry(name).or_insert(0) += count;
            }
            findings.append(&mut program.findings);
        }
        Answer::Worked {
            operations,
            findings: describe(region, &findings),
        }
    }

    /// Judges the whole region while nobody works; what was counted here and what the memory says of it.
    ///
    /// # Errors
    /// A node is lost: the soak is left behind with the thread that reads.
    pub fn verify(self, region: &Region) -> Result<(Self, Answer), String> {
        let body = move || {
            let verdict = verify::verify(&self.plan, &self.memory, &self.programs);
            (self, verdict)
        };
        let thread = spawn(body)?;
        while !thread.is_finished() {
            watch(region)?;
        }
        let (soak, verdict) = thread.join().map_err(|_| FAILED.to_owned())?;
        let answer = Answer::Verified {
            findings: describe(region, &verdict.findings),
            digests: verdict.digests,
            counters: verdict.counters,
            added: soak.sum(|program| &program.added),
            versions: verdict.versions,
            made: soak.sum(|program| &program.made),
        };
        Ok((soak, answer))
    }

    /// What all threads of this node counted together, place by place.
    fn sum(&self, part: fn(&Program) -> &Vec<u64>) -> Vec<u64> {
        let mut sums = vec![0; self.programs.first().map_or(0, |first| part(first).len())];
        for program in &self.programs {
            for (sum, count) in sums.iter_mut().zip(part(program)) {
                *sum += count;
            }
        }
        sums
    }
}

/// Starts a thread that touches the region: if that is lost, it never ends.
fn spawn<T: Send + 'static>(
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, String> {
    let thread = std::thread::Builder::new().name("work".into()).spawn(body);
    thread.map_err(|error| format!("starting a thread: {error}"))
}

/// Lets a moment pass.
///
/// # Errors
/// A node is lost.
fn watch(region: &Region) -> Result<(), String> {
    if driver_is_gone() {
        std::process::exit(1);
    }
    // Nobody comes to this barrier: the wait ends early only if a node is lost, or if all others have left.
    match region.await_others(u64::MAX, TICK) {
        Ok(()) => std::thread::sleep(TICK),
        Err(RegionError::Missing { .. }) => {}
        Err(error) => return Err(error.to_string()),
    }
    Ok(())
}

impl Worker {
    fn start(mut program: Program, stop: Arc<AtomicBool>) -> Result<Self, String> {
        let progress = program.progress();
        let body = move || {
            program.run(&stop);
            program
        };
        Ok(Self {
            thread: spawn(body)?,
            progress,
            done: 0,
            silent: 0,
        })
    }

    /// Counts looks without progress instead of reading a clock, so that a process that was itself stopped blames nobody.
    fn look(&mut self, region: &Region, stall: Duration) -> Result<(), String> {
        let done = self.progress.done.load(Ordering::Relaxed);
        if done != self.done || self.thread.is_finished() {
            (self.done, self.silent) = (done, 0);
            return Ok(());
        }
        self.silent += 1;
        if TICK * self.silent < stall {
            return Ok(());
        }
        let offset = self.progress.word.load(Ordering::Relaxed) * 8;
        Err(format!(
            "a thread has been at offset {offset:#x} for {} s: {}",
            stall.as_secs(),
            region.describe(offset)
        ))
    }
}

/// Findings as text, with what the engine knows of each page.
fn describe(region: &Region, findings: &[Finding]) -> Vec<String> {
    let text =
        |finding: &Finding| format!("{} [{}]", finding.text, region.describe(finding.offset));
    findings.iter().map(text).collect()
}

/// Whether nobody holds the other end of standard input any more.
fn driver_is_gone() -> bool {
    let mut entry = libc::pollfd {
        fd: 0,
        events: 0,
        revents: 0,
    };
    // SAFETY: one valid entry, exclusively borrowed for the call, which does not wait.
    unsafe { libc::poll(&mut entry, 1, 0) > 0 && entry.revents & libc::POLLHUP != 0 }
}
