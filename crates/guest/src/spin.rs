//! A busy loop on one CPU, to see where its virtual CPU time is spent.

use crate::error::{Error, Result};
use crate::report::Report;
use crate::sys;
use crate::team;
use std::time::{Duration, Instant};

/// A busy loop that left its CPU, or never ran.
pub fn verdict(elsewhere: u64, iterations: u64) -> Vec<String> {
    let mut failures = Vec::new();
    if elsewhere > 0 {
        failures.push(format!("{elsewhere} samples on another CPU"));
    }
    if iterations == 0 {
        failures.push("no iteration".to_string());
    }
    failures
}

/// Spins for `seconds` on `cpu`.
pub fn run(cpu: usize, seconds: u64) -> Result<Report> {
    team::enter_stage("spin", 1);
    let allowed = sys::allowed_cpus()?;
    if !allowed.contains(&cpu) {
        return Err(Error::NoSuchCpu { cpu, allowed });
    }
    let (iterations, elsewhere, cpu_ns, wall) = team::run(&[cpu], |member| {
        let (mut iterations, mut elsewhere, mut x) = (0u64, 0u64, 1u64);
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(seconds) {
            for _ in 0..100_000 {
                x = std::hint::black_box(x.wrapping_mul(6364136223846793005).wrapping_add(1));
            }
            iterations += 100_000;
            elsewhere += u64::from(sys::current_cpu().ok() != Some(cpu));
            member.progress(iterations);
        }
        let cpu_ns = sys::clock_ns(libc::CLOCK_THREAD_CPUTIME_ID);
        (iterations, elsewhere, cpu_ns, begin.elapsed().as_secs_f64())
    })[0];
    Ok(Report::new("spin")
        .with("cpu", cpu)
        .with("seconds", wall)
        .with("cpu_seconds", cpu_ns as f64 / 1e9)
        .with("iterations", iterations)
        .failing(verdict(elsewhere, iterations)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaving_the_cpu_or_not_running_fails() {
        assert!(verdict(0, 1).is_empty());
        assert_eq!(verdict(1, 1).len(), 1);
        assert_eq!(verdict(0, 0).len(), 1);
    }

    #[test]
    fn an_absent_cpu_is_refused() {
        assert!(matches!(
            run(1023, 1),
            Err(Error::NoSuchCpu { cpu: 1023, .. })
        ));
    }
}
