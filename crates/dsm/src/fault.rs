//! The threads that serve page faults.

use crate::core::{Core, Event, Failure, Scratch, PAGE, ZERO_PAGE};
use crate::segment::{Chunk, Segment, CHUNK_PAGES};
use crate::DsmError;
use lev_coherence::{Access, HomePage, NodePage, NodeState};
use lev_trace::Kind;
use lev_uffd::{Fault, Fill};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

impl Core {
    /// Serves the faults of one context until the engine stops. Never touches guest memory that may be absent.
    pub(crate) fn serve_faults(&self, stripe: usize, stop: BorrowedFd<'_>) {
        let mut scratch = Scratch::new();
        let mut faults = Vec::with_capacity(16);
        while !self.stopped.load(Ordering::Acquire) {
            let result = wait_readable(&[self.uffds[stripe].as_raw_fd(), stop.as_raw_fd()], None)
                .and_then(|()| Ok(self.uffds[stripe].read(&mut faults)?));
            if let Err(error) = result {
                return self.fatal(error);
            }
            for fault in &faults {
                if let Err(failure) = self.fault(*fault, &mut scratch) {
                    self.fatal(failure.into_error());
                }
            }
        }
    }

    fn fault(&self, fault: Fault, scratch: &mut Scratch) -> Result<(), Failure> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let Some((segment, offset)) = table.find_address(fault.address) else {
            return Ok(()); // the segment was given up; unregistering it woke the waiter
        };
        if !segment.active.load(Ordering::Acquire) {
            return Ok(()); // activation wakes all waiters
        }
        let mut access = if fault.write {
            Access::Write
        } else {
            Access::Read
        };
        let (mut chunk, index) = segment.lock(offset);
        if chunk.loose {
            return Ok(()); // an old event: its thread was woken when the block left userfaultfd
        }
        let at_home = segment.home(offset) == self.rules.me;
        if at_home && self.is_unclaimed(segment, &chunk, offset) {
            drop(chunk);
            if self.loosen(segment, offset)? {
                self.stats.faults_zero.add(1);
                self.tape.fault(Kind::Touch, segment.first + offset, &fault);
                return Ok(());
            }
            (chunk, _) = self.lock_watched(segment, offset)?;
        }
        let record = &mut chunk.pages[index];
        let company;
        match (record.node.state, access) {
            (state @ (NodeState::Exclusive | NodeState::Pooled), _)
            | (state @ (NodeState::Shared | NodeState::Clean), Access::Read) => {
                self.stats.faults_stale.add(1);
                self.tape.fault(Kind::Stale, segment.first + offset, &fault);
                return self.settle(segment, offset, state, fault);
            }
            (NodeState::Clean, Access::Write) => {
                self.stats.upgrades_saved.add(1);
                let event = Event::Fault(access);
                return self.handle_locked(segment, offset, &mut chunk, index, event, scratch);
            }
            _ if record.node.pending.is_some() => {
                self.tape.fault(Kind::Join, segment.first + offset, &fault);
                return Ok(()); // the answer wakes this thread, too
            }
            (NodeState::Invalid, _) if self.room.park(fault.address) => {
                self.stats.room_waits.add(1);
                return Ok(());
            }
            (state, _) => {
                record.faults.add_one();
                if at_home
                    && state == NodeState::Invalid
                    && self.zero_chunk(segment, &mut chunk, offset..offset + 1)? > 0
                {
                    self.stats.faults_zero.add(1);
                    self.tape.fault(Kind::Touch, segment.first + offset, &fault);
                    return self.zero_block(segment, offset, chunk);
                }
                let record = &mut chunk.pages[index];
                match (state, access) {
                    (NodeState::Shared, _) => self.stats.faults_upgrade.add(1),
                    (_, Access::Read) => self.stats.faults_read.add(1),
                    (_, Access::Write) => self.stats.faults_write.add(1),
                }
                self.tape.asks(state, segment.first + offset, &fault);
                record.faulted_ns = (self.now_ns() as u32).max(1);
                let page = segment.first + offset;
                self.visits.note(fault.thread, page, self.now_us(), record);
                match self.may_ask(fault.thread, page, access, state) {
                    Some(asked) => (access, company) = asked,
                    None => return Ok(()),
                }
            }
        }
        self.handle_locked(
            segment,
            offset,
            &mut chunk,
            index,
            Event::Fault(access),
            scratch,
        )?;
        drop(chunk);
        self.ask_for_company(company, access, &table, scratch)?;
        self.prefetch(segment, offset, access, scratch)
    }

    /// An event about a page that this node may use in this way already: mostly an old one. If the page is missing
    /// after all, somebody discarded it behind the engine's back, and it is zero.
    fn settle(
        &self,
        segment: &Segment,
        offset: u64,
        state: NodeState,
        fault: Fault,
    ) -> Result<(), Failure> {
        let uffd = &self.uffds[segment.stripe(offset)];
        let there = match state {
            NodeState::Exclusive if fault.protected => {
                return Ok(uffd.unprotect(fault.address, PAGE)?)
            }
            NodeState::Exclusive => uffd.zero(fault.address, PAGE)? != Fill::Complete,
            NodeState::Shared | NodeState::Clean if !fault.protected => {
                uffd.copy(fault.address, &ZERO_PAGE, true)? != Fill::Complete
            }
            _ => true,
        };
        if there {
            uffd.wake(fault.address, PAGE)?;
        }
        Ok(())
    }

    /// First touch of a page that is at home here: fills its whole block as far as nobody touched it, without
    /// traffic. `chunk` is the lock of the page, which is in place already.
    fn zero_block(
        &self,
        segment: &Segment,
        offset: u64,
        chunk: MutexGuard<'_, Chunk>,
    ) -> Result<(), Failure> {
        drop(chunk);
        if !self.room.has_room(self.zero_block) {
            return Ok(());
        }
        let first = offset - offset % self.zero_block;
        let end = (first + self.zero_block).min(segment.pages);
        let mut next = first;
        while next < end {
            let (mut chunk, index) = segment.lock(next);
            let run = next..end.min(next + (CHUNK_PAGES - index) as u64);
            next = run.end;
            self.zero_chunk(segment, &mut chunk, run)?;
        }
        Ok(())
    }

    /// Fills the pages of `run`, all under the lock `chunk`, that are at home here and were never touched; returns
    /// how many.
    fn zero_chunk(
        &self,
        segment: &Segment,
        chunk: &mut Chunk,
        run: Range<u64>,
    ) -> Result<u64, Failure> {
        let now = self.now_us();
        let mut filled = 0;
        let mut claimed: Option<Range<u64>> = None;
        for offset in run {
            let untouched = self.is_unclaimed(segment, chunk, offset);
            if untouched {
                self.claim(chunk, offset, now);
            }
            match (&mut claimed, untouched) {
                (Some(range), true) => range.end = offset + 1,
                (None, true) => claimed = Some(offset..offset + 1),
                (_, false) => filled += self.zero_run(segment, claimed.take())?,
            }
        }
        filled += self.zero_run(segment, claimed)?;
        self.stats.pages_zero_filled.add(filled);
        if filled > 0 {
            chunk.here += filled as u16;
            self.came(filled);
        }
        Ok(filled)
    }

    /// Whether the page is at home here and nobody has touched it.
    pub(crate) fn is_unclaimed(&self, segment: &Segment, chunk: &Chunk, offset: u64) -> bool {
        let index = offset as usize % CHUNK_PAGES;
        segment.home(offset) == self.rules.me
            && chunk.pages[index].node == NodePage::default()
            && chunk.entry(index).is_none_or(HomePage::is_untouched)
    }

    /// The page, which [`Core::is_unclaimed`], becomes this node's.
    pub(crate) fn claim(&self, chunk: &mut Chunk, offset: u64, now: u32) {
        let (record, entry) = chunk.both(offset as usize % CHUNK_PAGES);
        let mine = entry.claim_zero(self.rules.me);
        debug_assert!(mine);
        record.node.state = NodeState::Exclusive;
        record.granted_us = now;
        record.faults.granted();
    }

    /// Fills a run of pages; returns its length.
    pub(crate) fn zero_run(
        &self,
        segment: &Segment,
        run: Option<Range<u64>>,
    ) -> Result<u64, Failure> {
        let Some(run) = run else { return Ok(0) };
        self.tape
            .filled(segment.first + run.start, run.end - run.start);
        let uffd = &self.uffds[segment.stripe(run.start)];
        let (mut address, end) = (segment.address(run.start), segment.address(run.end));
        while address < end {
            match uffd.zero(address, end - address)? {
                Fill::Complete => break,
                // Somebody put contents there before the segment was registered: they are the page's contents.
                Fill::Exists(at) => {
                    uffd.wake(at, PAGE)?;
                    address = at + PAGE;
                }
            }
        }
        Ok(run.end - run.start)
    }
}

/// Sleeps until one of at most two descriptors is readable, at most so long.
pub(crate) fn wait_readable(fds: &[RawFd], most: Option<Duration>) -> Result<(), DsmError> {
    let mut entries = [libc::pollfd {
        fd: -1, // the kernel leaves it out
        events: libc::POLLIN,
        revents: 0,
    }; 2];
    for (entry, fd) in entries.iter_mut().zip(fds) {
        entry.fd = *fd;
    }
    let most = most.map_or(-1, |most| most.as_millis() as i32);
    // SAFETY: `entries` is valid for the two entries that the call is told of, and exclusively borrowed.
    if unsafe { libc::poll(entries.as_mut_ptr(), 2, most) } >= 0 {
        return Ok(());
    }
    match std::io::Error::last_os_error().raw_os_error() {
        Some(libc::EINTR) | None => Ok(()),
        Some(errno) => Err(DsmError::System {
            call: "poll",
            at: entries[0].fd as u64,
            errno,
        }),
    }
}
