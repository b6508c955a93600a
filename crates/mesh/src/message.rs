//! Numbers of the frames on each kind of channel, and the few payloads that are not raw bytes.

use crate::loss::Loss;
use lev_dsm::RoomEvent;
use lev_vcpu::Doorbell;
use lev_wire::cluster::Cluster;
use lev_wire::NodeId;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Frames of an interrupt channel. One way, in order.
pub mod interrupt {
    /// `tag`: vCPU; payload: an encoded interrupt, already resolved to this vCPU.
    pub const INTERRUPT: u16 = 1;
    /// `tag`: vCPU; `arg`: sequence number; payload: an encoded APIC view. Answered by [`VIEW_SEEN`].
    pub const VIEW: u16 = 2;
    /// `arg`: sequence number of the view.
    pub const VIEW_SEEN: u16 = 3;
    /// `tag`: vCPU; `arg`: number of the run that shall return.
    pub const CANCEL_RUN: u16 = 4;
    /// `arg`: number of the doorbell that the guest rang.
    pub const DOORBELL: u16 = 5;
    /// The sender lives; between workers only.
    pub const BEAT: u16 = 6;
}

/// Frames of a vCPU channel: request from the head, answer from the worker, strictly in turn.
pub mod vcpu {
    /// `arg`: ioctl number; payload: the argument's bytes, or 8 bytes of number.
    pub const CALL: u16 = 1;
    /// `tag`: errno or 0; `arg`: the call's value; payload: what the kernel wrote back.
    pub const CALLED: u16 = 2;
    /// `arg`: number of the run; payload: see `crate::run_frame`.
    pub const RUN: u16 = 3;
    /// `tag`: 0 exit, `EINTR` taken back, other errno; payload: the page's parts.
    pub const EXIT: u16 = 4;
}

/// Frames of a control channel. `arg` is the request's number; [`REPLY`](control::REPLY) carries it back.
pub mod control {
    /// Worker to head: `tag`: errno or 0; payload: the answer, or the error's text.
    pub const REPLY: u16 = 1;
    /// JSON of [`super::Configure`]; answered by JSON of [`super::Configured`].
    pub const CONFIGURE: u16 = 2;
    /// Connect to the peers with higher numbers, wait until all are there.
    pub const JOIN: u16 = 3;
    /// `tag`: vCPU.
    pub const CREATE_VCPU: u16 = 4;
    /// JSON of [`super::Segment`].
    pub const SEGMENT: u16 = 5;
    /// See [`crate::vm_frame::encode_slot`].
    pub const SLOT: u16 = 6;
    /// See [`crate::vm_frame::VmCall`].
    pub const VM_CALL: u16 = 7;
    /// See [`crate::vm_frame::MsrFilter`].
    pub const MSR_FILTER: u16 = 8;
    /// 4 bytes of slot, 4 bytes of length; answered by the bitmap.
    pub const DIRTY_LOG: u16 = 9;
    /// See [`crate::vm_frame::ClearDirtyLog`].
    pub const CLEAR_DIRTY_LOG: u16 = 10;
    /// JSON list of doorbells.
    pub const DOORBELLS: u16 = 11;
    /// Answered by 8 bytes: the worker's host TSC at the guest's rate.
    pub const CLOCK_SAMPLE: u16 = 12;
    /// 8 bytes: the worker's TSC offset. After the first it only grows.
    pub const SET_CLOCK: u16 = 13;
    /// Answered by JSON of [`crate::report::NodeReport`].
    pub const REPORT: u16 = 14;
    /// Answered at once.
    pub const PING: u16 = 15;
    /// The VM has ended.
    pub const GOODBYE: u16 = 16;
    /// Worker to head, no answer: JSON of [`super::Event`].
    pub const EVENT: u16 = 17;
    /// `tag`: see [`crate::trace`].
    pub const TRACE: u16 = 18;
}

/// What a worker is told first.
#[derive(Debug, Serialize, Deserialize)]
pub struct Configure {
    /// The whole cluster; its secret is blanked (the channel itself proves that both sides have it).
    pub cluster: Cluster,
    /// The worker's own number.
    pub node: NodeId,
    /// Where the pool's memory is to be opened on this host.
    pub pool_path: Option<String>,
    /// Rate of the guest's time-stamp counter (the head's), kHz.
    pub tsc_khz: u32,
}

/// What a worker answers.
#[derive(Debug, Serialize, Deserialize)]
pub struct Configured {
    /// Bytes of memory available.
    pub memory_available: u64,
    /// Process id, for reports.
    pub pid: u32,
}

/// A range of guest memory that becomes coherent.
#[derive(Debug, Serialize, Deserialize)]
pub struct Segment {
    /// Global number of the first page (address in QEMU / 4096).
    pub first_page: u64,
    /// Homes in order: pages, node.
    pub homes: Vec<(u64, NodeId)>,
    /// Pages whose first owner is the head.
    pub populated: Vec<Range<u64>>,
}

impl Segment {
    /// Pages of all homes together; `None`: more than there can be.
    #[must_use]
    pub fn pages(&self) -> Option<u64> {
        let pages = |sum: u64, (pages, _): &(u64, NodeId)| sum.checked_add(*pages);
        self.homes.iter().try_fold(0, pages)
    }
}

/// Something that the head must know.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The worker lost a peer.
    NodeLost {
        /// The peer.
        node: NodeId,
        /// Why.
        #[serde(flatten)]
        loss: Loss,
    },
    /// The worker cannot go on.
    Failed {
        /// One sentence.
        message: String,
    },
    /// No node has room for memory that the worker's vCPUs need: they stand still.
    OutOfRoom {
        /// Pages that the worker holds.
        resident: u64,
        /// Pages that it may hold.
        limit: u64,
        /// Faults that wait.
        waiting: u64,
    },
    /// There is room again.
    Room,
}

impl From<RoomEvent> for Event {
    fn from(event: RoomEvent) -> Self {
        match event {
            RoomEvent::Full {
                resident,
                limit,
                waiting,
            } => Self::OutOfRoom {
                resident,
                limit,
                waiting,
            },
            RoomEvent::Relieved => Self::Room,
        }
    }
}

/// A doorbell as it travels.
#[derive(Debug, Serialize, Deserialize)]
pub struct DoorbellMessage {
    /// See [`Doorbell`].
    pub index: u32,
    /// See [`Doorbell`].
    pub address: u64,
    /// See [`Doorbell`].
    pub len: u32,
    /// See [`Doorbell`].
    pub value: Option<u64>,
    /// See [`Doorbell`].
    pub port: bool,
}

impl From<&Doorbell> for DoorbellMessage {
    fn from(bell: &Doorbell) -> Self {
        Self {
            index: bell.index,
            address: bell.address,
            len: bell.len,
            value: bell.value,
            port: bell.port,
        }
    }
}

impl From<DoorbellMessage> for Doorbell {
    fn from(bell: DoorbellMessage) -> Self {
        Self {
            index: bell.index,
            address: bell.address,
            len: bell.len,
            value: bell.value,
            port: bell.port,
        }
    }
}
