//! How much guest memory this node holds, how much it may hold, and who else has room.
//!
//! Above the high mark pages are given away (see `evict`) until the low mark is reached; up to the high mark this node
//! keeps pages for others: were it less, all nodes could stand still between the two marks with copies that nobody
//! needs. At the limit a fault waits until there is room.

use crate::copies::Copies;
use crate::core::{Core, Failure};
use crate::frames::Frame;
use crate::segment::Chunk;
use lev_coherence::{NodePage, NodeState};
use lev_wire::{NodeId, PageNumber};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The smallest limit with which an instruction surely finds all of its pages in place at once.
pub(crate) const LEAST_PAGES: u64 = 256;
/// Room that has not changed is told again after so long.
const TELL_AGAIN_US: u64 = 300_000;
/// Room for fewer pages is not told of each time that some of it is filled.
const NEWS: u64 = 64;
/// What has no limit.
const UNLIMITED: u64 = u64::MAX;

/// What the owner of an engine is told about room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomEvent {
    /// No node has room: threads that touch memory which is not here wait until there is some. The guest stands still,
    /// and nothing is lost.
    Full {
        /// Pages that this node holds.
        resident: u64,
        /// Pages that it may hold.
        limit: u64,
        /// Faults that wait.
        waiting: u64,
    },
    /// There is room again.
    Relieved,
}

type Listener = Box<dyn Fn(RoomEvent) + Send + Sync>;

pub(crate) struct Room {
    /// Pages; 0: no limit.
    limit: u64,
    /// Other nodes, at least one.
    others: u64,
    resident: AtomicU64,
    /// Pages of this home that are on their way here: they will be resident.
    coming: AtomicU64,
    /// The most that `resident` ever was.
    peak: AtomicU64,
    /// Pages that the homes were asked to take, and that they have not answered for yet.
    returning: AtomicU64,
    /// Free pages of each node that this one may fill, as far as it has said.
    peers: Vec<AtomicU64>,
    /// Pages that each node has sent unasked since it was told of room for its sake.
    filled: Vec<AtomicU64>,
    told: AtomicU64,
    /// When it was last told, microseconds since start.
    told_us: AtomicU64,
    /// Addresses of faults that wait for room.
    parked: Mutex<Vec<u64>>,
    any_parked: AtomicBool,
    work: Mutex<bool>,
    changed: Condvar,
    listener: Mutex<Option<Listener>>,
    pub(crate) copies: Copies,
}

/// How many pages may be sent unasked to a node that has said that so many are free: what others send is not in it yet.
fn unasked(free: u64) -> u64 {
    free.saturating_sub(1) / 2
}

impl Room {
    pub(crate) fn new(limit: u64, nodes: u16) -> Self {
        // All have the same limit, and nothing at first.
        let others = u64::from(nodes.max(2) - 1);
        let free = if limit > 0 {
            (limit - limit / 32) / others
        } else {
            UNLIMITED
        };
        Self {
            limit,
            others,
            resident: AtomicU64::new(0),
            coming: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            returning: AtomicU64::new(0),
            peers: (0..nodes).map(|_| AtomicU64::new(free)).collect(),
            filled: (0..nodes).map(|_| AtomicU64::new(0)).collect(),
            told: AtomicU64::new(UNLIMITED),
            told_us: AtomicU64::new(0),
            parked: Mutex::default(),
            any_parked: AtomicBool::new(false),
            work: Mutex::default(),
            changed: Condvar::new(),
            listener: Mutex::default(),
            copies: Copies::new(limit),
        }
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.limit > 0
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Pages are given away above this.
    pub(crate) fn high(&self) -> u64 {
        self.limit - self.limit / 32
    }

    /// And down to this.
    pub(crate) fn low(&self) -> u64 {
        self.limit - self.limit / 16
    }

    pub(crate) fn resident(&self) -> u64 {
        self.resident.load(Relaxed)
    }

    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Relaxed)
    }

    pub(crate) fn returning(&self) -> u64 {
        self.returning.load(Relaxed)
    }

    /// Pages that may still be kept here for others.
    pub(crate) fn free(&self) -> u64 {
        if self.is_limited() {
            let taken = self.resident() + self.coming.load(Relaxed);
            self.high().saturating_sub(taken)
        } else {
            UNLIMITED
        }
    }

    /// A page of this home is on its way here since an event, or not any more.
    pub(crate) fn on_its_way(&self, before: bool, after: bool) {
        match (before, after) {
            (false, true) => self.coming.fetch_add(1, Relaxed),
            (true, false) => self.coming.fetch_sub(1, Relaxed),
            _ => return,
        };
    }

    /// Whether so many pages more fit here without giving others away.
    pub(crate) fn has_room(&self, pages: u64) -> bool {
        !self.is_limited() || self.resident() + pages <= self.high()
    }

    /// Whether so many pages that a node did not ask for would fit there.
    pub(crate) fn peer_has_room(&self, node: NodeId, pages: u64) -> bool {
        let Some(free) = self.peers.get(node.index()) else {
            return false;
        };
        // What is given now is not in its report yet.
        let less = |left: u64| match left {
            UNLIMITED => Some(UNLIMITED),
            left => (pages <= unasked(left)).then(|| left - pages),
        };
        free.fetch_update(Relaxed, Relaxed, less).is_ok()
    }

    /// How many pages that a node did not ask for would fit there.
    pub(crate) fn peer_room(&self, node: NodeId) -> u64 {
        self.peers
            .get(node.index())
            .map_or(0, |free| unasked(free.load(Relaxed)))
    }

    /// A node says how much room it has.
    pub(crate) fn note_peer(&self, node: NodeId, free: u64) {
        if let Some(peer) = self.peers.get(node.index()) {
            peer.store(free, Relaxed);
        }
    }

    pub(crate) fn forget(&self, lost: NodeId) {
        self.note_peer(lost, 0);
    }

    /// Who takes a page that `holder` gives back: its home `me` if there is room, else the node with most of it.
    pub(crate) fn keeper(
        &self,
        me: NodeId,
        holder: NodeId,
        lost: impl Fn(NodeId) -> bool,
    ) -> Option<NodeId> {
        if holder != me && self.free() > 0 {
            return Some(me);
        }
        let nodes = self.peers.iter().enumerate();
        let others = nodes
            .map(|(index, free)| (NodeId(index as u16), free))
            .filter(|(node, _)| *node != me && *node != holder && !lost(*node));
        let (keeper, free) = others.max_by_key(|(_, free)| free.load(Relaxed))?;
        // What is given now is not in its report yet.
        let less = |left: u64| match left {
            0 => None,
            UNLIMITED => Some(UNLIMITED),
            left => Some(left - 1),
        };
        free.fetch_update(Relaxed, Relaxed, less)
            .ok()
            .map(|_| keeper)
    }

    /// Whether a fault on an absent page must wait; if so it is noted and woken later.
    pub(crate) fn park(&self, address: u64) -> bool {
        if !self.is_limited() || self.resident() < self.limit {
            return false;
        }
        let mut parked = self.parked();
        self.any_parked.store(true, SeqCst);
        if self.resident.load(SeqCst) < self.limit {
            return false; // a page went in between, and nobody knew that somebody waits
        }
        parked.push(address);
        self.signal();
        true
    }

    pub(crate) fn waiting(&self) -> u64 {
        self.parked().len() as u64
    }

    /// Faults that need not wait any more.
    fn released(&self) -> Vec<u64> {
        if !self.any_parked.load(SeqCst) || self.resident.load(SeqCst) >= self.limit {
            return Vec::new();
        }
        let mut parked = self.parked();
        self.any_parked.store(false, SeqCst);
        std::mem::take(&mut parked)
    }

    /// So many pages more are here.
    pub(crate) fn came(&self, pages: u64) {
        let now = self.resident.fetch_add(pages, SeqCst) + pages;
        if now > self.peak.load(Relaxed) {
            self.peak.fetch_max(now, Relaxed);
        }
        if self.is_limited() && now > self.high() {
            self.signal();
        }
    }

    /// A node sent so many pages for which this one did not ask; how much room it may fill now, if it has filled so much
    /// of what it knows of that it should be told.
    pub(crate) fn filled_by(&self, node: NodeId, pages: u64) -> Option<u64> {
        let filled = self
            .filled
            .get(node.index())
            .filter(|_| self.is_limited())?;
        let share = self.share();
        if 4 * (filled.fetch_add(pages, Relaxed) + pages) < share.max(NEWS) {
            return None;
        }
        filled.store(0, Relaxed);
        Some(share)
    }

    /// What each of the others may fill: a part of what there is, because all of them may do so at the same time.
    fn share(&self) -> u64 {
        self.free().div_ceil(self.others)
    }

    /// A copy for reading is here.
    pub(crate) fn copy_came(&self, page: PageNumber) {
        if self.is_limited() && self.copies.came(page) && self.is_short() {
            self.signal();
        }
    }

    /// Whether so little room is left that the others send few pages ahead.
    pub(crate) fn is_short(&self) -> bool {
        self.lacking() > 0
    }

    /// Pages that had to go so that the others can send pages ahead.
    pub(crate) fn lacking(&self) -> u64 {
        (self.resident() + self.limit / 64).saturating_sub(self.high())
    }

    fn went(&self) {
        self.resident.fetch_sub(1, SeqCst);
    }

    /// Tells the thread that makes room that there is something to do.
    pub(crate) fn signal(&self) {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut *work, true) {
            self.changed.notify_one();
        }
    }

    /// Sleeps until there is something to do, at most so long.
    pub(crate) fn wait(&self, limit: Duration) {
        let work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let result = self.changed.wait_timeout_while(work, limit, |work| !*work);
        *result.unwrap_or_else(PoisonError::into_inner).0 = false;
    }

    pub(crate) fn listen(&self, listener: Listener) {
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner) = Some(listener);
    }

    pub(crate) fn tell(&self, event: RoomEvent) {
        let listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listener) = listener.as_ref() {
            listener(event);
        }
    }

    /// How much room each of the others may fill, if they should be told. What they know shrinks with each page that they
    /// send or only meant to send, so room that stays the same must be told again, or in the end they would believe in none.
    fn news(&self, now_us: u64) -> Option<u64> {
        if !self.is_limited() {
            return None;
        }
        let (free, told) = (self.free(), self.told.load(Relaxed));
        let step = (self.limit / 64).max(1);
        let changed = free != told && (free.abs_diff(told) >= step || free == 0 || told == 0);
        let old = free > 0 && now_us >= self.told_us.load(Relaxed) + TELL_AGAIN_US;
        if !changed && !old {
            return None;
        }
        self.told.store(free, Relaxed);
        self.told_us.store(now_us, Relaxed);
        Some(self.share())
    }

    fn parked(&self) -> MutexGuard<'_, Vec<u64>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    /// What an event of a page changed.
    pub(crate) fn account(
        &self,
        chunk: &mut Chunk,
        page: PageNumber,
        before: NodePage,
        after: NodePage,
    ) -> Result<(), Failure> {
        match (before.returning, after.returning) {
            (false, true) => {
                self.room.returning.fetch_add(1, Relaxed);
            }
            (true, false) => {
                self.room.returning.fetch_sub(1, Relaxed);
                if before.state.has_copy() && after.state.has_copy() {
                    self.stats.stays.add(1);
                }
            }
            _ => {}
        }
        match (before.state.has_copy(), after.state.has_copy()) {
            (false, true) => {
                chunk.here += 1;
                if after.state == NodeState::Shared {
                    self.room.copy_came(page);
                }
                self.came(1);
            }
            (true, false) => {
                chunk.here -= 1;
                self.room.went();
                return self.release();
            }
            _ => {}
        }
        Ok(())
    }

    /// So many pages more are here. Told by the thread that put them there: the one that makes room may have to wait for a
    /// CPU, while others go on to send what they believe that there is room for.
    pub(crate) fn came(&self, pages: u64) {
        self.room.came(pages);
        self.tell_room();
    }

    /// Wakes faults that waited for room: they come again.
    pub(crate) fn release(&self) -> Result<(), Failure> {
        let released = self.room.released();
        if released.is_empty() {
            return Ok(());
        }
        for address in released {
            // By address: the table is locked for reading by every caller already.
            for uffd in &self.uffds {
                uffd.wake(address, crate::core::PAGE)?;
            }
        }
        Ok(())
    }

    /// Tells the others how much room there is, if that is news to them.
    pub(crate) fn tell_room(&self) {
        let now_us = self.now_ns() / 1000;
        let Some(free) = self.room.news(now_us) else {
            return;
        };
        for node in (0..self.nodes)
            .map(NodeId)
            .filter(|node| *node != self.rules.me)
        {
            self.send_frame(node, &Frame::room(free), &[]);
        }
    }
}

#[cfg(test)]
#[path = "room_tests.rs"]
mod tests;
