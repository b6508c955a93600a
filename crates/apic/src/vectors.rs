//! The 256-bit vector registers: ISR, TMR, IRR.

/// Vectors below this are reserved (SDM 11.5.2).
pub(crate) const FIRST_LEGAL: u8 = 16;

/// One bit per vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vectors {
    words: [u32; 8],
}

impl Vectors {
    pub(crate) fn contains(&self, vector: u8) -> bool {
        self.words[usize::from(vector >> 5)] & (1 << (vector & 31)) != 0
    }

    pub(crate) fn insert(&mut self, vector: u8) {
        self.words[usize::from(vector >> 5)] |= 1 << (vector & 31);
    }

    pub(crate) fn remove(&mut self, vector: u8) {
        self.words[usize::from(vector >> 5)] &= !(1 << (vector & 31));
    }

    pub(crate) fn put(&mut self, vector: u8, present: bool) {
        if present {
            self.insert(vector);
        } else {
            self.remove(vector);
        }
    }

    /// The vector of the highest priority.
    pub(crate) fn highest(&self) -> Option<u8> {
        let (index, word) = (0u8..)
            .zip(self.words)
            .filter(|(_, word)| *word != 0)
            .last()?;
        Some(index * 32 + word.ilog2() as u8)
    }

    /// The register at `offset` (0x00, 0x10, … 0x70) from the first of the eight.
    pub(crate) fn register(&self, offset: u32) -> u32 {
        self.words[offset as usize >> 4 & 7]
    }

    /// Takes the eight registers, without the vectors that cannot be there.
    pub(crate) fn from_registers(mut words: [u32; 8]) -> Self {
        words[0] &= !0 << FIRST_LEGAL;
        Self { words }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn highest_of_several_words() {
        let mut set = Vectors::default();
        assert_eq!(set.highest(), None);
        for vector in [16, 31, 32, 200, 255] {
            set.insert(vector);
            assert_eq!(set.highest(), Some(vector));
        }
        set.remove(255);
        assert_eq!(set.highest(), Some(200));
        assert_eq!(set.register(0x60), 1 << 8);
    }

    #[test]
    fn illegal_vectors_do_not_load() {
        let set = Vectors::from_registers([0x0001_ffff, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(set.highest(), Some(16));
        assert!(!set.contains(15));
    }
}
