//! A set of vCPUs, without allocation.

/// vCPU numbers are below this.
pub const MAX_VCPUS: usize = 1024;

const WORDS: usize = MAX_VCPUS / 64;

/// The vCPUs that a message is for, in ascending order; a bit set on the stack.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Targets {
    words: [u64; WORDS],
}

impl Targets {
    /// Nobody.
    pub const fn none() -> Self {
        Self { words: [0; WORDS] }
    }

    /// One vCPU; nobody if the number is not below [`MAX_VCPUS`].
    pub fn one(vcpu: u32) -> Self {
        let mut targets = Self::none();
        targets.insert(vcpu);
        targets
    }

    pub(crate) fn insert(&mut self, vcpu: u32) {
        if let Some(word) = self.words.get_mut(vcpu as usize / 64) {
            *word |= 1 << (vcpu % 64);
        }
    }

    pub(crate) fn remove(&mut self, vcpu: u32) {
        if let Some(word) = self.words.get_mut(vcpu as usize / 64) {
            *word &= !(1 << (vcpu % 64));
        }
    }

    /// Whether `vcpu` is one of them.
    pub fn contains(&self, vcpu: u32) -> bool {
        self.words
            .get(vcpu as usize / 64)
            .is_some_and(|word| word & (1 << (vcpu % 64)) != 0)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.words
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum()
    }

    /// Nobody.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// The vCPU, if it is exactly one.
    pub fn single(&self) -> Option<u32> {
        let mut vcpus = self.iter();
        let first = vcpus.next()?;
        vcpus.next().is_none().then_some(first)
    }

    /// The vCPU numbers, ascending.
    pub fn iter(&self) -> TargetsIter {
        TargetsIter {
            rest: *self,
            word: 0,
        }
    }
}

impl Default for Targets {
    fn default() -> Self {
        Self::none()
    }
}

impl std::fmt::Debug for Targets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl FromIterator<u32> for Targets {
    fn from_iter<I: IntoIterator<Item = u32>>(vcpus: I) -> Self {
        let mut targets = Self::none();
        vcpus.into_iter().for_each(|vcpu| targets.insert(vcpu));
        targets
    }
}

impl IntoIterator for Targets {
    type Item = u32;
    type IntoIter = TargetsIter;
    fn into_iter(self) -> TargetsIter {
        self.iter()
    }
}

impl IntoIterator for &Targets {
    type Item = u32;
    type IntoIter = TargetsIter;
    fn into_iter(self) -> TargetsIter {
        self.iter()
    }
}

/// Iterator over [`Targets`].
#[derive(Clone, Debug)]
pub struct TargetsIter {
    rest: Targets,
    word: usize,
}

impl Iterator for TargetsIter {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        while let Some(word) = self.rest.words.get_mut(self.word) {
            if *word != 0 {
                let bit = word.trailing_zeros();
                *word &= *word - 1;
                return Some(self.word as u32 * 64 + bit);
            }
            self.word += 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_set_in_ascending_order() {
        let set: Targets = [1023, 0, 64, 63, 64, 1024].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 64, 1023]);
        assert_eq!(set.len(), 4);
        assert!(set.contains(63) && !set.contains(62) && !set.contains(5000));
        assert_eq!(set.single(), None);
        assert_eq!(Targets::one(1023).single(), Some(1023));
        assert!(Targets::one(1024).is_empty());
    }
}
