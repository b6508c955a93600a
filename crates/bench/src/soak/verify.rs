//! Judging every word of the region while nobody works.

use super::memory::Memory;
use super::plan::{Plan, Role, BLOCK_PAGES, GROUP_PAGES, PAGE_WORDS};
use super::program::{Finding, Program};
use std::sync::atomic::Ordering::Acquire;

/// Wrong words that are reported.
const MOST_FINDINGS: usize = 8;

/// What the memory holds, as this node sees it.
#[derive(Default)]
pub struct Verdict {
    pub findings: Vec<Finding>,
    /// By group of pages: a number that is the same only for the same contents.
    pub digests: Vec<u64>,
    /// By counter.
    pub counters: Vec<u64>,
    /// By block: the version that its lock names.
    pub versions: Vec<u64>,
}

struct Judge<'a> {
    plan: &'a Plan,
    memory: &'a Memory,
    programs: &'a [Program],
    verdict: Verdict,
}

/// Reads all of the region and judges each word by what this node's threads know.
pub fn verify(plan: &Plan, memory: &Memory, programs: &[Program]) -> Verdict {
    let load = |word| memory.word(word).load(Acquire);
    let verdict = Verdict {
        counters: (0..plan.counters())
            .map(|counter| load(plan.counter(counter)))
            .collect(),
        versions: (0..plan.blocks())
            .map(|block| load(plan.lock(block)))
            .collect(),
        ..Verdict::default()
    };
    let mut judge = Judge {
        plan,
        memory,
        programs,
        verdict,
    };
    for group in 0..plan.groups() {
        let mut digest = 0xCBF2_9CE4_8422_2325u64;
        for page in group * GROUP_PAGES..(group + 1) * GROUP_PAGES {
            judge.page(page, &mut digest);
        }
        judge.verdict.digests.push(digest);
    }
    judge.verdict
}

impl Judge<'_> {
    fn page(&mut self, page: u64, digest: &mut u64) {
        let block = page / BLOCK_PAGES;
        let data = self.plan.is_data(block).then(|| {
            let version = self.verdict.versions[block as usize];
            // A block that is still locked is told of where its lock lies.
            self.plan
                .writers_of(block, page % BLOCK_PAGES, version & (u64::MAX >> 1))
        });
        for index in 0..PAGE_WORDS {
            let word = page * PAGE_WORDS + index;
            let value = self.memory.word(word).load(Acquire);
            *digest = (*digest ^ value)
                .wrapping_mul(0x0100_0000_01B3)
                .rotate_left(23);
            let expected = match &data {
                Some(last) => self.data(word, value, last[index as usize]),
                None => self.shared(word, value),
            };
            if let Some(expected) = expected {
                self.wrong(word, value, &expected);
            }
        }
    }

    /// What a word of a block should be, if it is not that.
    fn data(&self, word: u64, value: u64, number: u64) -> Option<String> {
        (value != self.plan.value(word, number)).then(|| format!("number {number}"))
    }

    /// The same for a word of a shared block.
    fn shared(&self, word: u64, value: u64) -> Option<String> {
        match self.plan.role(word) {
            Role::Lock { block } => {
                let known = self.verdict.versions[block as usize];
                let free = value >> 63 == 0 && (value == 0 || self.plan.is_data(block));
                (value != known || !free).then(|| format!("a lock that is free, version {known}"))
            }
            Role::Counter { counter } => {
                let known = self.verdict.counters[counter as usize];
                (value != known).then(|| format!("{known}, which it was a moment ago"))
            }
            Role::Pair { pair, flag, .. } => {
                let number = self.plan.number(word, value);
                let fits = |program: &Program| {
                    let (least, exact) = program.expects(pair, flag);
                    number.is_some_and(|number| number == least || (number > least && !exact))
                };
                let wrong = self.programs.iter().find(|program| !fits(program))?;
                Some(format!("{:?} (number, exactly)", wrong.expects(pair, flag)))
            }
            Role::Data { .. } => None, // not in a shared block
        }
    }

    fn wrong(&mut self, word: u64, value: u64, expected: &str) {
        if self.verdict.findings.len() < MOST_FINDINGS {
            let (page, index) = (word / PAGE_WORDS, word % PAGE_WORDS);
            let number = self.plan.number(word, value);
            self.verdict.findings.push(Finding {
                offset: word * 8,
                text: format!(
                    "page {page} word {index}: {value:#018x} (number {number:?}) instead of {expected}"
                ),
            });
        }
    }
}
