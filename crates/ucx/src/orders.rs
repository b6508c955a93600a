//! What senders ask of the thread that owns UCX.

use crate::bell::Bell;
use crate::envelope::Token;
use crate::worker::Parcel;
use crate::UcxError;
use lev_wire::frame::Header;
use lev_wire::NodeId;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What senders and the thread share.
pub(crate) struct Shared {
    pub(crate) queue: Mutex<Queue>,
    pub(crate) bell: Bell,
    /// Messages that were not from a peer.
    pub(crate) strange: AtomicU64,
}

/// What is to be done by the thread.
pub(crate) struct Queue {
    pub(crate) orders: Vec<Order>,
    /// By node: bytes that were given to `send` and whose memory UCX still needs; `None`: the peer is lost.
    pub(crate) bytes: Vec<Option<usize>>,
    /// The thread sleeps, or is about to.
    pub(crate) asleep: bool,
}

/// Something for the thread to do, in order.
pub(crate) enum Order {
    Connect {
        to: NodeId,
        address: Vec<u8>,
        token: Token,
    },
    Send {
        to: NodeId,
        header: Header,
        payload: Vec<u8>,
    },
    /// The peer does not read.
    GiveUp {
        to: NodeId,
        error: UcxError,
    },
    Close {
        patience: Duration,
    },
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The memory of a parcel is free again.
    pub(crate) fn sent(&self, parcel: &Parcel) {
        if let Some(bytes) = &mut self.lock().bytes[parcel.to.index()] {
            // What is no frame was never counted.
            *bytes = bytes.saturating_sub(parcel.len());
        }
    }

    pub(crate) fn order(&self, order: Order) {
        self.put(self.lock(), order);
    }

    pub(crate) fn put(&self, mut queue: MutexGuard<'_, Queue>, order: Order) {
        queue.orders.push(order);
        let asleep = std::mem::take(&mut queue.asleep);
        drop(queue);
        if asleep {
            self.bell.ring();
        }
    }
}
