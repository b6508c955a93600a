//! Deliberate mistakes in the protocol: the model checker must find every one of them.
//!
//! Each is built into the production functions at the place where it would be made, behind [`mutated!`], which is a
//! constant `false` outside of tests.

/// One mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// The home allows a write before all sharers have dropped their copies.
    GrantBeforeDrops,
    /// The home goes on after the first acknowledgement of several.
    SkipAcknowledgement,
    /// The home takes the next request before the requester has installed the page: an invalidation overtakes a grant.
    IdleBeforeInstalled,
    /// The home takes the next request before it has sent the page itself, because its own copy is held.
    SettledBeforeSent,
    /// The home allows a write and does not note who may write from now on.
    GrantUnrecorded,
    /// A node says nothing when the page that another holder sent is in place.
    ReceiptForgotten,
    /// A node acknowledges what came from the home itself, which does not wait for it.
    NeedlessReceipt,
    /// What the home says to a node is not handled in order: a demand overtakes the grant before it.
    OrderNotKept,
    /// The home believes a writer's claim that it still has its shared copy.
    TrustOldCopy,
    /// A write fault on a page held for reading, which may be an old event, is answered without asking the home.
    StaleEventUpgrades,
    /// The owner keeps its copy when it hands the page to a writer.
    OwnerKeepsCopy,
    /// The owner goes on writing after it gave a reader a copy.
    OwnerKeepsWriting,
    /// The owner reads its page for sending while it can still be written.
    SendBeforeProtect,
    /// The owner drops its page before it has read it for sending.
    DropBeforeRead,
    /// The owner sends its page to a writer and drops it only then: for a moment threads there read old bytes.
    SendBeforeDrop,
    /// The same with a page that goes to a keeper.
    KeepBeforeDrop,
    /// A holder says that it dropped its copy and keeps it.
    DropClaimed,
    /// Requests that come while the home is busy are lost.
    ForgetQueued,
    /// The home does not note a new reader.
    ForgetReader,
    /// The home sends a copy ahead while it serves a request for the page.
    AheadWhileBusy,
    /// A node that gets a page unasked forgets that it has asked for it.
    UnaskedAnswers,
    /// The home sends a copy ahead and does not note who has it.
    AheadForgetsSharer,
    /// The home sends a copy ahead and goes on writing its own.
    AheadKeepsWriting,
    /// A node that may write, but has not, gives a copy for reading away and may go on to write.
    CleanAfterRead,
    /// A node that may write, but has not, says that it may only read.
    CleanDenied,
    /// The home lets a reader write and notes it as a reader.
    LentUnrecorded,
    /// Promotion collects from one sharer and lets the others keep their copies.
    PromoteKeepsSharers,
    /// The supplier uses the pool before the others have dropped their copies.
    SupplierMapsAtOnce,
    /// The home does not note who uses the slot.
    PoolForgetsUser,
    /// The home takes the page out of the pool while somebody still uses the slot.
    DemoteBeforeUnmapped,
    /// The slot is free again before its contents are elsewhere.
    SlotFreedEarly,
    /// A node that is out of room drops a shared copy without a word.
    ReturnSilently,
    /// The home lets the only sharer drop its copy.
    LastCopyDropped,
    /// The home does not strike the sharer that returned its copy.
    ReturnKeepsSharer,
    /// The home does not wait until the keeper has the page.
    EvictWithoutAnswer,
    /// A node gives its page to a keeper and keeps it.
    EvictKeepsCopy,
    /// The home does not answer if nobody has room.
    NoRoomNoAnswer,
    /// The home goes on waiting for a lost node to drop its copy.
    LostStillAwaited,
    /// The home goes on waiting for a lost node to install the page.
    LostRequesterAwaited,
    /// What a lost node owned is zero from now on.
    LostOwnerIsZero,
    /// The home does not strike a lost sharer.
    LostStaysSharer,
    /// The home takes for granted that a holder gave its page to a node that was lost.
    LostUnasked,
    /// A node goes on waiting for an answer of a home that was lost.
    LostHomeAwaited,
    /// A put-off demand of a lost requester is carried out after all.
    LostDemandServed,
    /// Nobody is told that the contents were lost with their supplier.
    LossNotTold,
}

impl Mutation {
    /// All of them.
    pub(crate) const ALL: &[Self] = &[
        Self::GrantBeforeDrops,
        Self::SkipAcknowledgement,
        Self::IdleBeforeInstalled,
        Self::SettledBeforeSent,
        Self::GrantUnrecorded,
        Self::ReceiptForgotten,
        Self::NeedlessReceipt,
        Self::OrderNotKept,
        Self::TrustOldCopy,
        Self::StaleEventUpgrades,
        Self::OwnerKeepsCopy,
        Self::OwnerKeepsWriting,
        Self::SendBeforeProtect,
        Self::DropBeforeRead,
        Self::SendBeforeDrop,
        Self::KeepBeforeDrop,
        Self::DropClaimed,
        Self::ForgetQueued,
        Self::ForgetReader,
        Self::AheadWhileBusy,
        Self::UnaskedAnswers,
        Self::AheadForgetsSharer,
        Self::AheadKeepsWriting,
        Self::CleanAfterRead,
        Self::CleanDenied,
        Self::LentUnrecorded,
        Self::PromoteKeepsSharers,
        Self::SupplierMapsAtOnce,
        Self::PoolForgetsUser,
        Self::DemoteBeforeUnmapped,
        Self::SlotFreedEarly,
        Self::ReturnSilently,
        Self::LastCopyDropped,
        Self::ReturnKeepsSharer,
        Self::EvictWithoutAnswer,
        Self::EvictKeepsCopy,
        Self::NoRoomNoAnswer,
        Self::LostStillAwaited,
        Self::LostRequesterAwaited,
        Self::LostOwnerIsZero,
        Self::LostStaysSharer,
        Self::LostUnasked,
        Self::LostHomeAwaited,
        Self::LostDemandServed,
        Self::LossNotTold,
    ];
}
