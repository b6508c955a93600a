//! How many rounds threads do between two meetings.

use std::ops::Range;

/// Used in turn: half of all meetings come after at most four rounds, most rounds are far from one. A meeting moves pages
/// whatever the rounds between are; on nodes without a pool it takes milliseconds.
const LENGTHS: [u64; 4] = [1, 4, 16, 64];
// The rounds of the longest can be told apart by their last byte, and by it from what is none of them: `pagecross` does.
const _: () = assert!(LENGTHS[LENGTHS.len() - 1] < u8::MAX as u64 / 2);

/// `0..rounds` in stretches, one after the other.
pub fn stretches(rounds: u64) -> impl Iterator<Item = Range<u64>> {
    let mut next = 0;
    LENGTHS.into_iter().cycle().map_while(move |length| {
        let stretch = next..rounds.min(next + length);
        next = stretch.end;
        (!stretch.is_empty()).then_some(stretch)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_cover_all_rounds_once() {
        for rounds in [0, 1, 2, 85, 86, 1000] {
            let all: Vec<u64> = stretches(rounds).flatten().collect();
            assert_eq!(all, (0..rounds).collect::<Vec<u64>>());
        }
        let lengths: Vec<u64> = stretches(90).map(|s| s.end - s.start).collect();
        assert_eq!(lengths, [1, 4, 16, 64, 1, 4]);
        assert!(LENGTHS.is_sorted(), "the last one must be the longest");
    }
}
