//! A set of nodes: 64 inline, up to 1024 with one allocation.

use lev_wire::NodeId;

const HIGH_WORDS: usize = 15;

/// A set of nodes with ids below 1024.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sharers {
    low: u64,
    high: Option<Box<[u64; HIGH_WORDS]>>,
}

impl Sharers {
    /// Ids must be below this.
    pub const LIMIT: u16 = 64 * (HIGH_WORDS as u16 + 1);

    /// Adds a node. An id of [`Sharers::LIMIT`] or more is a mistake of the caller.
    pub fn insert(&mut self, node: NodeId) {
        debug_assert!(node.0 < Self::LIMIT);
        match node.index() / 64 {
            0 => self.low |= 1 << node.0,
            word => self.high.get_or_insert_with(Box::default)[word - 1] |= 1 << (node.0 % 64),
        }
    }

    /// Removes a node, if it is there.
    pub fn remove(&mut self, node: NodeId) {
        match (node.index() / 64, self.high.as_mut()) {
            (0, _) => self.low &= !(1 << node.0),
            (word, Some(high)) if word <= HIGH_WORDS => {
                high[word - 1] &= !(1 << (node.0 % 64));
                if high.iter().all(|bits| *bits == 0) {
                    self.high = None; // one form per set, so that equal sets compare equal
                }
            }
            _ => {}
        }
    }

    /// Whether the node is in the set.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.word(node.index() / 64) >> (node.0 % 64) & 1 == 1
    }

    /// How many nodes.
    #[must_use]
    pub fn len(&self) -> u32 {
        (0..=HIGH_WORDS)
            .map(|word| self.word(word).count_ones())
            .sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The nodes, in order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = NodeId> + '_ {
        (0..=HIGH_WORDS).flat_map(move |word| {
            let mut bits = self.word(word);
            std::iter::from_fn(move || {
                let bit = (bits != 0).then(|| bits.trailing_zeros() as u16)?;
                bits &= bits - 1;
                Some(NodeId(word as u16 * 64 + bit))
            })
        })
    }

    fn word(&self, index: usize) -> u64 {
        match index {
            0 => self.low,
            _ => self
                .high
                .as_ref()
                .and_then(|high| high.get(index - 1))
                .copied()
                .unwrap_or(0),
        }
    }
}

impl FromIterator<NodeId> for Sharers {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        let mut set = Self::default();
        nodes.into_iter().for_each(|node| set.insert(node));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_any_mix_of_ids() {
        let ids = [0, 1, 63, 64, 65, 127, 128, 1000, 1023];
        let mut set: Sharers = ids.iter().map(|id| NodeId(*id)).collect();
        assert_eq!(set.iter().map(|node| node.0).collect::<Vec<_>>(), ids);
        assert_eq!(set.len(), ids.len() as u32);
        assert!(
            !set.contains(NodeId(2)) && !set.contains(NodeId(66)) && set.contains(NodeId(1023))
        );
        ids.iter().for_each(|id| set.remove(NodeId(*id)));
        assert!(set.is_empty());
        assert_eq!(set, Sharers::default());
    }

    #[test]
    fn stays_small() {
        assert!(std::mem::size_of::<Sharers>() <= 16);
    }
}
