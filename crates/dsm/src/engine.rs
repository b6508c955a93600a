//! The engine's public face.

use crate::core::{Core, Event, Failure, Scratch, PAGE};
use crate::discards::Ticket;
use crate::leave::Leave;
use crate::memory;
use crate::pool::Pool;
use crate::replace::Pattern;
use crate::room::{RoomEvent, LEAST_PAGES};
use crate::segment::{Segment, SegmentTable};
use crate::threads::{self, StopFlag};
use crate::{Backing, DsmError, EngineConfig, LookAtThreads, PageLink, SegmentSpec};
use lev_coherence::{HomePage, NodeState, Sharers};
use lev_uffd::{Memory, Uffd};
use lev_wire::{NodeId, PageNumber};
use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;

/// Pages that one call of [`Engine::discard`] has under way at most.
const DISCARD_PAGES: usize = 1024;

thread_local! {
    /// What [`Engine::on_frame`] and [`Engine::discard`] work with, on whatever thread they are called.
    pub(crate) static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::new());
}

/// The memory engine of one node.
pub struct Engine {
    pub(crate) core: Arc<Core>,
    stop: StopFlag,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Engine {
    /// Opens userfaultfd and starts the threads: "lev-fault-N" for each stripe and "lev-hold", all signals blocked.
    ///
    /// # Errors
    /// No permission for userfaultfd, a kernel without write-protection, a configuration that cannot work.
    pub fn start(mut config: EngineConfig, link: Arc<dyn PageLink>) -> Result<Arc<Self>, DsmError> {
        if config.nodes == 0 || config.nodes > Sharers::LIMIT {
            return Err(DsmError::Config("a cluster has 1 to 1024 nodes"));
        }
        if config.me.0 >= config.nodes {
            return Err(DsmError::Config("this node's id is not in the cluster"));
        }
        let pool = config
            .pool
            .take()
            .map(|mapping| Pool::new(mapping, config.me, config.nodes))
            .transpose()?;
        let limit = config.options.node_memory / PAGE;
        if config.options.node_memory > 0 && limit < LEAST_PAGES {
            return Err(DsmError::Config(
                "a node needs at least 1 MiB of guest memory",
            ));
        }
        let stripes = config.options.stripes.clamp(1, 64);
        let leave = match config.options.demote_after_ms {
            0 => None,
            ms => pool.as_ref().map(|_| Leave::new(ms)),
        };
        let open = match leave {
            Some(_) => Uffd::open_movable,
            None => Uffd::open,
        };
        let uffds = (0..stripes).map(|_| open()).collect::<Result<_, _>>()?;
        let engine = Self {
            core: Arc::new(Core::new(config, link, uffds, pool, leave)),
            stop: StopFlag::new()?,
            threads: Mutex::default(),
        };
        for stripe in 0..stripes as usize {
            let (core, stop) = (Arc::clone(&engine.core), engine.stop.clone());
            engine.spawn(format!("lev-fault-{stripe}"), move || {
                threads::serve_first();
                core.serve_faults(stripe, stop.as_fd())
            })?;
        }
        let core = Arc::clone(&engine.core);
        engine.spawn("lev-hold".into(), move || {
            threads::serve_first();
            core.serve_holds();
        })?;
        if limit > 0 {
            let core = Arc::clone(&engine.core);
            engine.spawn("lev-room".into(), move || core.serve_room())?;
        }
        if engine.core.leave.is_some() {
            let core = Arc::clone(&engine.core);
            engine.spawn("lev-move".into(), move || {
                threads::serve_first();
                core.serve_moves();
            })?;
            let core = Arc::clone(&engine.core);
            engine.spawn("lev-leave".into(), move || {
                threads::serve_first();
                if let Some(leave) = &core.leave {
                    core.serve_leaves(leave);
                }
            })?;
        }
        Ok(Arc::new(engine))
    }

    /// Who is told when no node has room for guest memory, and when there is some again. Called from a thread of the
    /// engine, without locks; it must not stop the engine.
    pub fn on_room(&self, listener: impl Fn(RoomEvent) + Send + Sync + 'static) {
        self.core.room.listen(Box::new(listener));
    }

    /// Node `peer` is lost: none of its frames is taken any more, and nothing waits for it. What it alone held is gone;
    /// if somebody waits for such memory, or does so later, `on_fatal` is called with [`DsmError::Lost`].
    pub fn peer_lost(&self, peer: NodeId) {
        if peer == self.core.rules.me || peer.0 >= self.core.nodes {
            return;
        }
        if let Err(error) = self.core.forget(peer) {
            self.core.fatal(error);
        }
    }

    /// Makes a segment known and reports which of its pages already have contents here, as ranges of page numbers.
    /// From now on the first touch of an absent page waits until [`Engine::activate`].
    ///
    /// # Errors
    /// Misaligned or overlapping segment, homes that do not cover it, a failed registration.
    pub fn prepare(&self, spec: SegmentSpec) -> Result<Vec<Range<u64>>, DsmError> {
        let segment = Arc::new(Segment::new(&spec, self.core.nodes, self.core.uffds.len())?);
        self.write_table().insert(Arc::clone(&segment))?;
        match self.register(&segment) {
            Ok(ranges) => {
                let first = segment.first;
                Ok(ranges
                    .into_iter()
                    .map(|range| range.start + first..range.end + first)
                    .collect())
            }
            Err(error) => {
                self.unregister(&segment);
                self.write_table().remove(segment.first);
                Err(error)
            }
        }
    }

    /// Starts coherence of the segment that begins at `first_page`. Pages in `populated_on_head` belong to the head
    /// at first; all others are zero at their homes. Workers activate first, the head last.
    ///
    /// # Errors
    /// No prepared segment begins there, or a range leaves it.
    pub fn activate(
        &self,
        first_page: PageNumber,
        populated_on_head: &[Range<u64>],
    ) -> Result<(), DsmError> {
        let table = self.write_table();
        let segment = table
            .starting_at(first_page)
            .ok_or(DsmError::UnknownSegment(first_page))?;
        if segment.active.load(Ordering::Acquire) {
            return Err(DsmError::Segment {
                first_page,
                why: "it is active already",
            });
        }
        for range in populated_on_head {
            if range.start < segment.first
                || range.end > segment.first + segment.pages
                || range.start > range.end
            {
                return Err(DsmError::Segment {
                    first_page,
                    why: "a populated range leaves it",
                });
            }
        }
        for page in populated_on_head.iter().cloned().flatten() {
            self.populate(segment, page - segment.first);
        }
        segment.active.store(true, Ordering::Release);
        self.core.tape.homes(segment);
        self.replay_early(&table)?;
        for (run, stripe) in segment.stripe_runs() {
            let len = (run.end - run.start) * PAGE;
            self.core.uffds[stripe].wake(segment.address(run.start), len)?;
        }
        Ok(())
    }

    /// Which parts of `[first_page, first_page + pages)` belong to segments already.
    #[must_use]
    pub fn contains(&self, first_page: PageNumber, pages: u64) -> Vec<Range<u64>> {
        self.table().covered(first_page, pages)
    }

    /// Makes pages zero on every node, for what QEMU discards (`MADV_DONTNEED`, hole punching). Parts that are in no
    /// segment are ignored; returns when it is done. Call it *instead of* the system call, or after it; never before
    /// it, because the system call would then take pages that this node has been granted since.
    pub fn discard(&self, local: *mut u8, len: usize) {
        let (start, end) = (local as u64, (local as u64).saturating_add(len as u64));
        let runs: Vec<Range<PageNumber>> = {
            let table = self.table();
            let inside = |segment: &Arc<Segment>| {
                let first = start
                    .max(segment.local)
                    .next_multiple_of(PAGE)
                    .saturating_sub(segment.local)
                    / PAGE;
                let last = end
                    .min(segment.local + segment.len())
                    .saturating_sub(segment.local)
                    / PAGE;
                (first < last).then_some(segment.first + first..segment.first + last)
            };
            table.iter().filter_map(inside).collect()
        };
        for run in runs {
            // In parts, so that a big discard does not fill the channels' queues.
            for first in run.clone().step_by(DISCARD_PAGES) {
                let ticket = Arc::new(Ticket::default());
                let part = first..run.end.min(first + DISCARD_PAGES as u64);
                if let Err(failure) = self.discard_part(part, &ticket) {
                    return self.core.fatal(failure.into_error());
                }
                self.core.discards.wait(&ticket, &self.core.stopped);
            }
        }
    }

    /// Lets the engine take turns with other nodes when they fight over many pages and there is no pool; `activity` says
    /// what this node's threads do. The first call counts.
    pub fn take_turns(&self, activity: LookAtThreads) {
        let _ = self.core.gate.activity.set(activity);
    }

    /// This node has lately had to take turns: each time that it starts to use other pages costs it a turn.
    #[must_use]
    pub fn is_fighting(&self) -> bool {
        self.core.is_fighting()
    }

    /// Ends the threads and gives up all memory, which wakes everybody who waits for a page: they go on with
    /// whatever is there, so the VM must not run any more.
    pub fn stop(&self) {
        self.halt();
        self.table()
            .iter()
            .for_each(|segment| self.unregister(segment));
    }

    /// Ends the threads. Whoever waits for a page goes on waiting until [`Engine::stop`]: time to make the memory
    /// inaccessible for those who must not go on with whatever is there.
    pub fn halt(&self) {
        self.core.stopped.store(true, Ordering::Release);
        self.stop.raise();
        self.core.holds.stop();
        self.core.discards.give_up();
        self.core.room.signal();
        self.core.mover.stop();
        if let Some(leave) = &self.core.leave {
            leave.stop();
        }
        let _ = self.stop_trace(0); // what is in the file can be read
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let this = std::thread::current().id();
        for thread in threads {
            if thread.thread().id() != this {
                let _ = thread.join(); // a thread that panicked has ended, too
            }
        }
    }

    fn spawn(&self, name: String, body: impl FnOnce() + Send + 'static) -> Result<(), DsmError> {
        let thread = threads::spawn(name, body)?;
        self.threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(thread);
        Ok(())
    }

    fn register(&self, segment: &Segment) -> Result<Vec<Range<u64>>, DsmError> {
        let memory = match segment.backing {
            Backing::Anonymous => Memory::Anonymous,
            Backing::Shmem => Memory::Shmem,
        };
        memory::forbid_huge_pages(segment.local, segment.len())?;
        if self.core.leave.is_some() {
            let pattern = Pattern::new(segment, &self.core.uffds)?;
            let _ = segment.pattern.set(pattern); // a segment is registered once
        }
        for (run, stripe) in segment.stripe_runs() {
            let len = (run.end - run.start) * PAGE;
            self.core.uffds[stripe].register(segment.address(run.start), len, memory)?;
        }
        memory::populated(segment.local, segment.pages, segment.backing)
    }

    fn unregister(&self, segment: &Segment) {
        for (run, stripe) in segment.stripe_runs() {
            // Parts may be unmapped or never have been registered: that is as good.
            let len = (run.end - run.start) * PAGE;
            let whole = self.core.uffds[stripe].unregister(segment.address(run.start), len);
            if whole.is_ok() {
                continue;
            }
            // Pages of the pool are in between, and the kernel refuses the run as a whole.
            for offset in run {
                let _ = self.core.uffds[stripe].unregister(segment.address(offset), PAGE);
            }
        }
    }

    /// The page at `offset` had contents on the head before the nodes came together.
    fn populate(&self, segment: &Segment, offset: u64) {
        let (mut chunk, index) = segment.lock(offset);
        let me = self.core.rules.me;
        if me == NodeId::HEAD {
            chunk.pages[index].node.state = NodeState::Exclusive;
            chunk.here += 1;
            self.core.room.came(1);
        }
        if segment.home(offset) == me {
            *chunk.both(index).1 = HomePage::owned_by(NodeId::HEAD);
        }
    }

    /// Starts the discard of a run of pages, all in one segment.
    fn discard_part(&self, pages: Range<PageNumber>, ticket: &Arc<Ticket>) -> Result<(), Failure> {
        let table = self.table();
        let Some((segment, first)) = table.find_page(pages.start) else {
            return Ok(());
        };
        let offsets = first..first + (pages.end - pages.start);
        if !segment.active.load(Ordering::Acquire) {
            let len = (offsets.end - offsets.start) * PAGE;
            return Ok(memory::remove(
                segment.address(offsets.start),
                len,
                segment.backing,
            )?);
        }
        for offset in offsets {
            let (mut chunk, index) = self.core.lock_watched(segment, offset)?;
            let untouched = chunk.entry(index).is_none_or(HomePage::is_untouched);
            if segment.home(offset) == self.core.rules.me && untouched {
                continue;
            }
            self.core.stats.discards.add(1);
            self.core.discards.begin(segment.first + offset, ticket);
            SCRATCH.with_borrow_mut(|scratch| {
                self.core
                    .handle_locked(segment, offset, &mut chunk, index, Event::Discard, scratch)
            })?;
        }
        Ok(())
    }

    pub(crate) fn table(&self) -> RwLockReadGuard<'_, SegmentTable> {
        self.core
            .table
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn write_table(&self) -> RwLockWriteGuard<'_, SegmentTable> {
        self.core
            .table
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}
