//! Changes inputs a little, the same way for the same seed.

use crate::{Framing, Seed, Target};

/// SplitMix64: small, and good enough to choose with.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator whose numbers depend on `text` and `number` only.
    #[must_use]
    pub fn new(text: &str, number: u64) -> Self {
        let hash = text.bytes().fold(0xCBF2_9CE4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
        });
        Self(hash ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 if `end` is.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % (end as u64).max(1)) as usize
    }
}

/// Numbers at which checks go wrong.
const EDGES: [u64; 16] = [
    0,
    1,
    2,
    8,
    16,
    0x7F,
    0xFF,
    0x100,
    0xFFF,
    0x1000,
    0x7FFF_FFFF,
    0xFFFF_FFFF,
    1 << 20,
    (1 << 20) + 1,
    i64::MAX as u64,
    u64::MAX,
];
/// Longest input.
const LONGEST: usize = 16 << 10;

/// Makes inputs of a target out of its corpus.
pub struct Mutator<'a> {
    target: &'a Target,
    corpus: &'a [Seed],
}

impl<'a> Mutator<'a> {
    /// A mutator of `corpus`.
    #[must_use]
    pub fn new(target: &'a Target, corpus: &'a [Seed]) -> Self {
        Self { target, corpus }
    }

    /// Input number `round`.
    #[must_use]
    pub fn input(&self, round: u64) -> Vec<u8> {
        let mut rng = Rng::new(self.target.name, round);
        let mut input = self.pick(&mut rng).to_vec();
        for _ in 0..=rng.below(4) {
            self.change(&mut input, &mut rng);
            input.truncate(LONGEST);
        }
        if let Some(framing) = self.target.framing {
            // Mostly frames that get past the first look at their length.
            if rng.below(4) > 0 {
                repair(&mut input, framing);
            }
        }
        input
    }

    fn pick(&self, rng: &mut Rng) -> &'a [u8] {
        let index = rng.below(self.corpus.len());
        self.corpus.get(index).map_or(&[], |(_, bytes)| bytes)
    }

    fn change(&self, input: &mut Vec<u8>, rng: &mut Rng) {
        // Half of the time near the front, where headers are.
        let reach = if rng.below(2) == 0 { 64 } else { usize::MAX };
        let at = rng.below(input.len().min(reach));
        match rng.below(9) {
            0 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << rng.below(8);
                }
            }
            1 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = rng.number() as u8;
                }
            }
            2 => overwrite(input, at, rng),
            3 => input.truncate(at),
            4 => {
                let most = if rng.below(8) == 0 { 5000 } else { 24 };
                let more = rng.below(most);
                let byte = rng.number() as u8;
                input.resize(input.len() + more, byte);
            }
            5 => {
                let end = (at + 1 + rng.below(32)).min(input.len());
                let part = input[at.min(end)..end].to_vec();
                input.splice(at..at, part);
            }
            6 => {
                let end = (at + 1 + rng.below(32)).min(input.len());
                input.drain(at.min(end)..end);
            }
            7 => {
                let other = self.pick(rng);
                let from = rng.below(other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => {
                let words = self.target.words;
                let word = words.get(rng.below(words.len())).copied();
                let end = if rng.below(2) == 0 {
                    at
                } else {
                    (at + 1).min(input.len())
                };
                input.splice(at..end, word.unwrap_or(&[0xFF]).iter().copied());
            }
        }
    }
}

/// Writes a number of 1, 2, 4 or 8 bytes, little-endian, over what is there.
fn overwrite(input: &mut [u8], at: usize, rng: &mut Rng) {
    let width = 1 << rng.below(4);
    let at = at / width * width;
    let value = EDGES[rng.below(EDGES.len())]
        .wrapping_add(rng.below(3) as u64)
        .wrapping_sub(1);
    if let Some(field) = input.get_mut(at..at + width) {
        field.copy_from_slice(&value.to_le_bytes()[..width]);
    }
}

/// Makes the length of the first frame that of what follows its header.
fn repair(input: &mut [u8], framing: Framing) {
    let len = input.len().saturating_sub(framing.header) as u32;
    if let Some(field) = input.get_mut(framing.at..framing.at + 4) {
        field.copy_from_slice(&len.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_round_gives_the_same_input_and_others_differ() {
        let target = crate::target("dsm-frame").unwrap();
        let seeds = (target.seeds)();
        let mutator = Mutator::new(&target, &seeds);
        assert_eq!(mutator.input(7), mutator.input(7));
        let mut inputs: Vec<_> = (0..200).map(|round| mutator.input(round)).collect();
        inputs.sort();
        inputs.dedup();
        assert!(inputs.len() > 150, "{} different inputs", inputs.len());
    }
}
