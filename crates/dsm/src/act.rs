//! Carries out what the state machine wants done: system calls on one page, and frames.

use crate::core::{Core, Failure, Tools, PAGE, ZERO_PAGE};
use crate::frames::Frame;
use crate::memory::{self, PageBuffer};
use crate::pool::Pool;
use crate::segment::{PageRecord, Segment};
use crate::DsmError;
use lev_coherence::{Access, Action, Illegal, Message, Slot};
use lev_uffd::{Fill, Uffd};
use lev_wire::frame::HEADER_LEN;
use lev_wire::{NodeId, PageNumber};
use std::time::{Duration, Instant};

/// Where an event happens, for carrying out its actions.
pub(crate) struct Place<'a> {
    pub(crate) segment: &'a Segment,
    pub(crate) offset: u64,
    pub(crate) address: u64,
    pub(crate) uffd: &'a Uffd,
    pub(crate) page: PageNumber,
    pub(crate) received: &'a [u8],
    pub(crate) holding_us: u32,
    /// This node's turn keeps the page for so long.
    pub(crate) turn_us: u64,
}

impl Core {
    pub(crate) fn act(
        &self,
        action: Action,
        place: &Place<'_>,
        record: &mut PageRecord,
        tools: &mut Tools,
    ) -> Result<(), Failure> {
        let Tools { buffer, batch } = tools;
        match action {
            Action::Send(to, message) => self.send_word(to, message, place.page, batch),
            Action::Read => {
                // All zeroes, if it is not there.
                memory::read_page(place.address, place.segment.backing, buffer)?;
            }
            Action::SendPage(to, access) => {
                self.send_gathered(batch);
                let contents = |zero| Message::Contents { access, zero };
                self.send_page(to, contents, place, buffer);
            }
            Action::SendKeep(to) => {
                self.send_gathered(batch);
                self.send_page(to, |zero| Message::Keep { zero }, place, buffer);
                self.stats.evictions.add(1);
            }
            Action::Protect => place.uffd.protect(place.address, PAGE)?,
            Action::Unprotect => {
                place.uffd.unprotect(place.address, PAGE)?;
                self.granted(record);
            }
            Action::Drop => {
                memory::remove(place.address, PAGE, place.segment.backing)?;
                self.stats.invalidations.add(1);
            }
            Action::InstallReceived(access) => {
                // An empty payload is the zero flag of a read-only copy.
                let bytes = if place.received.is_empty() {
                    &ZERO_PAGE
                } else {
                    place.received
                };
                let fill = place
                    .uffd
                    .copy(place.address, bytes, access == Access::Read)?;
                self.installed(fill, record)?;
                self.stats.pages_received.add(1);
            }
            Action::InstallZero => {
                let fill = place.uffd.zero(place.address, PAGE)?;
                self.installed(fill, record)?;
                self.stats.pages_zero_filled.add(1);
            }
            Action::CopyToSlot(slot) => {
                memory::read_page(place.address, place.segment.backing, buffer)?;
                self.slot(slot)?.write(slot, buffer);
            }
            Action::MapSlot(slot) => {
                self.slot(slot)?.map(slot, place.address)?;
                place.uffd.wake(place.address, PAGE)?;
                self.stats.pool_joined.add(1);
                self.stats.faults_pool.add(1);
                self.answered(record);
            }
            // These come in runs: see `runs`.
            Action::SendAhead(_) => {}
            Action::UnmapSlot(_) => {
                self.unmap_slot(place.segment, place.offset)?;
                self.stats.pool_left.add(1);
            }
            Action::InstallSlot(slot) => {
                self.slot(slot)?.read(slot, buffer);
                let fill = place.uffd.copy(place.address, &buffer.0, false)?;
                self.installed(fill, record)?;
            }
            Action::FreeSlot(slot) => {
                self.slot(slot)?.give_back(slot);
                if let Some(leave) = &self.leave {
                    leave.gone();
                }
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
            Action::Promoted(_) => {
                self.stats.promotions.add(1);
                if let Some(leave) = &self.leave {
                    leave.promoted(place.page, self.now_ns() / 1000);
                }
            }
            Action::Demoted(_) => self.stats.pages_demoted.add(1),
            Action::Fail => return Err(Failure::Here(DsmError::Lost(self.lost.first()))),
            Action::Queued => self.stats.waits.add(1),
            Action::LentToWrite => self.stats.lent_to_write.add(1),
            Action::Zeroed => {}
        }
        self.tape.acted(&action, place);
        Ok(())
    }

    /// Time since the page was granted.
    pub(crate) fn age_us(&self, record: &PageRecord) -> u32 {
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
        if self.lost.has(to) {
            return;
        }
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
        self.tape.sent(to, place.page, message(zero)); // first: what it causes elsewhere is later in the trace
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
        filled(fill)?;
        self.granted(record);
        Ok(())
    }

    pub(crate) fn granted(&self, record: &mut PageRecord) {
        record.granted_us = self.now_us();
        record.faults.granted();
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

/// The page table must have nothing where the protocol says so: else memory is not coherent any more.
pub(crate) fn filled(fill: Fill) -> Result<(), Failure> {
    match fill {
        Fill::Exists(at) => Err(Failure::Here(DsmError::System {
            call: "fill of an absent page",
            at,
            errno: libc::EEXIST,
        })),
        _ => Ok(()),
    }
}
