//! Time must not run backwards between CPUs: a token goes round, each holder compares its clock
//! with what the previous one read before passing the token on.

use crate::error::Result;
use crate::report::Report;
use crate::sys::{clock_ns, Mapping};
use crate::team;
use crate::{apart, asm};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Instant;

/// Differences seen by the receivers of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steps {
    /// Hand-offs compared.
    pub count: u64,
    /// Hand-offs with a negative difference.
    pub backward: u64,
    /// Smallest difference.
    pub least: i64,
    /// Sum of the differences.
    pub sum: i128,
}

impl Default for Steps {
    fn default() -> Steps {
        Steps {
            count: 0,
            backward: 0,
            least: i64::MAX,
            sum: 0,
        }
    }
}

impl Steps {
    /// Adds the step from `earlier` to `later`.
    pub fn add(&mut self, earlier: u64, later: u64) {
        let step = later.wrapping_sub(earlier) as i64;
        self.count += 1;
        self.backward += u64::from(step < 0);
        self.least = self.least.min(step);
        self.sum += i128::from(step);
    }

    fn join(all: impl Iterator<Item = Steps>) -> Steps {
        all.fold(Steps::default(), |a, b| Steps {
            count: a.count + b.count,
            backward: a.backward + b.backward,
            least: a.least.min(b.least),
            sum: a.sum + b.sum,
        })
    }

    fn mean(&self) -> f64 {
        self.sum as f64 / self.count.max(1) as f64
    }
}

/// Backward steps of either clock, and hand-offs that were not compared.
pub fn verdict(monotonic: &Steps, tsc: &Steps, expected: u64) -> Vec<String> {
    let mut failures = Vec::new();
    for (name, unit, steps) in [("CLOCK_MONOTONIC", "ns", monotonic), ("TSC", "cycles", tsc)] {
        if steps.backward > 0 {
            let (n, worst) = (steps.backward, steps.least.unsigned_abs());
            failures.push(format!(
                "{name} went backwards {n} times, by up to {worst} {unit}"
            ));
        }
        if steps.count != expected || expected == 0 {
            failures.push(format!(
                "{name}: {} of {expected} hand-offs compared",
                steps.count
            ));
        }
    }
    failures
}

fn clock_source() -> String {
    let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.trim().to_string()
}

/// `handoffs` hand-offs of the token around `cpus`.
pub fn run(cpus: &[usize], handoffs: u64) -> Result<Report> {
    team::enter_stage("clock", cpus.len());
    let page = Mapping::shared(1)?;
    // All on one cache line: turn, nanoseconds, time-stamp counter.
    let (turn, ns, tsc) = (page.u64(0), page.u64(8), page.u64(16));
    let rdtscp = asm::has_rdtscp();
    let threads = cpus.len() as u64;
    let begin = Instant::now();
    let steps = apart::run(cpus, |member| {
        let (mut monotonic, mut cycles) = (Steps::default(), Steps::default());
        // Turn 0 only starts the token: there is no earlier reading.
        for now in (member.tid as u64..=handoffs).step_by(cpus.len()) {
            member.spin_until(|| turn.load(Acquire) == now);
            let (sent_ns, sent_tsc) = (ns.load(Relaxed), tsc.load(Relaxed));
            let (got_tsc, got_ns) = (asm::rdtsc_ordered(rdtscp), clock_ns(libc::CLOCK_MONOTONIC));
            if now > 0 {
                monotonic.add(sent_ns, got_ns);
                cycles.add(sent_tsc, got_tsc);
            }
            // Read anew, last thing before passing on: the tightest comparison possible.
            ns.store(clock_ns(libc::CLOCK_MONOTONIC), Relaxed);
            tsc.store(asm::rdtsc_ordered(rdtscp), Relaxed);
            turn.store(now + 1, Release);
            member.progress(now / threads);
        }
        (monotonic, cycles)
    })?;
    let monotonic = Steps::join(steps.iter().map(|s| s.0));
    let cycles = Steps::join(steps.iter().map(|s| s.1));
    Ok(Report::new("clock")
        .with("cpus", cpus.iter().map(|&c| c as u64).collect::<Vec<u64>>())
        .with("handoffs", handoffs)
        .with("clocksource", clock_source())
        .with("least_ns", monotonic.least)
        .with("mean_ns", monotonic.mean())
        .with("backward_ns", monotonic.backward)
        .with("least_tsc", cycles.least)
        .with("mean_tsc", cycles.mean())
        .with("backward_tsc", cycles.backward)
        .with("seconds", begin.elapsed().as_secs_f64())
        .failing(verdict(&monotonic, &cycles, handoffs)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(pairs: &[(u64, u64)]) -> Steps {
        let mut steps = Steps::default();
        pairs.iter().for_each(|&(a, b)| steps.add(a, b));
        steps
    }

    #[test]
    fn one_backward_step_fails_and_says_by_how_much() {
        let good = steps(&[(5, 5), (6, 9)]);
        assert!(verdict(&good, &good, 2).is_empty());
        let bad = steps(&[(5, 9), (100, 60)]);
        let failures = verdict(&bad, &good, 2);
        assert_eq!(failures.len(), 1);
        assert!(
            failures[0].contains("backwards 1 times, by up to 40 ns"),
            "{failures:?}"
        );
        assert!(verdict(&good, &bad, 2)[0].contains("TSC"));
    }

    #[test]
    fn missing_handoffs_fail() {
        let good = steps(&[(1, 2)]);
        assert_eq!(verdict(&good, &good, 2).len(), 2);
        assert_eq!(verdict(&Steps::default(), &Steps::default(), 0).len(), 2);
    }

    #[test]
    fn every_handoff_is_compared() {
        let cpus = crate::sys::allowed_cpus().expect("affinity");
        let threads: Vec<usize> = cpus.into_iter().cycle().take(3).collect();
        let report = run(&threads, 100).expect("run");
        assert!(report.ok(), "{}", report.text());
    }
}
