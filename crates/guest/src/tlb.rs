//! Page-table changes must reach every CPU: when a system call that changes a page has
//! returned, no other CPU may use the old translation. A stale TLB or shadow entry shows as an
//! old value, a missing fault or a lost store.
//!
//! One thread changes a page step by step; after each step it publishes what must be seen now,
//! and every observer probes the page by a load and a store.

use crate::error::{Error, Result};
use crate::probe;
use crate::report::Report;
use crate::sys::{Mapping, PAGE};
use crate::team::{self, Member};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::time::Instant;

/// Pages that take turns.
const PAGES: usize = 16;

/// One change of a page. Each leaves the page as the next one needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Store,
    ReadOnly,
    NoAccess,
    Writable,
    Replace,
    Discard,
    Unmap,
    MapAnew,
}

const STEPS: [Step; 8] = [
    Step::Store,
    Step::ReadOnly,
    Step::NoAccess,
    Step::Writable,
    Step::Replace,
    Step::Discard,
    Step::Unmap,
    Step::MapAnew,
];

impl Step {
    fn name(self) -> &'static str {
        match self {
            Step::Store => "store",
            Step::ReadOnly => "mprotect read",
            Step::NoAccess => "mprotect none",
            Step::Writable => "mprotect write",
            Step::Replace => "mremap over",
            Step::Discard => "madvise dontneed",
            Step::Unmap => "munmap",
            Step::MapAnew => "mmap",
        }
    }

    fn readable(self) -> bool {
        !matches!(self, Step::NoAccess | Step::Unmap)
    }

    fn writable(self) -> bool {
        self.readable() && self != Step::ReadOnly
    }

    /// First word of the page after this step in round `round`; each round stores its own
    /// number plus one.
    fn value(self, round: u64) -> u64 {
        match self {
            Step::Store | Step::Replace | Step::MapAnew => round + 1,
            // The value stored by `Store`, one or three rounds ago.
            Step::ReadOnly => round,
            Step::Writable => round - 2,
            Step::Discard | Step::NoAccess | Step::Unmap => 0,
        }
    }
}

/// What happens in a round, and where.
fn round_of(round: u64) -> (Step, usize) {
    let steps = STEPS.len() as u64;
    let step = STEPS[(round % steps) as usize];
    (step, (round / steps) as usize % PAGES * PAGE)
}

/// Wrong observations after one kind of step.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Wrong {
    /// An old value was loaded.
    pub stale: u64,
    /// A load or store worked where it must fault.
    pub no_fault: u64,
    /// A load or store faulted where it must work.
    pub faulted: u64,
    /// A store that worked is not in memory.
    pub lost: u64,
}

impl Wrong {
    fn add(&mut self, other: &Wrong) {
        self.stale += other.stale;
        self.no_fault += other.no_fault;
        self.faulted += other.faulted;
        self.lost += other.lost;
    }
}

/// Wrong observations by the name of the step before them.
pub type Findings = BTreeMap<&'static str, Wrong>;

/// Every wrong observation fails.
pub fn verdict(findings: &Findings) -> Vec<String> {
    let mut failures = Vec::new();
    for (step, wrong) in findings {
        for (n, what) in [
            (wrong.stale, "loads of an old value"),
            (wrong.no_fault, "accesses that should have faulted"),
            (wrong.faulted, "accesses that should not have faulted"),
            (wrong.lost, "stores lost"),
        ] {
            if n > 0 {
                failures.push(format!("after {step}: {n} {what}"));
            }
        }
    }
    failures
}

/// What a probe of a page found.
struct Seen {
    loaded: Option<u64>,
    stored: bool,
}

fn judge(step: Step, round: u64, seen: &Seen) -> Wrong {
    let mut wrong = Wrong::default();
    match (step.readable(), seen.loaded) {
        (true, Some(value)) => wrong.stale += u64::from(value != step.value(round)),
        (true, None) => wrong.faulted += 1,
        (false, Some(_)) => wrong.no_fault += 1,
        (false, None) => {}
    }
    match (step.writable(), seen.stored) {
        (true, false) => wrong.faulted += 1,
        (false, true) => wrong.no_fault += 1,
        _ => {}
    }
    wrong
}

struct Stage<'a> {
    arena: &'a Mapping,
    control: &'a Mapping,
    observers: u64,
}

impl Stage<'_> {
    /// Makes the change of a round. A page that is mapped again always is within the arena.
    fn change(&self, step: Step, offset: usize, round: u64) -> Result<()> {
        let page: *mut libc::c_void = self.arena.at(offset).cast();
        let both = libc::PROT_READ | libc::PROT_WRITE;
        let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let nowhere = std::ptr::null_mut();
        // SAFETY: every call changes one page of the arena, which this check owns; observers
        // reach it by probes only, which expect faults. The staging page is new.
        let (call, good) = unsafe {
            match step {
                Step::Store => ("store", probe::store(page as usize, round + 1)),
                Step::ReadOnly => ("mprotect", libc::mprotect(page, PAGE, libc::PROT_READ) == 0),
                Step::NoAccess => ("mprotect", libc::mprotect(page, PAGE, libc::PROT_NONE) == 0),
                Step::Writable => ("mprotect", libc::mprotect(page, PAGE, both) == 0),
                Step::Replace => {
                    let new = libc::mmap(nowhere, PAGE, both, anonymous, -1, 0);
                    if new == libc::MAP_FAILED {
                        return Err(Error::last("mmap"));
                    }
                    probe::store(new as usize, round + 1);
                    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
                    ("mremap", libc::mremap(new, PAGE, PAGE, flags, page) == page)
                }
                Step::Discard => (
                    "madvise",
                    libc::madvise(page, PAGE, libc::MADV_DONTNEED) == 0,
                ),
                Step::Unmap => ("munmap", libc::munmap(page, PAGE) == 0),
                Step::MapAnew => {
                    let flags = anonymous | libc::MAP_FIXED;
                    let mapped = libc::mmap(page, PAGE, both, flags, -1, 0) == page;
                    ("mmap", mapped && probe::store(page as usize, round + 1))
                }
            }
        };
        good.then_some(()).ok_or_else(|| Error::last(call))
    }

    fn act(&self, member: &Member, rounds: u64) -> Findings {
        let (published, seen) = (self.control.u64(0), self.control.u64(64));
        let mut findings = Findings::new();
        for round in 0..rounds {
            let (step, offset) = round_of(round);
            if let Err(error) = self.change(step, offset, round) {
                team::give_up(&error);
            }
            published.store(round + 1, Release);
            member.spin_until(|| seen.load(Acquire) == (round + 1) * self.observers);
            if step.writable() {
                let stored = (1..=self.observers as usize)
                    .filter(|i| probe::load(self.word(offset, *i)) == Some(round + 1))
                    .count() as u64;
                findings.entry(step.name()).or_default().lost += self.observers - stored;
            }
            member.progress(round + 1);
        }
        findings
    }

    /// The word of a page that an observer stores to.
    fn word(&self, offset: usize, observer: usize) -> usize {
        self.arena.at(offset + observer * 8) as usize
    }

    fn observe(&self, member: &Member, rounds: u64) -> Findings {
        let (published, seen) = (self.control.u64(0), self.control.u64(64));
        let mut findings = Findings::new();
        for round in 0..rounds {
            let (step, offset) = round_of(round);
            let first = self.arena.at(offset) as usize;
            // On every other page the observers keep using the translation while it changes.
            let racing = (offset / PAGE) % 2 == 1;
            member.spin_until(|| {
                if racing {
                    probe::load(first);
                }
                published.load(Acquire) > round
            });
            let word = self.word(offset, member.tid);
            let result = Seen {
                loaded: probe::load(first),
                // SAFETY: a word of the arena that only this thread stores to.
                stored: unsafe { probe::store(word, round + 1) },
            };
            findings
                .entry(step.name())
                .or_default()
                .add(&judge(step, round, &result));
            seen.fetch_add(1, SeqCst);
            member.progress(round + 1);
        }
        findings
    }
}

/// `rounds` page-table changes by the first CPU, observed by the others.
pub fn run(cpus: &[usize], rounds: u64) -> Result<Report> {
    team::enter_stage("tlb", cpus.len());
    probe::install()?;
    let (arena, control) = (Mapping::new(PAGES)?, Mapping::new(1)?);
    let stage = Stage {
        arena: &arena,
        control: &control,
        observers: cpus.len() as u64 - 1,
    };
    let begin = Instant::now();
    let all = team::run(cpus, |member| match member.tid {
        0 => stage.act(member, rounds),
        _ => stage.observe(member, rounds),
    });
    let mut findings = Findings::new();
    for (step, wrong) in all.iter().flatten() {
        findings.entry(step).or_default().add(wrong);
    }
    let observed = control.u64(64).load(Relaxed);
    let mut failures = verdict(&findings);
    if observed != rounds * stage.observers || observed == 0 {
        failures.push(format!("{observed} observations of {rounds} changes"));
    }
    Ok(Report::new("tlb")
        .with("part", "page tables")
        .with("cpus", cpus.iter().map(|&c| c as u64).collect::<Vec<u64>>())
        .with("changes", rounds)
        .with("observations", observed)
        .with("seconds", begin.elapsed().as_secs_f64())
        .failing(failures))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(loaded: Option<u64>, stored: bool) -> Seen {
        Seen { loaded, stored }
    }

    #[test]
    fn every_kind_of_stale_translation_is_judged_wrong() {
        let good = Wrong::default();
        assert_eq!(judge(Step::Store, 8, &seen(Some(9), true)), good);
        assert_eq!(judge(Step::Replace, 8, &seen(Some(5), true)).stale, 1);
        assert_eq!(judge(Step::ReadOnly, 9, &seen(Some(9), false)), good);
        assert_eq!(judge(Step::ReadOnly, 9, &seen(Some(9), true)).no_fault, 1);
        assert_eq!(judge(Step::NoAccess, 9, &seen(None, false)), good);
        assert_eq!(judge(Step::Unmap, 9, &seen(Some(0), false)).no_fault, 1);
        assert_eq!(judge(Step::MapAnew, 9, &seen(None, true)).faulted, 1);
        assert_eq!(judge(Step::Discard, 9, &seen(Some(5), true)).stale, 1);
    }

    #[test]
    fn any_wrong_observation_fails() {
        let mut findings = Findings::from([("munmap", Wrong::default())]);
        assert!(verdict(&findings).is_empty());
        let all = Wrong {
            stale: 1,
            no_fault: 2,
            faulted: 3,
            lost: 4,
        };
        findings.insert("mmap", all);
        let failures = verdict(&findings);
        assert_eq!(failures.len(), 4);
        assert_eq!(failures[0], "after mmap: 1 loads of an old value");
    }

    #[test]
    fn values_follow_the_steps_of_a_page() {
        let mut value = 0;
        for round in 0..64 {
            let (step, _) = round_of(round);
            match step {
                Step::Store | Step::Replace | Step::MapAnew => value = round + 1,
                Step::Discard => value = 0,
                _ => {}
            }
            if step.readable() {
                assert_eq!(step.value(round), value, "{step:?}");
            }
        }
    }

    #[test]
    fn this_machine_shoots_down() {
        let cpus = crate::sys::allowed_cpus().expect("affinity");
        if cpus.len() >= 2 {
            let report = run(&cpus, 2000).expect("run");
            assert!(report.ok(), "{}", report.text());
        }
    }
}
