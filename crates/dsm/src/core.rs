//! The engine's inside: runs the state machine of a page under its lock and carries out what comes out of it.

use crate::ahead::Appetite;
use crate::frames::Frame;
use crate::gate::Gate;
use crate::hold::{self, FetchTime, HoldQueue, Visits};
use crate::memory::{self, PageBuffer};
use crate::pool::Pool;
use crate::segment::{Chunk, PageRecord, Segment, SegmentTable};
use crate::stats::Stats;
use crate::{Backing, DsmError, PageLink};
use lev_coherence::{Access, Action, Demand, Illegal, Message, Page, Rules, Slot, Surroundings};
use lev_uffd::{Fill, Uffd};
use lev_wire::frame::{Header, HEADER_LEN};
use lev_wire::{NodeId, PageNumber, PAGE_SIZE};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

pub(crate) const PAGE: u64 = PAGE_SIZE as u64;

/// Everything that the engine's threads share.
///
/// Order of locks: the table, then one page, then any of the small ones (holds, discards, visits).
pub(crate) struct Core {
    pub(crate) rules: Rules,
    pub(crate) nodes: u16,
    pub(crate) hold_us: u32,
    pub(crate) zero_block: u64,
    /// Of other nodes, for untouched pages of this home.
    pub(crate) zeroes: Appetite,
    /// Of other nodes, for copies of what this home holds.
    pub(crate) reads: Appetite,
    /// Of this node's threads, for pages that they are about to fault on.
    pub(crate) own_reads: Appetite,
    pub(crate) own_writes: Appetite,
    pub(crate) link: Arc<dyn PageLink>,
    pub(crate) uffds: Vec<Uffd>,
    pub(crate) pool: Option<Pool>,
    pub(crate) table: RwLock<SegmentTable>,
    /// Frames about segments that are not active here yet.
    pub(crate) early: Mutex<VecDeque<(NodeId, Header, Vec<u8>)>>,
    pub(crate) holds: HoldQueue,
    pub(crate) visits: Visits,
    pub(crate) fetch_time: FetchTime,
    pub(crate) gate: Gate,
    pub(crate) discards: Discards,
    pub(crate) stats: Stats,
    pub(crate) stopped: AtomicBool,
    started: Instant,
    failed: AtomicBool,
    on_fatal: Box<dyn Fn(DsmError) + Send + Sync>,
}

/// What a thread needs for its work, so that nothing is allocated for an event.
pub(crate) struct Scratch {
    pub(crate) actions: Vec<Action>,
    buffer: Box<PageBuffer>,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self {
            actions: Vec::with_capacity(16),
            buffer: PageBuffer::new(),
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
    /// At home: a neighbour of the page was asked for by this node.
    ReadAhead(NodeId),
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

/// Discards of this node that are not complete, by page, oldest first.
#[derive(Default)]
pub(crate) struct Discards {
    waiting: Mutex<HashMap<PageNumber, VecDeque<Arc<Ticket>>>>,
    done: Condvar,
}

/// One call of [`Engine::discard`](crate::Engine::discard): pages that are not zero yet.
#[derive(Default)]
pub(crate) struct Ticket(Mutex<u64>);

impl Discards {
    pub(crate) fn begin(&self, page: PageNumber, ticket: &Arc<Ticket>) {
        *ticket.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting
            .entry(page)
            .or_default()
            .push_back(Arc::clone(ticket));
    }

    fn complete(&self, page: PageNumber) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(tickets) = waiting.get_mut(&page) else {
            return;
        };
        if let Some(ticket) = tickets.pop_front() {
            *ticket.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        }
        if tickets.is_empty() {
            waiting.remove(&page);
        }
        self.done.notify_all();
    }

    pub(crate) fn wait(&self, ticket: &Ticket, stopped: &AtomicBool) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while *ticket.0.lock().unwrap_or_else(PoisonError::into_inner) > 0
            && !stopped.load(Ordering::Acquire)
        {
            waiting = self
                .done
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(crate) fn give_up(&self) {
        let _waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        self.done.notify_all();
    }
}

/// What the state machine may ask about one page.
struct Ask<'a> {
    pool: Option<&'a Pool>,
    held: bool,
}

impl Surroundings for Ask<'_> {
    fn held(&mut self) -> bool {
        self.held
    }

    fn take_slot(&mut self) -> Option<Slot> {
        self.pool?.take()
    }
}

/// Where an event happens, for carrying out its actions.
struct Place<'a> {
    backing: Backing,
    address: u64,
    uffd: &'a Uffd,
    page: PageNumber,
    received: &'a [u8],
    /// The bytes came without a request.
    unasked: bool,
    holding_us: u32,
    /// This node's turn keeps the page for so long.
    turn_us: u64,
}

impl Core {
    pub(crate) fn new(
        config: crate::EngineConfig,
        link: Arc<dyn PageLink>,
        uffds: Vec<Uffd>,
        pool: Option<Pool>,
    ) -> Self {
        let options = &config.options;
        let zero_block = u64::from(options.zero_block).clamp(1, crate::segment::BLOCK_PAGES);
        Self {
            rules: Rules::new(
                config.me,
                if pool.is_some() {
                    options.promote_after
                } else {
                    0
                },
            ),
            nodes: config.nodes,
            hold_us: options.hold_us,
            zero_block,
            zeroes: Appetite::for_zeroes(zero_block),
            reads: Appetite::for_reads(u64::from(options.read_ahead)),
            own_reads: Appetite::for_own_faults(u64::from(options.prefetch)),
            own_writes: Appetite::for_own_faults(u64::from(options.prefetch)),
            link,
            uffds,
            pool,
            table: RwLock::default(),
            early: Mutex::default(),
            holds: HoldQueue::default(),
            visits: Visits::default(),
            fetch_time: FetchTime::new(),
            gate: Gate::new(config.me),
            discards: Discards::default(),
            stats: Stats::default(),
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

    /// Handles one event of one page: takes its lock, runs the state machine, carries out its actions.
    pub(crate) fn handle(
        &self,
        segment: &Segment,
        offset: u64,
        event: Event<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), Failure> {
        let (mut chunk, index) = segment.lock(offset);
        self.handle_locked(segment, offset, &mut chunk, index, event, scratch)
    }

    /// [`Core::handle`] for a caller that has the lock.
    pub(crate) fn handle_locked(
        &self,
        segment: &Segment,
        offset: u64,
        chunk: &mut Chunk,
        index: usize,
        event: Event<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), Failure> {
        let home = segment.home(offset);
        let (record, entry) = if home == self.rules.me {
            let (record, entry) = chunk.both(index);
            (record, Some(entry))
        } else {
            (&mut chunk.pages[index], None)
        };
        let age_us = self.age_us(record);
        let turn_us = self.turn_keeps_us(record);
        let holding_us = if self.is_fighting() {
            self.hold_us // who has the turn keeps its pages, so nobody else must
        } else {
            hold::holding_time_us(self.hold_us, &self.fetch_time, record, self.rules.me.0)
        };
        // At home the answer to its own request and the next demand come out of one event: what was granted a moment
        // ago has not been used yet.
        let fresh = record.node.pending.is_some()
            && holding_us > 0
            && matches!(
                event,
                Event::Message(_, Message::Contents { .. } | Message::Dropped, _)
            );
        let mut ask = Ask {
            pool: self.pool.as_ref(),
            held: fresh || age_us < holding_us || turn_us > 0,
        };
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
            Event::ReadAhead(to) => {
                page.read_ahead(to, &mut ask, actions);
                (Ok(()), &[][..])
            }
            Event::Discard => (page.discard(&mut ask, actions), &[][..]),
        };
        result.map_err(Failure::Peer)?;
        let place = Place {
            backing: segment.backing,
            address: segment.address(offset),
            uffd: &self.uffds[segment.stripe(offset)],
            page: segment.first + offset,
            received,
            unasked: matches!(event, Event::Message(_, Message::ReadAhead { .. }, _)),
            holding_us,
            turn_us,
        };
        for action in actions.iter() {
            self.act(*action, &place, record, &mut scratch.buffer)?;
        }
        Ok(())
    }

    fn act(
        &self,
        action: Action,
        place: &Place<'_>,
        record: &mut PageRecord,
        buffer: &mut PageBuffer,
    ) -> Result<(), Failure> {
        match action {
            Action::Send(to, message) => self.send(to, place.page, message, &[]),
            Action::Read => {
                memory::read_page(place.address, place.backing, buffer)?; // all zeroes, if it is not there
            }
            Action::SendPage(to, access) => {
                let contents = |zero| Message::Contents { access, zero };
                self.send_page(to, contents, place, buffer);
            }
            Action::SendAhead(to) => {
                self.send_page(to, |zero| Message::ReadAhead { zero }, place, buffer);
                self.stats.read_ahead_sent.add(1);
            }
            Action::Protect => place.uffd.protect(place.address, PAGE)?,
            Action::Unprotect => {
                place.uffd.unprotect(place.address, PAGE)?;
                self.granted(record);
            }
            Action::Drop => {
                memory::remove(place.address, PAGE, place.backing)?;
                self.stats.invalidations.add(1);
            }
            Action::InstallReceived(access) => {
                // An empty payload is the zero flag of a read-only copy.
                let zero = place.received.is_empty();
                let bytes = if zero { &ZERO_PAGE } else { place.received };
                let fill = place
                    .uffd
                    .copy(place.address, bytes, access == Access::Read)?;
                self.installed(fill, record)?;
                if place.unasked {
                    self.came_unasked(record);
                }
                self.stats.pages_received.add(1);
            }
            Action::InstallZero => {
                let fill = place.uffd.zero(place.address, PAGE)?;
                self.installed(fill, record)?;
                self.stats.pages_zero_filled.add(1);
            }
            Action::CopyToSlot(slot) => {
                memory::read_page(place.address, place.backing, buffer)?;
                self.slot(slot)?.write(slot, buffer);
            }
            Action::MapSlot(slot) => {
                self.slot(slot)?.map(slot, place.address)?;
                place.uffd.wake(place.address, PAGE)?;
                self.stats.pool_pages.add(1);
                self.stats.faults_pool.add(1);
                self.answered(record);
            }
            Action::ZeroSlot(slot) => {
                buffer.0.fill(0);
                self.slot(slot)?.write(slot, buffer);
            }
            Action::Wake => {
                place.uffd.wake(place.address, PAGE)?;
                if record.node.pending.is_none() {
                    self.answered(record);
                }
            }
            Action::Defer(demand) => {
                self.stats.holds.add(1);
                let left = place.holding_us.saturating_sub(self.age_us(record));
                let wait = Duration::from_micros(u64::from(left).max(place.turn_us));
                let for_turn = place.turn_us > u64::from(left);
                let until = Instant::now() + wait;
                self.holds.push(until, for_turn, place.page, demand);
            }
            Action::DiscardDone => self.discards.complete(place.page),
            Action::Promoted(_) => self.stats.promotions.add(1),
            Action::Queued => self.stats.waits.add(1),
            Action::Zeroed => {}
        }
        Ok(())
    }

    /// Time since the page was granted.
    fn age_us(&self, record: &PageRecord) -> u32 {
        match record.granted_us {
            0 => u32::MAX,
            granted => self.now_us().wrapping_sub(granted),
        }
    }

    fn slot(&self, slot: Slot) -> Result<&Pool, Failure> {
        let pool = self
            .pool
            .as_ref()
            .ok_or(Failure::Peer(Illegal("this node has no pool")))?;
        if pool.has(slot) {
            Ok(pool)
        } else {
            Err(Failure::Peer(Illegal("the slot lies outside of the pool")))
        }
    }

    pub(crate) fn send(&self, to: NodeId, page: PageNumber, message: Message, bytes: &[u8]) {
        self.send_frame(to, &Frame::new(page, message), bytes);
    }

    pub(crate) fn send_frame(&self, to: NodeId, frame: &Frame, bytes: &[u8]) {
        self.stats.frames_sent.add(1);
        self.stats
            .bytes_sent
            .add(HEADER_LEN as u64 + u64::from(frame.header.len));
        self.link.send(to, frame.header, &[frame.operand(), bytes]);
    }

    fn send_page(
        &self,
        to: NodeId,
        message: impl Fn(bool) -> Message,
        place: &Place<'_>,
        buffer: &PageBuffer,
    ) {
        let zero = buffer.is_zero();
        let bytes = if zero { &[][..] } else { &buffer.0[..] };
        self.send(to, place.page, message(zero), bytes);
        let counter = if zero {
            &self.stats.zero_pages_sent
        } else {
            &self.stats.pages_sent
        };
        counter.add(1);
    }

    /// A page was put in place.
    fn installed(&self, fill: Fill, record: &mut PageRecord) -> Result<(), Failure> {
        if let Fill::Exists(at) = fill {
            // The page table has something where the protocol says that there is nothing: not coherent any more.
            let error = DsmError::System {
                call: "fill of an absent page",
                at,
                errno: libc::EEXIST,
            };
            return Err(Failure::Here(error));
        }
        self.granted(record);
        Ok(())
    }

    pub(crate) fn granted(&self, record: &mut PageRecord) {
        record.granted_us = self.now_us();
        self.answered(record);
    }

    /// The fault that was pending is over.
    fn answered(&self, record: &mut PageRecord) {
        if record.faulted_ns != 0 {
            let ns = (self.now_ns() as u32).wrapping_sub(record.faulted_ns);
            self.stats.latency(u64::from(ns));
            self.fetch_time.note(ns / 1000);
            record.faulted_ns = 0;
        }
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
