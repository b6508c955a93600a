//! The gate between a fault and the request for its page: closed for pages that are fought over, until this node has its
//! turn. It only delays requests, as a slow network would; the protocol does not know of it.

use crate::core::{Core, Event, Failure, Scratch, PAGE};
use crate::frames::Frame;
use crate::segment::{PageRecord, SegmentTable};
use crate::siege::{Company, Fault, Sieges, Sight};
use crate::turns::{Effects, Turns, Word};
use crate::{Activity, Look, LookAtThreads};
use lev_coherence::{Access, NodeState};
use lev_wire::{NodeId, PageNumber};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Length of a turn, in times of fetching a page without contention: a set of pages is fetched in a fraction of it.
const QUANTUM: u64 = 256;
/// Bounds of it, microseconds.
const SHORTEST_US: u64 = 1_000;
const LONGEST_US: u64 = 200_000;
/// Threads that missed no page for so many times of fetching one, or for so many microseconds, have what they need.
const QUIET: u64 = 4;
const QUIET_US: u64 = 2_000;
/// Fetching is dear when it takes so many times as long as a granted page stays.
const DEAR: u32 = 2;
/// The fight is over when this node has not needed a turn for so long, microseconds.
const PEACE_US: u64 = 1_000_000;

/// What is assumed of threads about which nobody says anything.
const IN_THE_DARK: Activity = Activity {
    asleep: false,
    since_call: Duration::MAX,
    waits: false,
};

/// See the module.
pub(crate) struct Gate {
    pub(crate) activity: OnceLock<LookAtThreads>,
    turns: Mutex<Turns>,
    sieges: Mutex<Sieges>,
    /// This node has the turn, and another one waits for it, since and until then; microseconds since start; 0: no.
    since_us: AtomicU64,
    until_us: AtomicU64,
    /// When a page was last fought over; 0: never.
    fought_us: AtomicU64,
    /// When a thread last missed a page; microseconds since start.
    missed_us: AtomicU64,
    /// The timer's thread must call [`Core::go_on`].
    go: AtomicBool,
}

impl Gate {
    pub(crate) fn new(me: NodeId) -> Self {
        Self {
            activity: OnceLock::new(),
            turns: Mutex::new(Turns::new(me)),
            sieges: Mutex::default(),
            since_us: AtomicU64::new(0),
            until_us: AtomicU64::new(0),
            fought_us: AtomicU64::new(0),
            missed_us: AtomicU64::new(0),
            go: AtomicBool::new(false),
        }
    }
}

impl Core {
    /// Nobody on this node works on what it holds.
    fn is_idle(&self) -> bool {
        let activity = self.gate.activity.get();
        activity.is_some_and(|now| now(Look::Glance).asleep)
    }

    /// What this node's threads do. That they only wait for others can be seen as long as they miss no page.
    fn activity(&self, now_us: u64, contested: bool) -> Activity {
        let fetching_us = QUIET_US.max(QUIET * u64::from(self.fetch_time.get()));
        let is_quiet = now_us.saturating_sub(self.gate.missed_us.load(Relaxed)) > fetching_us;
        let look = if contested && is_quiet {
            Look::Closely
        } else {
            Look::Anew
        };
        self.gate
            .activity
            .get()
            .map_or(IN_THE_DARK, |now| now(look))
    }

    /// A granted page is gone again before another one has come.
    fn fetching_is_dear(&self) -> bool {
        self.fetch_time.get() > DEAR * self.hold_us
    }

    /// Turns need somebody who says when this node has nothing to do, and the pool is better.
    fn takes_turns(&self) -> bool {
        self.pool.is_none() && self.hold_us > 0 && self.gate.activity.get().is_some()
    }

    fn micros(&self) -> u64 {
        self.now_ns() / 1000
    }

    /// This node takes turns now.
    pub(crate) fn is_fighting(&self) -> bool {
        let fought = self.gate.fought_us.load(Relaxed);
        fought != 0 && self.micros() < fought + PEACE_US
    }

    /// How long this node's turn lasts, if it has one and use for it.
    pub(crate) fn turn_left_us(&self) -> u64 {
        let until = self.gate.until_us.load(Relaxed);
        let left = until.saturating_sub(self.micros());
        if left == 0 || self.is_idle() {
            return 0;
        }
        left
    }

    /// How long this node's turn keeps the page: one of its set, granted in this turn, that it may write.
    pub(crate) fn turn_keeps_us(&self, page: PageNumber, record: &PageRecord) -> u64 {
        if !record.node.state.is_sole() || record.granted_us == 0 {
            return 0;
        }
        match self.turn_left_us() {
            0 => 0,
            left => {
                let since = self.gate.since_us.load(Relaxed);
                let age = u64::from(self.now_us().wrapping_sub(record.granted_us));
                let granted = self.micros().saturating_sub(age);
                if granted >= since && self.turns().is_in_set(page) {
                    left
                } else {
                    0
                }
            }
        }
    }

    /// A thread needs a page that this node has like this. What to ask for, and for which other pages, too; or nothing: it
    /// waits for this node's turn, and so does the request.
    pub(crate) fn may_ask(
        &self,
        thread: u32,
        page: PageNumber,
        access: Access,
        state: NodeState,
    ) -> Option<(Access, Company)> {
        let nobody = Company::default();
        if !self.takes_turns() {
            return Some((access, nobody));
        }
        let now = self.micros();
        self.gate.missed_us.store(now, Relaxed);
        let fighting = self.is_fighting();
        let fault = Fault {
            thread,
            page,
            at_us: now,
            table: access == Access::Write && state == NodeState::Invalid,
            fighting,
            dear: self.fetching_is_dear(),
        };
        let (sight, company) = {
            let sieges = self.gate.sieges.lock();
            let mut sieges = sieges.unwrap_or_else(PoisonError::into_inner);
            let sight = sieges.note(fault);
            // In a fight the tables come with the turn.
            let company = match sight {
                Sight::Alone if !fighting => sieges.company(thread),
                _ => nobody,
            };
            (sight, company)
        };
        let mut turns = self.turns();
        match sight {
            Sight::Lost => {}
            Sight::Quiet if fighting && turns.is_in_set(page) => {}
            Sight::Quiet => return Some((access, nobody)),
            Sight::Alone => {
                turns.forget(page);
                return Some((access, company));
            }
        }
        // Others write it: so will this node, and reading first would cost another round.
        let access = Access::Write;
        self.gate.fought_us.store(now.max(1), Relaxed);
        let mut effects = Effects::default();
        let admitted = turns.admit(page, access, now, self.quantum_us(), &mut effects);
        self.carry_out(&mut turns, &mut effects);
        if effects.go {
            // Not here: the page is locked.
            self.gate.go.store(true, Relaxed);
            self.holds.wake_at(Instant::now());
        }
        if !admitted {
            self.stats.turn_waits.add(1);
        }
        admitted.then_some((access, nobody))
    }

    /// A thread has asked for a table that bounces along with these: asks for those that have gone, too. No page is locked.
    pub(crate) fn ask_for_company(
        &self,
        company: Company,
        access: Access,
        table: &SegmentTable,
        scratch: &mut Scratch,
    ) -> Result<(), Failure> {
        for page in company.into_iter().flatten() {
            let Some((segment, offset)) = table.find_page(page) else {
                continue; // given up since
            };
            let (mut chunk, index) = self.lock_watched(segment, offset)?;
            let node = chunk.pages[index].node;
            if node.pending.is_none() && node.state == NodeState::Invalid && self.room.has_room(1) {
                self.stats.prefetched.add(1);
                let event = Event::Fault(access);
                self.handle_locked(segment, offset, &mut chunk, index, event, scratch)?;
            }
        }
        Ok(())
    }

    /// Node `from` said something about turns.
    pub(crate) fn hear(
        &self,
        from: NodeId,
        word: Word,
        table: &SegmentTable,
        scratch: &mut Scratch,
    ) -> Result<(), Failure> {
        let mut effects = Effects::default();
        {
            let mut turns = self.turns();
            turns.hear(from, word, self.micros(), self.quantum_us(), &mut effects);
            self.carry_out(&mut turns, &mut effects);
        }
        self.go_on(&effects, table, scratch)
    }

    /// The timer's thread: ends this node's turn if it is time, and whatever else is due.
    pub(crate) fn look_at_turn(&self, scratch: &mut Scratch) -> Result<(), Failure> {
        let mut effects = Effects::default();
        self.carry_out(&mut self.turns(), &mut effects);
        effects.go |= self.gate.go.swap(false, Relaxed);
        if !effects.go {
            return Ok(());
        }
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        self.go_on(&effects, &table, scratch)
    }

    fn turns(&self) -> std::sync::MutexGuard<'_, Turns> {
        self.gate
            .turns
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn quantum_us(&self) -> u64 {
        (u64::from(self.fetch_time.get()) * QUANTUM).clamp(SHORTEST_US, LONGEST_US)
    }

    /// Sends what came out of an event, under the lock, so that nothing overtakes it; sets the next alarm.
    fn carry_out(&self, turns: &mut Turns, effects: &mut Effects) {
        let now = self.micros();
        let activity = self.activity(now, turns.contested_us().is_some());
        let next = turns.tick(now, self.quantum_us(), activity, effects);
        let (since, until) = turns.contested_us().unwrap_or_default();
        self.gate.since_us.store(since, Relaxed);
        self.gate.until_us.store(until, Relaxed);
        for (to, word) in effects.send.drain(..) {
            self.send_frame(to, &Frame::turn(word), &[]);
        }
        if let Some(at) = next {
            let wait = Duration::from_micros(at.saturating_sub(now));
            self.holds.wake_at(Instant::now() + wait);
        }
    }

    /// This node's turn has begun: asks for all that waited for it, and for the rest of its set. No page is locked.
    fn go_on(
        &self,
        effects: &Effects,
        table: &SegmentTable,
        scratch: &mut Scratch,
    ) -> Result<(), Failure> {
        if !effects.go {
            return Ok(());
        }
        self.stats.turns.add(1);
        let pages = self.turns().take_parked();
        for (page, access) in pages {
            let Some((segment, offset)) = table.find_page(page) else {
                continue; // given up since
            };
            let (mut chunk, index) = self.lock_watched(segment, offset)?;
            let node = chunk.pages[index].node;
            if node.pending.is_none() && node.state == NodeState::Invalid {
                if !self.room.has_room(1) {
                    // Whoever waits for it faults again, and then waits for room.
                    let uffd = &self.uffds[segment.stripe(offset)];
                    uffd.wake(segment.address(offset), PAGE)?;
                    continue;
                }
                self.stats.prefetched.add(1);
            }
            let event = Event::Fault(access);
            self.handle_locked(segment, offset, &mut chunk, index, event, scratch)?;
        }
        Ok(())
    }
}
