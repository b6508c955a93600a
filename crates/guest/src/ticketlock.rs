//! A ticket lock whose protected data lies in another page: mutual exclusion, order of plain
//! stores before the plain store that releases, and no lost ticket.

use crate::apart;
use crate::error::Result;
use crate::report::Report;
use crate::sys::{Mapping, PAGE};
use crate::team;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::time::Instant;

/// Words that every critical section increments together.
const WORDS: usize = 8;

/// A thread that had the lock so often in a row lets another one have it: on nodes whose lock's page stays for a while, one
/// thread could do nearly all its rounds while nobody else ever waits for the lock.
const IN_A_ROW: u64 = 64;

/// What one thread saw inside the lock.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Times the words differed from each other or from the ticket.
    pub torn: u64,
    /// Times another thread was inside as well.
    pub intruders: u64,
    /// Acquisitions by this thread directly after another thread's.
    pub handoffs: u64,
}

/// Violations by any thread, and words that do not hold the number of acquisitions.
pub fn verdict(seen: &[Seen], words: &[u64], acquisitions: u64) -> Vec<String> {
    let torn: u64 = seen.iter().map(|s| s.torn).sum();
    let intruders: u64 = seen.iter().map(|s| s.intruders).sum();
    let mut failures = Vec::new();
    if torn > 0 {
        failures.push(format!(
            "{torn} times the protected words were not those of the last owner"
        ));
    }
    if intruders > 0 {
        failures.push(format!(
            "{intruders} times two threads were inside the lock"
        ));
    }
    if words.iter().any(|w| *w != acquisitions) {
        failures.push(format!(
            "words are {words:?} after {acquisitions} acquisitions"
        ));
    }
    failures
}

/// Whether a thread waits before its next round. It has done `rounds`, `in_a_row` of them one after the other, and the last of
/// the `released` rounds of all; the others do `of_others` until they meet, and then wait for it.
fn lets_another_in(in_a_row: u64, rounds: u64, released: u64, of_others: u64) -> bool {
    in_a_row >= IN_A_ROW && released - rounds < of_others
}

/// `rounds` acquisitions in all, shared evenly between the threads.
pub fn run(cpus: &[usize], rounds: u64) -> Result<Report> {
    team::enter_stage("ticketlock", cpus.len());
    let pages = Mapping::shared(2)?;
    let (next, serving) = (pages.u64(0), pages.u64(64));
    let word = |i: usize| pages.u64(PAGE + i * 72);
    let (inside, last_owner) = (pages.u64(PAGE + 1024), pages.u64(PAGE + 1032));
    let each = rounds.div_ceil(cpus.len() as u64);
    let (every, others) = (team::together_every(each), cpus.len() as u64 - 1);
    let begin = Instant::now();
    let seen = apart::run(cpus, |member| {
        let me = member.tid as u64 + 1;
        let mut seen = Seen::default();
        let (mut in_a_row, mut released, mut of_others) = (0, 0, 0);
        for round in 0..each {
            if round % every == 0 {
                member.start_together();
                of_others = others * each.min(round + every);
            }
            if lets_another_in(in_a_row, round, released, of_others) {
                // Only whoever released the lock last waits here, so somebody else comes.
                member.spin_until(|| serving.load(Acquire) != released);
            }
            let ticket = next.fetch_add(1, SeqCst);
            member.spin_until(|| serving.load(Acquire) == ticket);
            seen.intruders += u64::from(inside.load(Relaxed) != 0);
            inside.store(me, Relaxed);
            let handed_over = last_owner.load(Relaxed) != me;
            seen.handoffs += u64::from(handed_over);
            in_a_row = if handed_over { 1 } else { in_a_row + 1 };
            last_owner.store(me, Relaxed);
            // Where CPUs take turns on one thread (a lab machine), a whole run of rounds would fit into one turn, and
            // nobody would ever wait for the lock. A pause inside of it hands the turn over.
            if round % 16 == 0 {
                std::hint::spin_loop();
            }
            // The ticket says how many sections came before, so each word has one right value.
            let torn = (0..WORDS).any(|i| word(i).load(Relaxed) != ticket);
            seen.torn += u64::from(torn);
            for i in 0..WORDS {
                word(i).store(word(i).load(Relaxed) + 1, Relaxed);
            }
            seen.intruders += u64::from(inside.load(Relaxed) != me);
            inside.store(0, Relaxed);
            released = ticket + 1;
            serving.store(released, Release);
            member.progress(round + 1);
        }
        seen
    })?;
    let acquisitions = each * cpus.len() as u64;
    let words: Vec<u64> = (0..WORDS).map(|i| word(i).load(SeqCst)).collect();
    Ok(Report::new("ticketlock")
        .with("cpus", cpus.iter().map(|&c| c as u64).collect::<Vec<u64>>())
        .with("acquisitions", acquisitions)
        .with("handoffs", seen.iter().map(|s| s.handoffs).sum::<u64>())
        .with("seconds", begin.elapsed().as_secs_f64())
        .failing(verdict(&seen, &words, acquisitions)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_violation_fails() {
        let good = [Seen::default(); 2];
        assert!(verdict(&good, &[10; WORDS], 10).is_empty());
        let torn = [Seen {
            torn: 1,
            ..Seen::default()
        }];
        assert_eq!(verdict(&torn, &[10; WORDS], 10).len(), 1);
        let intruder = [Seen {
            intruders: 1,
            ..Seen::default()
        }];
        assert_eq!(verdict(&intruder, &[10; WORDS], 10).len(), 1);
        let mut words = [10; WORDS];
        words[7] = 9;
        assert_eq!(verdict(&good, &words, 10).len(), 1);
    }

    #[test]
    fn the_lock_excludes() {
        let cpus = crate::sys::allowed_cpus().expect("affinity");
        let report = run(&cpus, 2000).expect("run");
        assert!(report.ok(), "{}", report.text());
    }

    #[test]
    fn who_had_the_lock_for_long_waits_for_those_who_still_come() {
        // Both threads have 100 rounds to do until they meet, and this one has just done its 70th.
        let waits =
            |in_a_row, of_the_other: u64| lets_another_in(in_a_row, 70, 70 + of_the_other, 100);
        assert!(waits(IN_A_ROW, 0) && waits(IN_A_ROW + 1, 99));
        assert!(!waits(IN_A_ROW - 1, 0), "not yet");
        assert!(!waits(IN_A_ROW, 100), "the other one waits at the meeting");
    }
}
