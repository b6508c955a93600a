//! Memory holds what was written, wherever it is written and read.

use crate::error::Result;
use crate::report::Report;
use crate::sys::{Mapping, PAGE};
use crate::team;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// Words that did not hold what was written.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Wrong {
    /// How many.
    pub count: u64,
    /// (byte offset, value found, value written) of the first.
    pub first: Option<(usize, u64, u64)>,
    /// Words looked at.
    pub looked: u64,
}

impl Wrong {
    fn compare(&mut self, offset: usize, found: u64, written: u64) {
        self.looked += 1;
        if found != written {
            self.count += 1;
            self.first.get_or_insert((offset, found, written));
        }
    }
}

/// Any wrong word fails, and so do words that nobody looked at.
pub fn verdict(wrong: &[Wrong], words: u64) -> Vec<String> {
    let mut failures = Vec::new();
    let count: u64 = wrong.iter().map(|w| w.count).sum();
    if let Some((offset, found, written)) = wrong.iter().find_map(|w| w.first) {
        failures.push(format!(
            "{count} wrong words; first at byte {offset:#x}: {found:#018x} instead of {written:#018x}"
        ));
    }
    let looked: u64 = wrong.iter().map(|w| w.looked).sum();
    if looked != words || words == 0 {
        failures.push(format!("{looked} of {words} words looked at"));
    }
    failures
}

/// A full mix (splitmix64).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The words of a page in a pass: no two places or passes look alike. One addition for each, because guests on emulated
/// processors fill gigabytes.
fn words(page: usize, pass: u64) -> impl Iterator<Item = u64> {
    let first = mix((page as u64).wrapping_add(pass.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let step = mix(first) | 1;
    std::iter::successors(Some(first), move |word| Some(word.wrapping_add(step)))
}

/// What `mem` works on, unless told otherwise.
pub const DEFAULT_BYTES: usize = 64 << 20;

/// Fills `bytes` (rounded up to pages) `passes` times; each slice is verified by another thread
/// than the one that wrote it, and written by another one in each pass.
pub fn run(check: &'static str, cpus: &[usize], bytes: usize, passes: u64) -> Result<Report> {
    team::enter_stage(check, cpus.len());
    let pages = bytes.div_ceil(PAGE).max(cpus.len());
    let memory = Mapping::new(pages)?;
    let threads = cpus.len();
    let slice = |i: usize| pages * i / threads..pages * (i + 1) / threads;
    // What belongs where in a slice.
    let contents = |i: usize, pass: u64| {
        let places = |page: usize| (page * PAGE..(page + 1) * PAGE).step_by(8);
        slice(i).flat_map(move |page| places(page).zip(words(page, pass)))
    };
    let begin = Instant::now();
    let wrong = team::run(cpus, |member| {
        let mut wrong = Wrong::default();
        for pass in 0..passes {
            let mine = (member.tid + pass as usize) % threads;
            contents(mine, pass).for_each(|(offset, word)| memory.u64(offset).store(word, Relaxed));
            member.meet();
            contents((mine + 1) % threads, pass).for_each(|(offset, word)| {
                wrong.compare(offset, memory.u64(offset).load(Relaxed), word);
            });
            member.meet();
            member.progress(pass + 1);
        }
        wrong
    });
    let words = (pages * PAGE / 8) as u64 * passes;
    let seconds = begin.elapsed().as_secs_f64();
    Ok(Report::new(check)
        .with("cpus", cpus.iter().map(|&c| c as u64).collect::<Vec<u64>>())
        .with("bytes", memory.len())
        .with("passes", passes)
        .with("wrong", wrong.iter().map(|w| w.count).sum::<u64>())
        .with(
            "mib_per_second",
            (words * 8 * 2) as f64 / seconds / 1_048_576.0,
        )
        .with("seconds", seconds)
        .failing(verdict(&wrong, words)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_word_fails_and_is_named() {
        let mut wrong = Wrong::default();
        wrong.compare(8, 1, 1);
        assert!(verdict(&[wrong], 1).is_empty());
        wrong.compare(16, 2, 3);
        let failures = verdict(&[Wrong::default(), wrong], 2);
        assert!(failures[0].contains("first at byte 0x10"), "{failures:?}");
        assert_eq!(verdict(&[], 2).len(), 1);
        assert_eq!(verdict(&[], 0).len(), 1);
    }

    #[test]
    fn patterns_differ_between_places_and_passes() {
        let words = |page, pass| words(page, pass).take(PAGE / 8).collect::<Vec<u64>>();
        let mut all = [words(0, 0), words(1, 0), words(0, 1)].concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 3 * PAGE / 8);
    }

    #[test]
    fn this_machine_keeps_memory() {
        let cpus = crate::sys::allowed_cpus().expect("affinity");
        let threads: Vec<usize> = cpus.into_iter().cycle().take(3).collect();
        let report = run("mem", &threads, 5 * PAGE + 1, 4).expect("run");
        assert!(report.ok(), "{}", report.text());
    }
}
