//! How a page is used, as its home sees it: whether who reads it writes it next.

use crate::page::Rules;
use lev_wire::NodeId;

/// Evidence that is needed again after a wrong guess, beside the usual.
const BURNT: i8 = -2;

/// Whether a page is migratory: one node after the other reads it, then writes it. Its readers get the right to write at once.
/// Nothing here can make memory wrong: a reader that does not write only says so, and has cost a read copy elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Habit {
    /// The node that joined the owner as the only other reader: it may turn out to be the next writer.
    reader: Option<NodeId>,
    /// Above 0: migratory.
    evidence: i8,
}

impl Habit {
    pub(crate) fn is_migratory(self) -> bool {
        self.evidence > 0
    }

    /// A node got a copy for reading; `first`: beside the owner's alone.
    pub(crate) fn read(&mut self, by: NodeId, first: bool, rules: &Rules) {
        self.reader = (first && rules.migratory).then_some(by);
    }

    /// A node that shared the page gets the right to write.
    pub(crate) fn upgraded(&mut self, by: NodeId) {
        self.evidence = match self.reader.take() {
            Some(reader) if reader == by => (self.evidence + 1).min(1),
            // The owner went on writing, or one of many readers writes: another pattern.
            _ => self.evidence.min(0),
        };
    }

    /// A reader that was allowed to write gave the page away without having written.
    pub(crate) fn guessed_wrong(&mut self, rules: &Rules) {
        if rules.migratory {
            self.evidence = BURNT;
            self.reader = None;
        }
    }
}
