//! Outcomes of a litmus run, and what they say.

use crate::shapes::{outcome_name, Outcome, Shape};
use std::collections::BTreeMap;

/// What the rounds of a run ended in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Rounds by outcome.
    pub counts: BTreeMap<Outcome, u64>,
    /// Rounds run.
    pub rounds: u64,
    /// Batches run.
    pub batches: u64,
    /// Batches planned; more are run while too few were mixed.
    pub planned: u64,
    /// Batches with more than one outcome. Threads that do not overlap in time end all rounds
    /// of a batch alike: a run without mixed batches has shown nothing.
    pub mixed: u64,
}

impl Tally {
    /// Rounds that ended in an outcome that is wanted.
    pub fn sum(&self, wanted: impl Fn(&Outcome) -> bool) -> u64 {
        let found = self.counts.iter().filter(|(o, _)| wanted(o));
        found.map(|(_, n)| n).sum()
    }

    /// Mixed batches that a run needs, however many batches that takes. Short runs need none.
    pub fn least_mixed(&self) -> u64 {
        self.planned / 10
    }
}

/// Outcomes that x86-TSO forbids, rounds without an outcome, and (where each thread has a CPU)
/// threads that hardly ran at the same time.
pub fn verdict(shape: &Shape, tally: &Tally, concurrent: bool) -> Vec<String> {
    let allowed = shape.allowed();
    let forbidden = tally.counts.iter().filter(|(o, _)| !allowed.contains(*o));
    let mut failures: Vec<String> = forbidden
        .map(|(outcome, n)| {
            let name = outcome_name(outcome);
            format!("{n} rounds ended in {name}, which x86-TSO forbids")
        })
        .collect();
    let (counted, rounds) = (tally.sum(|_| true), tally.rounds);
    if counted != rounds || rounds == 0 {
        failures.push(format!("{counted} outcomes in {rounds} rounds"));
    }
    if concurrent && tally.mixed < tally.least_mixed() {
        let Tally { mixed, batches, .. } = tally;
        failures.push(format!(
            "only {mixed} of {batches} batches had more than one outcome: the threads hardly ran at the same time"
        ));
    }
    failures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::SHAPES;

    fn shape(name: &str) -> &'static Shape {
        SHAPES.iter().find(|s| s.name == name).expect("shape")
    }

    fn tally(counts: &[(&[u8], u64)]) -> Tally {
        let counts: BTreeMap<Outcome, u64> = counts.iter().map(|(o, n)| (o.to_vec(), *n)).collect();
        let rounds = counts.values().sum();
        Tally {
            counts,
            rounds,
            batches: 20,
            planned: 10,
            mixed: 1,
        }
    }

    #[test]
    fn a_forbidden_outcome_fails() {
        let cases: [(&str, &[u8]); 8] = [
            ("SB+mfence", &[0, 0]),
            ("MP", &[1, 0]),
            ("LB", &[1, 1]),
            ("IRIW", &[1, 0, 1, 0]),
            ("2+2W", &[1, 1]),
            ("S", &[1, 2, 1]),
            ("CoRR", &[1, 0]),
            ("MP", &[15, 0]),
        ];
        for (name, bad) in cases {
            let good = shape(name).sequential().pop_first().expect("one");
            let passing = tally(&[(&good, 99)]);
            assert!(verdict(shape(name), &passing, true).is_empty(), "{name}");
            let failing = tally(&[(&good, 99), (bad, 1)]);
            assert_eq!(verdict(shape(name), &failing, true).len(), 1, "{name}");
        }
    }

    #[test]
    fn the_relaxed_outcome_of_sb_passes_and_missing_rounds_fail() {
        let mut relaxed = tally(&[(&[0, 0], 7)]);
        assert!(verdict(shape("SB"), &relaxed, true).is_empty());
        relaxed.rounds = 8;
        assert_eq!(verdict(shape("SB"), &relaxed, true).len(), 1);
        assert_eq!(verdict(shape("SB"), &Tally::default(), true).len(), 1);
    }

    #[test]
    fn threads_that_never_overlap_fail_unless_they_share_a_cpu() {
        let mut apart = tally(&[(&[0, 1], 7), (&[1, 0], 7)]);
        apart.mixed = 0;
        let failures = verdict(shape("SB"), &apart, true);
        assert!(failures[0].contains("0 of 20 batches"), "{failures:?}");
        assert!(verdict(shape("SB"), &apart, false).is_empty());
    }
}
