//! What nodes say to each other about one page, and what they then do with their memory.

use lev_wire::NodeId;

/// Number of a page of the hot-page pool.
pub type Slot = u32;

/// What a node wants to do with a page, or may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Access {
    /// Read it.
    Read,
    /// Read and write it.
    Write,
}

/// Something that the home asks of a holder; the holder may put it off for the minimal holding time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Demand {
    /// Drop the copy and say [`Message::Dropped`].
    Drop,
    /// Send the contents to `to` with this right. [`Access::Write`]: drop the copy; [`Access::Read`]: keep it for reading.
    Fetch {
        /// Who gets the contents.
        to: NodeId,
        /// The right that travels with them.
        access: Access,
    },
    /// Copy the contents into the slot of the pool, drop the copy and say [`Message::Dropped`].
    Collect(Slot),
    /// Send the contents, with the right to write, as [`Message::Keep`] to `to`, which did not ask, and drop the copy.
    Evict {
        /// Who keeps the page from now on.
        to: NodeId,
    },
    /// Unmap the slot of the pool and say [`Message::Dropped`]: the page leaves the pool.
    Leave(Slot),
}

/// A message about one page. The channel carries the page's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// Node to home: let me read, or write.
    Get(Access),
    /// Node to home: make the page zero everywhere.
    Discard,
    /// Node to home: what another node than the home sent me is in place; the transaction is over. The home says it to
    /// itself when it has sent a page.
    Installed,
    /// Node to home: done as demanded, I have no copy any more.
    Dropped,
    /// Node to home: I would rather not keep this page. The answer is [`Demand::Evict`] or [`Message::Stay`].
    Return,
    /// Node to home: I had the right to write although I only wanted to read, and I never wrote.
    Unwritten,
    /// Node to home: what I have of the page, as [`Message::Ask`] wanted to know.
    Have(Option<Access>),
    /// Home to holder.
    Demand(Demand),
    /// Home to requester: your copy may be used so from now on (an upgrade without contents).
    Grant(Access),
    /// Home to requester: the page is zero and yours to write.
    GrantZero,
    /// Home to a node that did not ask: the page is zero and yours to write. No answer is expected: whatever the
    /// home says later about the page comes after it on the same channel.
    GiveZero,
    /// Home to a node that did not ask: a copy for reading, like [`Message::GiveZero`] without an answer. The bytes
    /// travel beside the message.
    ReadAhead {
        /// All bytes are zero and none travel.
        zero: bool,
    },
    /// Home to requester: the page lives in this slot of the pool from now on.
    UsePool(Slot),
    /// Home to requester: the page is zero everywhere.
    Discarded,
    /// Home to requester: the contents were lost together with a node.
    Failed,
    /// Home to a node that wanted to return the page: settled. Either others have copies, and a demand to drop this one
    /// follows; or the node has none any more; or nobody else has room for it.
    Stay,
    /// Home to a node that did not ask: the page lives in this slot no more; take the contents from there, they are
    /// yours to write.
    KeepSlot(Slot),
    /// Home to a node: node `lost` is lost, forget what it sent and was to get, and say what you have.
    Ask {
        /// Which node.
        lost: NodeId,
    },
    /// Holder to a node that did not ask: the home wants you to keep this page. The bytes travel beside the message.
    Keep {
        /// All bytes are zero and none travel.
        zero: bool,
    },
    /// Holder to requester: here it is. The bytes travel beside the message.
    Contents {
        /// The right that comes with them.
        access: Access,
        /// All bytes are zero and none travel.
        zero: bool,
    },
}

/// What to do, in this order, before the next event of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send a message to another node (never to this one).
    Send(NodeId, Message),
    /// Read the local copy, which nobody can write now, for one of the next actions.
    Read,
    /// Send what was read as [`Message::Contents`] with this right.
    SendPage(NodeId, Access),
    /// The same, sent as [`Message::ReadAhead`].
    SendAhead(NodeId),
    /// The same, sent as [`Message::Keep`].
    SendKeep(NodeId),
    /// Write-protect the local copy.
    Protect,
    /// Allow writes to the local copy.
    Unprotect,
    /// Remove the local copy.
    Drop,
    /// Put the bytes that came with the message in place, with this right.
    InstallReceived(Access),
    /// Put zeroes in place, writable.
    InstallZero,
    /// Copy the local copy, which nobody can write now, into the pool.
    CopyToSlot(Slot),
    /// Map the slot in the place of the page; from now on it needs no protocol.
    MapSlot(Slot),
    /// Take the mapping of the slot away, so that the page is absent again.
    UnmapSlot(Slot),
    /// Put the contents of the slot, which nobody maps any more, in place, writable.
    InstallSlot(Slot),
    /// Nobody needs the slot any more: it may be given out again.
    FreeSlot(Slot),
    /// Write zeroes to the slot.
    ZeroSlot(Slot),
    /// Wake whoever waits for this page here.
    Wake,
    /// Keep the demand until the holding time is over, then pass it to [`Page::resume`](crate::Page::resume).
    Defer(Demand),
    /// What was asked for will never come: the contents, or who knows where they are, were lost with a node.
    Fail,
    /// A discard of this node is complete.
    DiscardDone,
    /// This home moved the page into the pool.
    Promoted(Slot),
    /// This home took the page out of the pool.
    Demoted(Slot),
    /// This home knows that nobody holds the page any more and that its contents are zero.
    Zeroed,
    /// The request had to wait behind another one at this home.
    Queued,
    /// This home let a node that wants to read have the right to write, too.
    LentToWrite,
}

/// A message that the protocol does not allow in this state: the peer is broken. The text says what is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Illegal(pub &'static str);

impl std::fmt::Display for Illegal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Illegal {}
