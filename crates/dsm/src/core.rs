//! The engine's inside: runs the state machine of a page under its lock and carries out what comes out of it.

use crate::act::Place;
use crate::ahead::Appetite;
use crate::batch::Batch;
use crate::discards::Discards;
use crate::gate::Gate;
use crate::hold::{self, FetchTime, HoldQueue, Visits};
use crate::leave::Leave;
use crate::loose::Loose;
use crate::lost::Lost;
use crate::memory::PageBuffer;
use crate::pool::Pool;
use crate::prefetch::Elsewhere;
use crate::replace::Mover;
use crate::room::Room;
use crate::runs::Reads;
use crate::segment::{Chunk, PageRecord, Segment, SegmentTable};
use crate::stats::Stats;
use crate::tape::Tape;
use crate::{DsmError, PageLink};
use lev_coherence::{
    Access, Action, Demand, HomePage, Illegal, Message, NodePage, Page, Rules, Slot, Surroundings,
};
use lev_uffd::Uffd;
use lev_wire::frame::Header;
use lev_wire::{NodeId, PageNumber, PAGE_SIZE};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Instant;

pub(crate) const PAGE: u64 = PAGE_SIZE as u64;

/// Everything that the engine's threads share.
///
/// Order of locks: the table, then one page (or all of a block, upwards: `loose`), then who moves memory, then any of the small
/// ones (holds, discards, visits, stays in the pool).
pub(crate) struct Core {
    pub(crate) rules: Rules,
    pub(crate) nodes: u16,
    pub(crate) hold_us: u32,
    pub(crate) zero_block: u64,
    /// Of other nodes, for untouched pages of this home.
    pub(crate) zeroes: Appetite,
    /// Of other nodes, for copies of what this home holds.
    pub(crate) reads: Reads,
    /// Of this node's threads, for pages that they are about to fault on.
    pub(crate) own_reads: Appetite,
    pub(crate) own_writes: Appetite,
    pub(crate) elsewhere: Elsewhere,
    pub(crate) link: Arc<dyn PageLink>,
    pub(crate) uffds: Vec<Uffd>,
    pub(crate) pool: Option<Pool>,
    /// Of pages from the pool; `None`: they never leave it.
    pub(crate) leave: Option<Leave>,
    pub(crate) mover: Mover,
    pub(crate) table: RwLock<SegmentTable>,
    /// Frames about segments that are not active here yet.
    pub(crate) early: Mutex<VecDeque<(NodeId, Header, Vec<u8>)>>,
    pub(crate) holds: HoldQueue,
    pub(crate) visits: Visits,
    pub(crate) fetch_time: FetchTime,
    pub(crate) gate: Gate,
    pub(crate) room: Room,
    pub(crate) loose: Loose,
    pub(crate) lost: Lost,
    pub(crate) discards: Discards,
    pub(crate) stats: Stats,
    pub(crate) tape: Tape,
    pub(crate) stopped: AtomicBool,
    started: Instant,
    failed: AtomicBool,
    on_fatal: Box<dyn Fn(DsmError) + Send + Sync>,
}

/// What a thread needs for its work, so that nothing is allocated for an event.
pub(crate) struct Scratch {
    pub(crate) actions: Vec<Action>,
    pub(crate) tools: Tools,
}

/// What carrying out actions needs.
pub(crate) struct Tools {
    pub(crate) buffer: Box<PageBuffer>,
    pub(crate) batch: Batch,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self {
            actions: Vec::with_capacity(16),
            tools: Tools {
                buffer: PageBuffer::new(),
                batch: Batch::default(),
            },
        }
    }
}

/// An event of a page.
#[derive(Clone, Copy)]
pub(crate) enum Event<'a> {
    Fault(Access),
    /// With the bytes that came along, if any.
    Message(NodeId, Message, &'a [u8]),
    Resume(Demand),
    Discard,
    /// This node is short of room.
    Return,
    /// At home: the page is to leave the pool.
    Demote,
    /// This node is lost.
    Lost(NodeId),
}

/// Why an event could not be handled.
pub(crate) enum Failure {
    /// A peer broke the rules.
    Peer(Illegal),
    /// This node cannot go on.
    Here(DsmError),
}

impl From<DsmError> for Failure {
    fn from(error: DsmError) -> Self {
        Self::Here(error)
    }
}

impl From<lev_uffd::UffdError> for Failure {
    fn from(error: lev_uffd::UffdError) -> Self {
        Self::Here(error.into())
    }
}

/// What the state machine may ask about one page.
pub(crate) struct Ask<'a> {
    pub(crate) core: &'a Core,
    pub(crate) page: PageNumber,
    pub(crate) held: bool,
}

/// How long a page stays that demands could take.
pub(crate) struct Keeps {
    holding_us: u32,
    turn_us: u64,
    /// A demand must be put off.
    pub(crate) now: bool,
}

impl Surroundings for Ask<'_> {
    fn held(&mut self) -> bool {
        self.held
    }

    fn take_slot(&mut self) -> Option<Slot> {
        let pool = self.core.pool.as_ref()?;
        let Some(leave) = &self.core.leave else {
            return pool.take();
        };
        pool.take().or_else(|| {
            let wants = leave.wants(self.page, self.core.now_ns() / 1000);
            wants.then(|| pool.take_again()).flatten()
        })
    }

    fn keeper(&mut self, holder: NodeId) -> Option<NodeId> {
        let lost = |node| self.core.lost.has(node);
        let keeper = self.core.room.keeper(self.core.rules.me, holder, lost);
        if keeper.is_none() {
            self.core.stats.room_refused.add(1);
        }
        keeper
    }

    fn is_lost(&self, node: NodeId) -> bool {
        self.core.lost.has(node)
    }
}

impl Core {
    pub(crate) fn new(
        config: crate::EngineConfig,
        link: Arc<dyn PageLink>,
        uffds: Vec<Uffd>,
        pool: Option<Pool>,
        leave: Option<Leave>,
    ) -> Self {
        let options = &config.options;
        let most = match options.node_memory / PAGE {
            0 => crate::segment::BLOCK_PAGES,
            // Blocks that are on their way together must fit between the marks.
            limit => 1 << (limit / 64).clamp(1, crate::segment::BLOCK_PAGES).ilog2(),
        };
        let zero_block = u64::from(options.zero_block).clamp(1, most);
        Self {
            rules: Rules {
                migratory: options.migratory,
                ..Rules::new(
                    config.me,
                    pool.as_ref().map_or(0, |_| options.promote_after),
                )
            },
            nodes: config.nodes,
            hold_us: options.hold_us,
            zero_block,
            zeroes: Appetite::for_zeroes(zero_block),
            reads: Reads::new(u64::from(options.read_ahead)),
            own_reads: Appetite::for_own_faults(u64::from(options.prefetch)),
            own_writes: Appetite::for_own_faults(u64::from(options.prefetch)),
            elsewhere: Elsewhere::new(config.nodes),
            link,
            uffds,
            pool,
            leave,
            mover: Mover::default(),
            table: RwLock::default(),
            early: Mutex::default(),
            holds: HoldQueue::default(),
            visits: Visits::default(),
            fetch_time: FetchTime::new(),
            gate: Gate::new(config.me),
            room: Room::new(options.node_memory / PAGE, config.nodes),
            loose: Loose::new(options.huge_pages),
            lost: Lost::default(),
            discards: Discards::default(),
            stats: Stats::default(),
            tape: Tape::new(config.me),
            stopped: AtomicBool::new(false),
            started: Instant::now(),
            failed: AtomicBool::new(false),
            on_fatal: config.on_fatal,
        }
    }

    /// Tells the owner that the engine cannot go on; the first time only. Never with a lock held.
    pub(crate) fn fatal(&self, error: DsmError) {
        if !self.failed.swap(true, Ordering::AcqRel) && !self.stopped.load(Ordering::Acquire) {
            (self.on_fatal)(error);
        }
    }

    /// Nanoseconds since start.
    pub(crate) fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// Microseconds since start, never 0, modulo 2^32.
    pub(crate) fn now_us(&self) -> u32 {
        ((self.now_ns() / 1000) as u32).max(1)
    }

    /// How long this node keeps the page.
    pub(crate) fn keeps(&self, page: PageNumber, record: &PageRecord) -> Keeps {
        let turn_us = self.turn_keeps_us(page, record);
        let holding_us = if self.is_fighting() {
            self.hold_us // who has the turn keeps its pages, so nobody else must
        } else {
            hold::holding_time_us(self.hold_us, &self.fetch_time, record, self.rules.me.0)
        };
        Keeps {
            holding_us,
            turn_us,
            now: self.age_us(record) < holding_us || turn_us > 0,
        }
    }

    /// Handles one event of one page: takes its lock, runs the state machine, carries out its actions.
    pub(crate) fn handle(
        &self,
        segment: &Segment,
        offset: u64,
        event: Event<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), Failure> {
        let (mut chunk, index) = self.lock_watched(segment, offset)?;
        self.handle_locked(segment, offset, &mut chunk, index, event, scratch)
    }

    /// [`Core::handle`] for a caller that has the lock, of a page that is watched.
    pub(crate) fn handle_locked(
        &self,
        segment: &Segment,
        offset: u64,
        chunk: &mut Chunk,
        index: usize,
        event: Event<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), Failure> {
        if matches!(event, Event::Message(from, ..) if self.lost.has(from)) {
            return Ok(()); // asked under the page's lock: from the moment on at which the loss was handled
        }
        debug_assert!(!chunk.loose, "an event of a page that nobody watches");
        let home = segment.home(offset);
        let (record, entry) = if home == self.rules.me {
            let (record, entry) = chunk.both(index);
            (record, Some(entry))
        } else {
            (&mut chunk.pages[index], None)
        };
        let keeps = self.keeps(segment.first + offset, record);
        // At home the answer to its own request and the next demand come out of one event: what was granted a moment
        // ago has not been used yet.
        let fresh = record.node.pending.is_some()
            && keeps.holding_us > 0
            && matches!(
                event,
                Event::Message(_, Message::Contents { .. } | Message::Dropped, _)
            );
        if let Event::Message(from, Message::Contents { .. }, _) = event {
            self.elsewhere.note(home, from);
        }
        let mut ask = Ask {
            core: self,
            page: segment.first + offset,
            held: fresh || keeps.now,
        };
        let before = record.node;
        let came = self.is_coming(entry.as_deref(), before);
        let mut page = Page {
            rules: &self.rules,
            home,
            node: &mut record.node,
            entry,
        };
        let actions = &mut scratch.actions;
        actions.clear();
        let (result, received) = match event {
            Event::Fault(access) => (page.fault(access, &mut ask, actions), &[][..]),
            Event::Message(from, message, bytes) => {
                (page.receive(from, message, &mut ask, actions), bytes)
            }
            Event::Resume(demand) => (page.resume(demand, &mut ask, actions), &[][..]),
            Event::Discard => (page.discard(&mut ask, actions), &[][..]),
            Event::Return => (page.give_back(&mut ask, actions).map(|_| ()), &[][..]),
            Event::Demote => (page.demote(&mut ask, actions).map(|_| ()), &[][..]),
            Event::Lost(node) => (page.lost(node, &mut ask, actions), &[][..]),
        };
        result.map_err(Failure::Peer)?;
        let place = Place {
            segment,
            offset,
            address: segment.address(offset),
            uffd: &self.uffds[segment.stripe(offset)],
            page: segment.first + offset,
            received,
            holding_us: keeps.holding_us,
            turn_us: keeps.turn_us,
        };
        for action in actions.iter() {
            self.act(*action, &place, record, &mut scratch.tools)?;
        }
        let after = record.node;
        let entry = chunk.entry(index).filter(|_| home == self.rules.me);
        self.room.on_its_way(came, self.is_coming(entry, after));
        self.account(chunk, place.page, before, after)
    }

    /// Whether a page of this home, which is not here, is on its way here.
    fn is_coming(&self, entry: Option<&HomePage>, node: NodePage) -> bool {
        entry.is_some_and(|entry| entry.is_coming_to(self.rules.me)) && !node.state.has_copy()
    }
}

/// What a page is before it is touched.
pub(crate) static ZERO_PAGE: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

impl Failure {
    /// The failure as what the owner is told.
    pub(crate) fn into_error(self) -> DsmError {
        match self {
            Self::Here(error) => error,
            Self::Peer(illegal) => DsmError::Broken(illegal.0),
        }
    }

    /// The failure as what the channel of the peer that caused it is told.
    pub(crate) fn into_peer_error(self, from: NodeId, header: &Header) -> DsmError {
        match self {
            Self::Here(error) => error,
            Self::Peer(illegal) => DsmError::Peer {
                from,
                kind: header.kind,
                arg: header.arg,
                why: illegal.0,
            },
        }
    }
}
