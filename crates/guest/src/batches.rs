//! How the rounds of a litmus run are laid out in batches, memory and roles.

use crate::shapes::Layout;
use crate::sys::PAGE;

/// Pages from which batches take theirs.
pub const ARENA_PAGES: usize = 512;
const DENSE_ROUNDS: usize = 1024;
const SPARSE_ROUNDS: usize = 64;
/// Most pages that one batch uses: two for each sparse round.
const WINDOW_PAGES: usize = 2 * SPARSE_ROUNDS;
/// All orders of `0..n`.
pub fn permutations(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![Vec::new()];
    }
    let shorter = permutations(n - 1);
    let insert = |p: &Vec<usize>| (0..n).map(move |at| (p.clone(), at)).collect::<Vec<_>>();
    let all = shorter.iter().flat_map(insert);
    all.map(|(mut p, at)| {
        p.insert(at, n - 1);
        p
    })
    .collect()
}

/// Where the pages of a batch are when it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The first thread wrote them last.
    FirstOwns,
    /// The last thread wrote them last.
    LastOwns,
    /// The first thread wrote them, then all threads read them.
    AllRead,
}

/// What one batch does; a pure function of its number.
#[derive(Debug, Clone, Copy)]
pub struct Batch {
    /// Position in the plan.
    pub number: usize,
    /// Rounds that run without meeting.
    pub rounds: usize,
    /// Whether each round has pages of its own.
    pub sparse: bool,
    /// Whether rounds start at common time-stamps.
    pub timed: bool,
    /// Who has the pages at the start.
    pub start: Start,
    /// Where in the arena the pages of this batch begin.
    pub first_page: usize,
}

/// Batches that together make `rounds` rounds: of five, one is sparse.
pub fn plan(rounds: u64) -> Vec<Batch> {
    let mut left = rounds;
    let mut batches = Vec::new();
    while left > 0 {
        let number = batches.len();
        let sparse = number % 5 == 4;
        let size = if sparse { SPARSE_ROUNDS } else { DENSE_ROUNDS };
        let rounds = left.min(size as u64) as usize;
        batches.push(Batch {
            number,
            rounds,
            sparse,
            timed: number % 2 == 1,
            start: [Start::FirstOwns, Start::LastOwns, Start::AllRead][number % 3],
            first_page: number * 37 % (ARENA_PAGES - WINDOW_PAGES),
        });
        left -= rounds as u64;
    }
    batches
}

/// Byte offsets of X and Y of round `i` of a batch.
pub fn offsets(layout: Layout, batch: &Batch, i: usize) -> [usize; 2] {
    let first = batch.first_page * PAGE;
    let per_page = match layout {
        _ if batch.sparse => 1,
        Layout::Page => 32,
        Layout::Pages | Layout::Line => 64,
    };
    let (page, slot) = (i / per_page, i % per_page);
    match layout {
        Layout::Line => {
            let x = first + page * PAGE + slot * 64;
            [x, x + 8]
        }
        Layout::Page => {
            let x = first + page * PAGE + slot * 128;
            [x, x + 64]
        }
        Layout::Pages => [
            first + 2 * page * PAGE + slot * 64,
            // Another place in its page: equal offsets would share a set of the L1 cache.
            first + (2 * page + 1) * PAGE + (slot * 7 + 3) % 64 * 64,
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_make_the_rounds_asked_for_and_words_never_overlap() {
        let batches = plan(10_000);
        assert_eq!(batches.iter().map(|b| b.rounds).sum::<usize>(), 10_000);
        assert!(batches.iter().any(|b| b.sparse) && batches.iter().any(|b| b.timed));
        for layout in [Layout::Line, Layout::Page, Layout::Pages] {
            for batch in &batches[..5] {
                let all = (0..batch.rounds).flat_map(|i| offsets(layout, batch, i));
                let mut all: Vec<usize> = all.collect();
                all.sort_unstable();
                all.dedup();
                assert_eq!(all.len(), 2 * batch.rounds);
                let window = batch.first_page * PAGE..(batch.first_page + WINDOW_PAGES) * PAGE;
                assert!(all.iter().all(|o| window.contains(o)));
            }
        }
    }

    #[test]
    fn layouts_put_words_where_their_names_say() {
        for batch in &plan(10_000)[..5] {
            for i in 0..batch.rounds {
                let [x, y] = offsets(Layout::Line, batch, i);
                assert_eq!(x / 64, y / 64);
                let [x, y] = offsets(Layout::Page, batch, i);
                assert!(x / PAGE == y / PAGE && x / 64 != y / 64);
                let [x, y] = offsets(Layout::Pages, batch, i);
                assert_ne!(x / PAGE, y / PAGE);
            }
        }
    }

    #[test]
    fn permutations_are_all_there() {
        let mut all = permutations(4);
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 24);
        assert_eq!(permutations(2).len(), 2);
    }
}
