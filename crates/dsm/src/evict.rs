//! The thread that makes room: a clock hand goes over the pages and asks their homes to take them.
//!
//! A page is passed over once after each grant: what comes back all the time stays, what was granted once and long ago
//! goes. What is at home elsewhere goes first: its home is where others look for it, and most likely has room.

use crate::core::{Core, Event, Failure, Scratch};
use crate::room::RoomEvent;
use crate::segment::{PageRecord, Segment, CHUNK_PAGES};
use lev_coherence::NodeState;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// How often the thread looks by itself; twice as long after each round with nothing but refusals.
const TICK: Duration = Duration::from_millis(20);
/// Pages that are asked for at the same time: more would keep the threads that move pages busy for so long that nothing else
/// runs on a slow node.
const BATCH: u64 = 64;
/// Pages that are looked at for copies to drop while there is no need of it.
const SCAN: u64 = 4096;
/// Rounds with nothing but refusals that are counted.
const MOST_FRUITLESS: u32 = 2;
/// Nobody has room: after so long without any success while somebody waits.
const FULL_AFTER: Duration = Duration::from_secs(1);

/// Where the hand is: a page, counted over all segments.
#[derive(Default)]
pub(crate) struct Hand(u64);

/// Whether this node could do without the page now; `copies`: only if it is one of several.
pub(crate) fn is_free(record: &PageRecord, copies: bool) -> bool {
    let here = match record.node.state {
        NodeState::Shared => true,
        NodeState::Exclusive | NodeState::Clean => !copies,
        NodeState::Invalid | NodeState::Pooled => false,
    };
    here && record.node.pending.is_none() && !record.node.returning
}

/// What is known about being full.
struct Watch {
    /// Somebody waits for room since then, and no page has gone.
    since: Option<Instant>,
    full: bool,
}

impl Core {
    /// Makes room until the engine stops; only for nodes with a limit.
    pub(crate) fn serve_room(&self) {
        let (mut hand, mut scratch) = (Hand::default(), Scratch::new());
        let mut watch = Watch {
            since: None,
            full: false,
        };
        let mut fruitless = 0;
        while !self.stopped.load(Ordering::Acquire) {
            let before = (
                self.stats.evictions.get() + self.stats.invalidations.get(),
                self.stats.stays.get(),
            );
            self.room.wait(TICK * (1 << fruitless));
            let result = self.make_room(&mut hand, fruitless, &mut scratch);
            if let Err(failure) = result {
                return self.fatal(failure.into_error());
            }
            // Only refusals since: the others need time.
            let gone = self.stats.evictions.get() + self.stats.invalidations.get() > before.0;
            let refused = self.stats.stays.get() > before.1;
            fruitless = match (gone, refused) {
                (false, true) => (fruitless + 1).min(MOST_FRUITLESS),
                _ => 0,
            };
            self.watch_room(&mut watch, gone);
        }
    }

    fn make_room(
        &self,
        hand: &mut Hand,
        fruitless: u32,
        scratch: &mut Scratch,
    ) -> Result<(), Failure> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let segments: Vec<Arc<Segment>> = table
            .iter()
            .filter(|segment| segment.active.load(Ordering::Acquire))
            .map(Arc::clone)
            .collect();
        if segments.is_empty() {
            return Ok(());
        }
        let (came, dropped) = self.drop_old_copies(&table, fruitless > 0, scratch)?;
        self.tell_room();
        let resident = self.room.resident();
        let step = (self.room.limit() / 64).clamp(4, BATCH);
        if resident <= self.room.high() {
            if resident + step > self.room.high() {
                // No need of its own, but nodes that have no copies to drop wait for room here.
                self.sweep(&segments, hand, step, (true, true), SCAN, scratch)?;
            } else if came > 0 && dropped == 0 && self.room.is_short() {
                // What is read now finds no room for more than a few copies at a time: what is not used makes some.
                let most = step.saturating_sub(self.room.returning());
                self.sweep(&segments, hand, most, (false, true), SCAN, scratch)?;
            }
            return Ok(());
        }
        let wanted =
            (resident - self.room.low()).saturating_sub(self.room.returning()) << fruitless;
        // A refusal costs little, so ever more pages are asked for until one can go.
        let mut left = wanted.min((step << fruitless).saturating_sub(self.room.returning()));
        // When nobody takes the others, copies, which others have, too, most likely: with only a few pages asked for at a
        // time, refusals would hide them for seconds. Of both first what is at home elsewhere; two rounds each, because
        // of the second chance.
        let kinds: &[bool] = if fruitless > 0 {
            &[true, false]
        } else {
            &[false] // the oldest copies are gone already
        };
        for copies in kinds {
            for own in [false, true] {
                for _ in 0..2 {
                    if left > 0 {
                        left -=
                            self.sweep(&segments, hand, left, (*copies, own), u64::MAX, scratch)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Moves the hand until so many pages were given back, over `most` pages and once round at most;
    /// returns how many. `which`: only copies; also what is at home here.
    fn sweep(
        &self,
        segments: &[Arc<Segment>],
        hand: &mut Hand,
        wanted: u64,
        which: (bool, bool),
        most: u64,
        scratch: &mut Scratch,
    ) -> Result<u64, Failure> {
        let (copies, own) = which;
        let total: u64 = segments.iter().map(|segment| segment.pages).sum();
        let (mut passed, mut given) = (0, 0);
        while passed < total.min(most) && given < wanted {
            let mut at = hand.0 % total;
            let Some(segment) = segments.iter().find(|segment| {
                let inside = at < segment.pages;
                at -= if inside { 0 } else { segment.pages };
                inside
            }) else {
                return Ok(given);
            };
            let end = (at - at % CHUNK_PAGES as u64 + CHUNK_PAGES as u64).min(segment.pages);
            let is_ours = |offset| segment.home(offset) == self.rules.me;
            let skip = !own && is_ours(at) && is_ours(end - 1);
            let (mut chunk, _) = self.lock_watched(segment, at)?;
            if skip || chunk.here == 0 {
                passed += end - at;
                hand.0 = (hand.0 + end - at) % total;
                continue;
            }
            let mut chosen = Vec::new();
            for offset in at..end {
                passed += 1;
                hand.0 = (hand.0 + 1) % total;
                let record = &mut chunk.pages[offset as usize % CHUNK_PAGES];
                if is_free(record, copies) && (own || !is_ours(offset)) && record.faults.pass() {
                    chosen.push(offset);
                    if given + chosen.len() as u64 == wanted {
                        break;
                    }
                }
            }
            given += chosen.len() as u64;
            self.handle_together(segment, &mut chunk, chosen, Event::Return, scratch)?;
        }
        Ok(given)
    }

    /// Says when nobody has room, and when there is some again.
    fn watch_room(&self, watch: &mut Watch, gone: bool) {
        let waiting = self.room.waiting();
        if waiting == 0 || gone || self.room.resident() < self.room.limit() {
            watch.since = None;
            if std::mem::take(&mut watch.full) {
                self.room.tell(RoomEvent::Relieved);
            }
            return;
        }
        let since = *watch.since.get_or_insert_with(Instant::now);
        if !watch.full && since.elapsed() >= FULL_AFTER {
            watch.full = true;
            self.room.tell(RoomEvent::Full {
                resident: self.room.resident(),
                limit: self.room.limit(),
                waiting,
            });
        }
    }
}
