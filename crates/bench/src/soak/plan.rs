//! What the memory of a soak must hold: a pure function of a seed and of a few numbers, so that every word that is ever
//! read can be judged by itself.
//!
//! Memory is cut into groups of 512 pages, and these into blocks of 16. One block of each group is *shared*: in its pages
//! lie the locks of the other blocks, counters that everybody adds to, and pairs of words of which each has one writer.
//! The other blocks hold *data*: whoever has the lock makes version `n + 1` out of version `n` by the change that the
//! seed names for it. The lock's word holds the version, so contents that are lost, stale or torn differ from what the
//! lock promises, and every change is counted where it was made, so a lost lock shows in the sums.

/// Words of a page.
pub const PAGE_WORDS: u64 = 512;
/// Pages of a block.
pub const BLOCK_PAGES: u64 = 16;
/// Pages of a group: the memory of a soak is a multiple of this.
pub const GROUP_PAGES: u64 = 512;
const GROUP_BLOCKS: u64 = GROUP_PAGES / BLOCK_PAGES;
/// Which block of a group is shared.
const SHARED_BLOCK: u64 = 3;
/// Two locks lie in each shared page, half a page apart.
const LOCK_WORD: u64 = 17;
const COUNTER_WORD: u64 = 401;
/// Every so many versions the whole block is written anew, which bounds how far back its history matters.
const CYCLE: u64 = 16;
/// Longest run of words that one change writes.
const LONGEST_RUN: u64 = 64;
/// Bits of a value that tell its number; those above tell its place.
const NUMBER_BITS: u32 = 40;

/// One soak: the same on all nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What everything is derived from.
    pub seed: u64,
    /// Pages of the region.
    pub pages: u64,
    /// Threads of all nodes together; each is the only writer of some pairs.
    pub writers: u64,
}

/// What a word is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Part of a block's data.
    Data { block: u64 },
    /// A block's version, and whether somebody is changing it.
    Lock { block: u64 },
    /// Everybody adds to it.
    Counter { counter: u64 },
    /// Half of a pair: `owner` writes first the one that is no flag, then the flag, both with the same number.
    Pair { pair: u64, flag: bool, owner: u64 },
}

/// What makes the next version of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// All of its pages are written.
    Block,
    /// One page is written.
    Page(u64),
    /// So many words of a page.
    Run { page: u64, from: u64, count: u64 },
}

/// SplitMix64's finaliser: every bit of the input changes every bit of the output.
pub fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

impl Change {
    /// Which words of a page of the block it writes.
    pub fn words(self, page: u64) -> std::ops::Range<u64> {
        match self {
            Self::Block => 0..PAGE_WORDS,
            Self::Page(written) if written == page => 0..PAGE_WORDS,
            Self::Run {
                page: written,
                from,
                count,
            } if written == page => from..from + count,
            _ => 0..0,
        }
    }
}

impl Plan {
    /// Groups of pages.
    pub fn groups(&self) -> u64 {
        self.pages / GROUP_PAGES
    }

    /// Blocks, the shared ones included.
    pub fn blocks(&self) -> u64 {
        self.groups() * GROUP_BLOCKS
    }

    /// Counters.
    pub fn counters(&self) -> u64 {
        self.groups() * BLOCK_PAGES
    }

    /// Pairs; some of the numbers are not in use, because locks and counters lie there.
    pub fn pairs(&self) -> u64 {
        self.groups() * BLOCK_PAGES / 2 * PAGE_WORDS
    }

    /// Whether a block holds data.
    pub fn is_data(&self, block: u64) -> bool {
        block % GROUP_BLOCKS != SHARED_BLOCK
    }

    /// First page of the shared block of a group.
    fn shared(&self, group: u64) -> u64 {
        group * GROUP_PAGES + SHARED_BLOCK * BLOCK_PAGES
    }

    /// Where a block's lock is.
    pub fn lock(&self, block: u64) -> u64 {
        let (group, block) = (block / GROUP_BLOCKS, block % GROUP_BLOCKS);
        let page = self.shared(group) + block / 2;
        page * PAGE_WORDS + block % 2 * (PAGE_WORDS / 2) + LOCK_WORD
    }

    /// Where a counter is.
    pub fn counter(&self, counter: u64) -> u64 {
        let page = self.shared(counter / BLOCK_PAGES) + counter % BLOCK_PAGES;
        page * PAGE_WORDS + COUNTER_WORD
    }

    /// Where a pair is: its first word and its flag; `None` if the number is not in use.
    pub fn pair(&self, pair: u64) -> Option<(u64, u64)> {
        let (pages, word) = (pair / PAGE_WORDS, pair % PAGE_WORDS);
        let taken = word % (PAGE_WORDS / 2) == LOCK_WORD || word == COUNTER_WORD;
        let half = BLOCK_PAGES / 2;
        let page = self.shared(pages / half) + pages % half * 2;
        let first = page * PAGE_WORDS + word;
        (!taken).then_some((first, first + PAGE_WORDS))
    }

    /// The only writer of a pair.
    pub fn owner(&self, pair: u64) -> u64 {
        pair % self.writers
    }

    /// What a word is for.
    pub fn role(&self, word: u64) -> Role {
        let (page, index) = (word / PAGE_WORDS, word % PAGE_WORDS);
        let block = page / BLOCK_PAGES;
        if self.is_data(block) {
            return Role::Data { block };
        }
        let (group, inside) = (page / GROUP_PAGES, page % BLOCK_PAGES);
        if index % (PAGE_WORDS / 2) == LOCK_WORD {
            let block = group * GROUP_BLOCKS + inside * 2 + index / (PAGE_WORDS / 2);
            return Role::Lock { block };
        }
        if index == COUNTER_WORD {
            return Role::Counter {
                counter: group * BLOCK_PAGES + inside,
            };
        }
        let pair = (group * (BLOCK_PAGES / 2) + inside / 2) * PAGE_WORDS + index;
        Role::Pair {
            pair,
            flag: inside % 2 == 1,
            owner: self.owner(pair),
        }
    }

    /// The value of a word: its number and where it belongs. A word with number 0 was never written.
    pub fn value(&self, word: u64, number: u64) -> u64 {
        if number == 0 {
            return 0;
        }
        mix(self.seed ^ mix(word)) << NUMBER_BITS | number
    }

    /// The number of a value, if it belongs to this word at all.
    pub fn number(&self, word: u64, value: u64) -> Option<u64> {
        let number = value & ((1 << NUMBER_BITS) - 1);
        (self.value(word, number) == value).then_some(number)
    }

    /// What makes this version of a block out of the one before.
    pub fn change(&self, block: u64, version: u64) -> Change {
        if version % CYCLE == 1 {
            return Change::Block;
        }
        let dice = mix(self.seed ^ mix(block << NUMBER_BITS | version));
        let page = dice % BLOCK_PAGES;
        if dice >> 63 == 1 {
            return Change::Page(page);
        }
        let count = 1 + (dice >> 8) % LONGEST_RUN;
        let from = (dice >> 16) % (PAGE_WORDS - count + 1);
        Change::Run { page, from, count }
    }

    /// Which version wrote each word of a page (its place in the block) last.
    pub fn writers_of(&self, block: u64, page: u64, version: u64) -> [u64; PAGE_WORDS as usize] {
        let mut last = [0; PAGE_WORDS as usize];
        if version == 0 {
            return last;
        }
        let whole = version - (version - 1) % CYCLE;
        for version in whole..=version {
            let words = self.change(block, version).words(page);
            last[words.start as usize..words.end as usize].fill(version);
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            seed: 7,
            pages: 2 * GROUP_PAGES,
            writers: 6,
        }
    }

    #[test]
    fn every_place_has_the_role_for_which_it_is_looked_up() {
        let plan = plan();
        for block in 0..plan.blocks() {
            assert_eq!(plan.role(plan.lock(block)), Role::Lock { block });
        }
        for counter in 0..plan.counters() {
            assert_eq!(plan.role(plan.counter(counter)), Role::Counter { counter });
        }
        for pair in 0..plan.pairs() {
            let owner = plan.owner(pair);
            if let Some((first, flag)) = plan.pair(pair) {
                let role = |flag| Role::Pair { pair, flag, owner };
                assert_eq!(plan.role(first), role(false));
                assert_eq!(plan.role(flag), role(true));
            }
        }
        let words = plan.pages * PAGE_WORDS;
        let data = (0..words).filter(|word| matches!(plan.role(*word), Role::Data { .. }));
        assert_eq!(data.count() as u64, words / 32 * 31);
    }

    #[test]
    fn a_value_tells_its_number_only_in_its_place() {
        let plan = plan();
        assert_eq!(plan.value(3, 0), 0);
        assert_eq!(plan.number(3, plan.value(3, 9)), Some(9));
        assert_eq!(plan.number(4, plan.value(3, 9)), None);
        let other = Plan { seed: 8, ..plan };
        assert_eq!(other.number(3, plan.value(3, 9)), None);
    }

    #[test]
    fn the_history_of_a_page_is_what_the_changes_made_of_it() {
        let plan = plan();
        let mut made = vec![[0; PAGE_WORDS as usize]; BLOCK_PAGES as usize];
        for version in 0..100 {
            if version > 0 {
                for (page, last) in made.iter_mut().enumerate() {
                    for word in plan.change(5, version).words(page as u64) {
                        last[word as usize] = version;
                    }
                }
            }
            for (page, last) in made.iter().enumerate() {
                assert_eq!(*last, plan.writers_of(5, page as u64, version));
            }
        }
        let kinds = |kind: fn(&Change) -> bool| {
            (1..100)
                .map(|version| plan.change(5, version))
                .filter(kind)
                .count()
        };
        assert!(kinds(|change| matches!(change, Change::Page(_))) > 20);
        assert!(kinds(|change| matches!(change, Change::Run { .. })) > 20);
    }
}
