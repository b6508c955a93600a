//! The words of a region, by their number.

use lev_wire::PAGE_SIZE;
use std::sync::atomic::AtomicU64;
use std::sync::Arc;

/// Words of memory that stay mapped while this exists.
#[derive(Clone)]
pub struct Memory {
    base: u64,
    words: u64,
    _keep: Arc<dyn Send + Sync>,
}

impl Memory {
    /// The region's words. They hold no descriptor and no thread of it: it can be left while threads still have this.
    pub fn of(region: &lev_region::Region) -> Self {
        Self {
            base: region.base() as u64,
            words: region.len() / 8,
            _keep: region.keep(),
        }
    }

    /// Pages.
    pub fn pages(&self) -> u64 {
        self.words * 8 / PAGE_SIZE as u64
    }

    /// First byte.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// One word. Using it may wait for another node.
    pub fn word(&self, word: u64) -> &AtomicU64 {
        assert!(word < self.words, "word {word} of {}", self.words);
        // SAFETY: an aligned word inside of a mapping that lives as long as `self`, as just checked; everybody in this
        // process uses it through atomics.
        unsafe { AtomicU64::from_ptr((self.base + word * 8) as *mut u64) }
    }
}
