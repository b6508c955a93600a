//! What the engine shows of itself: counters, and pages in words.

use crate::pool::Pool;
use crate::segment::Chunk;
use crate::{Counters, Engine, HotPage};
use lev_coherence::HomePage;
use lev_wire::PageNumber;

/// Hottest pages that [`Engine::counters`] shows.
const HOT_PAGES: usize = 20;

impl Engine {
    /// Pages of guest memory that this node holds now, those of the pool left out.
    #[must_use]
    pub fn resident(&self) -> u64 {
        self.core.room.resident()
    }

    /// Whether nobody has touched a page since it was zero; only its home knows, elsewhere the answer is no.
    #[must_use]
    pub fn is_untouched(&self, page: PageNumber) -> bool {
        let table = self.table();
        let Some((segment, offset)) = table.find_page(page) else {
            return false;
        };
        if segment.home(offset) != self.core.rules.me {
            return false;
        }
        let (chunk, index) = segment.lock(offset);
        chunk.entry(index).is_none_or(HomePage::is_untouched)
    }

    /// The counters now. Looks at every page for the hottest ones: not for a busy loop.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut counters = self.core.stats.snapshot();
        counters.resident = self.core.room.resident();
        counters.resident_peak = self.core.room.peak();
        counters.pool_free = self.core.pool.as_ref().map_or(0, Pool::free);
        let mut hot: Vec<HotPage> = Vec::new();
        self.for_each_page(|page, chunk, index| {
            let faults = u64::from(chunk.pages[index].faults.count());
            let least = hot.last().map_or(0, |hot| hot.faults);
            if faults > 0 && (hot.len() < HOT_PAGES || faults > least) {
                let at = hot.partition_point(|hot| hot.faults >= faults);
                hot.insert(at, HotPage { page, faults });
                hot.truncate(HOT_PAGES);
            }
        });
        counters.hot_pages = hot;
        counters
    }

    /// One line about a page, for dumps: its state here and, at its home, the directory entry.
    #[must_use]
    pub fn describe_page(&self, page: PageNumber) -> String {
        let table = self.table();
        let Some((segment, offset)) = table.find_page(page) else {
            return format!("page {page:#x}: in no segment");
        };
        let (chunk, index) = segment.lock(offset);
        let at = segment.home(offset);
        let (record, entry) = (chunk.pages[index], chunk.entry(index));
        let mut line = format!(
            "page {page:#x} on {}: {:?}, pending {:?}, faults {}, comebacks {:?}; home {at}",
            self.core.rules.me,
            record.node.state,
            record.node.pending,
            record.faults.count(),
            record.comebacks.get()
        );
        if at == self.core.rules.me {
            line += &format!(": {:?}", entry.cloned().unwrap_or_default());
        }
        line
    }

    /// Up to `limit` lines about pages with something under way here, for dumps of a cluster that hangs.
    #[must_use]
    pub fn describe_unsettled(&self, limit: usize) -> Vec<String> {
        let mut pages = Vec::new();
        self.for_each_page(|page, chunk, index| {
            let busy = chunk.entry(index).is_some_and(HomePage::is_busy);
            if (busy || chunk.pages[index].node.pending.is_some()) && pages.len() < limit {
                pages.push(page);
            }
        });
        pages
            .into_iter()
            .map(|page| self.describe_page(page))
            .collect()
    }

    fn for_each_page(&self, mut visit: impl FnMut(PageNumber, &Chunk, usize)) {
        let table = self.table();
        for segment in table.iter() {
            let mut offset = 0;
            while offset < segment.pages {
                let (chunk, _) = segment.lock(offset);
                let count = (segment.pages - offset).min(chunk.pages.len() as u64);
                (0..count).for_each(|index| {
                    visit(segment.first + offset + index, &chunk, index as usize)
                });
                offset += count;
            }
        }
    }
}
