//! Accesses that cross a cache line or a page whose two halves bounce between nodes.
//!
//! x86 promises that locked accesses are atomic at any alignment. A plain access that crosses a
//! line promises little: each byte is written once and in program order with other stores. So
//! the plain part demands per byte: only values of the stores under way, never an older one than
//! before, neighbours untouched. Halves that mix two of them are counted, not judged.

use crate::error::Result;
use crate::report::Report;
use crate::stretches::stretches;
use crate::sys::{Mapping, PAGE};
use crate::team::{self, Member};
use crate::{apart, asm};
use std::hint::spin_loop;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::time::Instant;

/// After a store its writer pauses 0, 1, … times, fewer than so many.
const PAUSES: u64 = 32;
/// Increments of both halves of a counter, so that a torn addition shows in either half.
const STEP: u64 = (1 << 32) + 1;

/// A counter that crosses must hold exactly `increments` in both halves.
pub fn locked_verdict(place: &str, value: u64, increments: u64) -> Vec<String> {
    let expected = increments.wrapping_mul(STEP);
    if value == expected {
        return Vec::new();
    }
    vec![format!(
        "{place}: {value:#018x} instead of {expected:#018x}"
    )]
}

/// Locked additions at the end of a cache line and at the end of a page.
fn locked(cpus: &[usize], rounds: u64) -> Result<Report> {
    team::enter_stage("pagecross locked", cpus.len());
    let pages = Mapping::shared(4)?;
    // 4 + 4 bytes, and 1 + 7 bytes to catch what treats halves as words.
    let places = [
        ("line 4+4", 64 - 4),
        ("line 1+7", 128 - 1),
        ("page 4+4", 2 * PAGE - 4),
        ("page 1+7", 3 * PAGE - 1),
    ];
    let begin = Instant::now();
    apart::run(cpus, |member| {
        for round in 0..rounds {
            for (_, offset) in places {
                // SAFETY: 8 bytes at each place lie inside the four pages; during the run they
                // are reached by locked additions only.
                unsafe { asm::lock_xadd_u64(pages.at(offset), STEP) };
            }
            member.progress(round + 1);
        }
    })?;
    let increments = rounds * cpus.len() as u64;
    let mut report = Report::new("pagecross")
        .with("access", "locked")
        .with("cpus", cpus.iter().map(|&c| c as u64).collect::<Vec<u64>>())
        .with("rounds", rounds)
        .with("seconds", begin.elapsed().as_secs_f64());
    for (name, offset) in places {
        // SAFETY: inside the pages; all threads have ended.
        let value = unsafe { asm::load_u64(pages.at(offset)) };
        report = report.failing(locked_verdict(name, value, increments));
    }
    Ok(report)
}

/// What the observers of plain stores found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Observed {
    /// Bytes that held none of the values being written, nor the one before.
    pub foreign: u64,
    /// Bytes that went back to an older value.
    pub backward: u64,
    /// Words that were not as their only writer had left them.
    pub clobbered: u64,
    /// 4-byte halves seen with bytes of several stores (allowed).
    pub torn_halves: u64,
}

impl Observed {
    /// Judges one look at the 8 bytes while `old` is being replaced by `old + 1` and so on, `stores` times; `arrived`
    /// is how many of the stores each byte has been seen to have.
    fn look(&mut self, bytes: [u8; 8], old: u8, stores: u8, arrived: &mut [u8; 8]) {
        for (byte, arrived) in bytes.into_iter().zip(arrived) {
            let ahead = byte.wrapping_sub(old);
            if ahead > stores {
                self.foreign += 1;
            } else if ahead < *arrived {
                self.backward += 1;
            } else {
                *arrived = ahead;
            }
        }
        let torn = |half: &&[u8]| half.iter().any(|byte| *byte != half[0]);
        self.torn_halves += bytes.chunks(4).filter(torn).count() as u64;
    }

    fn join(all: &[Observed]) -> Observed {
        all.iter().fold(Observed::default(), |a, b| Observed {
            foreign: a.foreign + b.foreign,
            backward: a.backward + b.backward,
            clobbered: a.clobbered + b.clobbered,
            torn_halves: a.torn_halves + b.torn_halves,
        })
    }
}

/// What was wrong in one of the three ways.
pub fn plain_verdict(seen: &Observed) -> Vec<String> {
    let kinds = [
        (seen.foreign, "bytes held a value that nobody stored there"),
        (seen.backward, "bytes went back to an older value"),
        (
            seen.clobbered,
            "times a word was not as its only writer had left it",
        ),
    ];
    let wrong = kinds.iter().filter(|(n, _)| *n > 0);
    wrong.map(|(n, what)| format!("{n} {what}")).collect()
}

struct Plain<'a> {
    pages: &'a Mapping,
    crossing: usize,
    published: &'a AtomicU64,
    seen: &'a AtomicU64,
    observers: u64,
}

impl Plain<'_> {
    /// Stores the value of each round over the boundary; waits for the observers after each stretch.
    fn write(&self, member: &Member, rounds: u64) -> Observed {
        let mut observed = Observed::default();
        let word = self.pages.at(self.crossing);
        let value = |round: u64| u64::from_ne_bytes([round as u8; 8]);
        for stretch in stretches(rounds) {
            self.published.store(stretch.end, Release);
            // SAFETY: the 8 bytes lie inside the pages; only this thread stores to them.
            unsafe {
                // Only now: right after a store the load would be served from it.
                observed.clobbered += u64::from(asm::load_u64(word) != value(stretch.start));
                for round in stretch.clone() {
                    asm::store_u64(word, value(round + 1));
                    // Time for the observers to see this one.
                    (0..round % PAUSES).for_each(|_| spin_loop());
                }
            }
            member.spin_until(|| self.seen.load(Acquire) == stretch.end * self.observers);
            member.progress(stretch.end);
        }
        observed
    }

    /// Looks at the bytes until all are new, while storing to the bytes beside them.
    fn observe(&self, member: &Member, rounds: u64) -> Observed {
        let mut observed = Observed::default();
        // The first observer owns the bytes before the crossing word, the last those after.
        let last = self.observers as usize;
        let sides = [(1, self.crossing - 8), (last, self.crossing + 8)];
        let own = sides.into_iter().filter(|(owner, _)| *owner == member.tid);
        let own: Vec<*mut u8> = own.map(|(_, offset)| self.pages.at(offset)).collect();
        let mut stamp = 0;
        for stretch in stretches(rounds) {
            member.spin_until(|| self.published.load(Acquire) >= stretch.end);
            let stores = stretch.end - stretch.start;
            let mut arrived = [0; 8];
            let mut looks = 0u64;
            member.spin_until(|| {
                looks += 1;
                let next = stretch.end << 16 | looks & 0xffff;
                let bytes = std::array::from_fn(|i| self.pages.u8(self.crossing + i).load(Relaxed));
                for &own in &own {
                    // SAFETY: these 8 bytes lie inside the pages and are this thread's alone.
                    unsafe {
                        // Only now: right after a store the load would be served from it.
                        observed.clobbered += u64::from(asm::load_u64(own) != stamp);
                        asm::store_u64(own, next);
                    }
                }
                stamp = next;
                observed.look(bytes, stretch.start as u8, stores as u8, &mut arrived);
                // A byte with a foreign value never arrives: do not wait for it for ever.
                arrived == [stores as u8; 8] || observed.foreign > 1000
            });
            self.seen.fetch_add(stores, SeqCst);
            member.progress(stretch.end);
        }
        observed
    }
}

fn plain(name: &str, crossing: usize, cpus: &[usize], rounds: u64) -> Result<Report> {
    team::enter_stage(&format!("pagecross {name}"), cpus.len());
    let pages = Mapping::shared(2)?;
    let control = Mapping::shared(1)?;
    let (published, seen) = (control.u64(0), control.u64(64));
    let plain = Plain {
        pages: &pages,
        crossing,
        published,
        seen,
        observers: cpus.len() as u64 - 1,
    };
    let begin = Instant::now();
    let observed = apart::run(cpus, |member| match member.tid {
        0 => plain.write(member, rounds),
        _ => plain.observe(member, rounds),
    })?;
    let observed = Observed::join(&observed);
    Ok(Report::new("pagecross")
        .with("access", name)
        .with("cpus", cpus.iter().map(|&c| c as u64).collect::<Vec<u64>>())
        .with("rounds", rounds)
        .with("torn_halves", observed.torn_halves)
        .with("seconds", begin.elapsed().as_secs_f64())
        .failing(plain_verdict(&observed)))
}

/// Locked and plain accesses over both kinds of boundary.
pub fn run(cpus: &[usize], rounds: u64, mut each: impl FnMut(Report)) -> Result<()> {
    each(locked(cpus, rounds)?);
    each(plain("plain line", PAGE / 2 - 4, cpus, rounds)?);
    each(plain("plain page", PAGE - 4, cpus, rounds)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_lost_addition_fails() {
        assert!(locked_verdict("page", 10 * STEP, 10).is_empty());
        assert_eq!(locked_verdict("page", 10 * STEP - 1, 10).len(), 1);
        assert_eq!(locked_verdict("page", 10 * STEP - (1 << 32), 10).len(), 1);
    }

    #[test]
    fn looks_tell_old_new_foreign_and_backward_apart() {
        let mut o = Observed::default();
        let mut arrived = [0; 8];
        o.look([255, 255, 255, 255, 1, 1, 1, 1], 255, 2, &mut arrived);
        assert_eq!(
            (o, arrived),
            (Observed::default(), [0, 0, 0, 0, 2, 2, 2, 2])
        );
        o.look([255, 0, 255, 255, 1, 1, 1, 1], 255, 2, &mut arrived);
        assert_eq!((o.torn_halves, arrived), (1, [0, 1, 0, 0, 2, 2, 2, 2]));
        assert!(plain_verdict(&o).is_empty());
        o.look([255, 255, 0, 0, 1, 1, 1, 2], 255, 2, &mut arrived);
        assert_eq!((o.foreign, o.backward), (1, 1));
        assert_eq!(plain_verdict(&o).len(), 2);
    }

    #[test]
    fn clobbered_neighbours_fail() {
        let o = Observed {
            clobbered: 1,
            ..Observed::default()
        };
        assert_eq!(plain_verdict(&o).len(), 1);
    }

    #[test]
    fn this_machine_crosses_boundaries() {
        let cpus = crate::sys::allowed_cpus().expect("affinity");
        if cpus.len() < 2 {
            return;
        }
        let mut reports = 0;
        run(&cpus, 500, |report| {
            assert!(report.ok(), "{}", report.text());
            reports += 1;
        })
        .expect("run");
        assert_eq!(reports, 3);
    }
}
