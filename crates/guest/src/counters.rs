//! Shared counters: every locked instruction counts exactly once, whatever the placement.

use crate::error::Result;
use crate::report::Report;
use crate::sys::{Mapping, PAGE};
use crate::team;
use crate::{apart, asm};
use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

/// Final values of the counters of one placement.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Totals {
    /// Name of the placement, for example `same-line`.
    pub placement: &'static str,
    /// (name, final value, width in bits)
    pub counters: Vec<(String, u64, u32)>,
}

/// Counters that do not hold `increments` modulo their width.
pub fn verdict(totals: &Totals, increments: u64) -> Vec<String> {
    let wrong = totals.counters.iter().filter_map(|(name, value, bits)| {
        let mask = u64::MAX >> (64 - bits);
        let expected = increments & mask;
        let lost = expected.wrapping_sub(*value) & mask;
        (*value != expected).then(|| {
            let place = totals.placement;
            format!("{place} {name}: {value} instead of {expected} ({lost} lost, modulo 2^{bits})")
        })
    });
    wrong.collect()
}

/// What `lock xadd` returned to the threads: all old values of 0..n exactly once, and rising
/// for each thread.
#[derive(Debug, Default, Clone, Copy)]
struct Fetched {
    sum: u128,
    backward: u64,
    switches: u64,
}

fn fetched_verdict(fetched: &[Fetched], increments: u64) -> Vec<String> {
    let n = u128::from(increments);
    let expected = n * n.saturating_sub(1) / 2;
    let sum: u128 = fetched.iter().map(|f| f.sum).sum();
    let backward: u64 = fetched.iter().map(|f| f.backward).sum();
    let mut failures = Vec::new();
    if sum != expected {
        failures.push(format!(
            "lock xadd returned values of sum {sum} instead of {expected}"
        ));
    }
    if backward > 0 {
        failures.push(format!("lock xadd went backwards {backward} times"));
    }
    failures
}

/// Increments between which another thread's came, of all threads.
pub fn contended_verdict(switches: u64, increments: u64, concurrent: bool) -> Vec<String> {
    // A few thousand increments may well be over before the other thread has begun.
    if switches > 0 || increments < 20_000 || !concurrent {
        return Vec::new();
    }
    vec!["no increment came between two of another thread: they never ran at the same time".into()]
}

fn report(name: &str, cpus: &[usize], rounds: u64, switches: u64, begin: Instant) -> Report {
    let increments = rounds * cpus.len() as u64;
    Report::new("counters")
        .with("placement", name)
        .with("cpus", cpus.iter().map(|&c| c as u64).collect::<Vec<u64>>())
        .with("rounds", rounds)
        .with("increments", increments)
        .with("switches", switches)
        .with("seconds", begin.elapsed().as_secs_f64())
        .failing(contended_verdict(
            switches,
            increments,
            team::have_cpu_each(cpus),
        ))
}

/// Counters of 1, 2, 4 and 8 bytes in one cache line, and the values that xadd returns.
fn same_line(cpus: &[usize], rounds: u64) -> Result<Report> {
    let page = Mapping::shared(1)?;
    let begin = Instant::now();
    let fetched = apart::run(cpus, |member| {
        let mut fetched = Fetched::default();
        let mut last = None;
        for round in 0..rounds {
            if round % team::together_every(rounds) == 0 {
                member.start_together();
            }
            page.u8(1).fetch_add(1, SeqCst);
            page.u16(2).fetch_add(1, SeqCst);
            page.u32(4).fetch_add(1, SeqCst);
            page.u64(16).fetch_add(1, SeqCst);
            // SAFETY: bytes 24..32 of a live page, reached by locked instructions only.
            let old = unsafe { asm::lock_xadd_u64(page.at(24), 1) };
            fetched.sum += u128::from(old);
            fetched.backward += u64::from(last.is_some_and(|last| old <= last));
            fetched.switches += u64::from(last.is_some_and(|last| old > last + 1));
            last = Some(old);
            member.progress(round + 1);
        }
        fetched
    })?;
    let totals = Totals {
        placement: "same-line",
        counters: vec![
            ("byte".into(), page.u8(1).load(SeqCst).into(), 8),
            ("2 bytes".into(), page.u16(2).load(SeqCst).into(), 16),
            ("4 bytes".into(), page.u32(4).load(SeqCst).into(), 32),
            ("8 bytes".into(), page.u64(16).load(SeqCst), 64),
            ("xadd".into(), page.u64(24).load(SeqCst), 64),
        ],
    };
    let increments = rounds * cpus.len() as u64;
    let switches = fetched.iter().map(|f| f.switches).sum();
    Ok(report("same-line", cpus, rounds, switches, begin)
        .failing(verdict(&totals, increments))
        .failing(fetched_verdict(&fetched, increments)))
}

/// Four 8-byte counters `stride` bytes apart, each incremented by every thread.
fn spread(name: &'static str, stride: usize, cpus: &[usize], rounds: u64) -> Result<Report> {
    let pages = Mapping::shared((3 * stride) / PAGE + 1)?;
    let begin = Instant::now();
    let switches = apart::run(cpus, |member| {
        let (mut switches, mut last) = (0, [None; 4]);
        for round in 0..rounds {
            if round % team::together_every(rounds) == 0 {
                member.start_together();
            }
            for i in 0..4 {
                // Each thread starts at another counter, so that they meet in all of them.
                let counter = (i + member.tid) % 4;
                let old = pages.u64(counter * stride).fetch_add(1, SeqCst);
                switches += u64::from(last[counter].is_some_and(|last| old > last + 1));
                last[counter] = Some(old);
            }
            member.progress(round + 1);
        }
        switches
    })?;
    let value = |i: usize| {
        let value = pages.u64(i * stride).load(SeqCst);
        (format!("counter {i}"), value, 64)
    };
    let totals = Totals {
        placement: name,
        counters: (0..4).map(value).collect(),
    };
    let increments = rounds * cpus.len() as u64;
    Ok(report(name, cpus, rounds, switches.iter().sum(), begin)
        .failing(verdict(&totals, increments)))
}

/// A 16-byte counter by `lock cmpxchg16b`.
fn wide(cpus: &[usize], rounds: u64) -> Result<Report> {
    let page = Mapping::shared(1)?;
    let begin = Instant::now();
    let switches = apart::run(cpus, |member| {
        let (mut switches, mut last) = (0, None);
        for round in 0..rounds {
            if round % team::together_every(rounds) == 0 {
                member.start_together();
            }
            // SAFETY: 16-byte aligned (offset 64 of a page) and live; CPUID was asked.
            let old = unsafe { asm::lock_cmpxchg16b_add(page.at(64).cast()) };
            switches += u64::from(last.is_some_and(|last| old > last + 1));
            last = Some(old);
            member.progress(round + 1);
        }
        switches
    })?;
    let increments = rounds * cpus.len() as u64;
    let high = page.u64(72).load(SeqCst);
    let totals = Totals {
        placement: "cmpxchg16b",
        counters: vec![
            ("low half".into(), page.u64(64).load(SeqCst), 64),
            // The high half counts in twos, so half of it is the number of increments.
            ("high half / 2".into(), high / 2, 64),
            ("high half, odd".into(), increments + high % 2, 64),
        ],
    };
    Ok(
        report("cmpxchg16b", cpus, rounds, switches.iter().sum(), begin)
            .failing(verdict(&totals, increments)),
    )
}

/// All placements, `rounds` increments of every counter by every thread.
pub fn run(cpus: &[usize], rounds: u64, mut each: impl FnMut(Report)) -> Result<()> {
    let stage = |name: &str| team::enter_stage(&format!("counters {name}"), cpus.len());
    stage("same-line");
    each(same_line(cpus, rounds)?);
    stage("same-page");
    each(spread("same-page", 64, cpus, rounds)?);
    stage("pages");
    each(spread("pages", PAGE, cpus, rounds)?);
    if asm::has_cmpxchg16b() {
        stage("cmpxchg16b");
        each(wide(cpus, rounds)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(value: u64, bits: u32) -> Totals {
        Totals {
            placement: "test",
            counters: vec![("c".into(), value, bits)],
        }
    }

    #[test]
    fn lost_and_extra_increments_fail() {
        assert!(verdict(&totals(200_000, 64), 200_000).is_empty());
        let lost = verdict(&totals(199_999, 64), 200_000);
        assert!(lost[0].contains("(1 lost"), "{lost:?}");
        assert_eq!(verdict(&totals(200_001, 64), 200_000).len(), 1);
    }

    #[test]
    fn narrow_counters_wrap() {
        assert!(verdict(&totals(200_000 % 256, 8), 200_000).is_empty());
        assert_eq!(verdict(&totals(200_000 % 256 + 1, 8), 200_000).len(), 1);
        assert!(verdict(&totals(200_000 % 65_536, 16), 200_000).is_empty());
    }

    #[test]
    fn a_value_fetched_twice_fails() {
        let fetched = |sum, backward| Fetched {
            sum,
            backward,
            switches: 0,
        };
        let good = [fetched(1 + 3, 0), fetched(2, 0)];
        assert!(fetched_verdict(&good, 4).is_empty());
        let twice = [fetched(1 + 3, 0), fetched(3, 0)];
        assert_eq!(fetched_verdict(&twice, 4).len(), 1);
        assert_eq!(fetched_verdict(&[fetched(6, 1)], 4).len(), 1);
    }

    #[test]
    fn counters_that_nobody_fought_for_fail() {
        assert!(contended_verdict(1, 200_000, true).is_empty());
        assert_eq!(contended_verdict(0, 200_000, true).len(), 1);
        assert!(contended_verdict(0, 200_000, false).is_empty());
        assert!(contended_verdict(0, 100, true).is_empty());
    }

    #[test]
    fn this_machine_counts() {
        let cpus = crate::sys::allowed_cpus().expect("affinity");
        let mut reports = 0;
        run(&cpus, 2000, |report| {
            assert!(report.ok(), "{}", report.text());
            reports += 1;
        })
        .expect("run");
        assert!(reports >= 3);
    }
}
