//! The page as a node sees it: may I read, may I write, what have I asked for.

use crate::message::{Access, Action, Demand, Illegal, Message};
use crate::page::{mutated, Outbox};
use lev_wire::NodeId;

/// What this node may do with the page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NodeState {
    /// Nothing; there is no copy.
    #[default]
    Invalid,
    /// Read; others may read as well.
    Shared,
    /// Read and write; no other node has a copy.
    Exclusive,
    /// The same, but this node only wanted to read and has not written yet: the copy is write-protected, so that the first
    /// write is seen, and allowed without a word to anybody.
    Clean,
    /// Read and write in the pool, without any protocol.
    Pooled,
}

impl NodeState {
    /// There is a copy of this node's own, outside of the pool.
    #[must_use]
    pub fn has_copy(self) -> bool {
        !matches!(self, Self::Invalid | Self::Pooled)
    }

    /// No other node has a copy, and this one may write without asking.
    #[must_use]
    pub fn is_sole(self) -> bool {
        matches!(self, Self::Exclusive | Self::Clean)
    }
}

/// A page on one node. Three bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodePage {
    /// What this node may do now.
    pub state: NodeState,
    /// What it has asked for; one request at a time.
    pub pending: Option<Access>,
    /// It has told the home that it would rather not keep its copy, and the home has not answered yet.
    pub returning: bool,
}

impl NodePage {
    /// A thread of this node faulted. Events are hints that may be old: only the state decides.
    pub(crate) fn fault(&mut self, access: Access, home: NodeId, outbox: &mut Outbox<'_>) {
        let satisfied = match self.state {
            NodeState::Pooled | NodeState::Exclusive => true,
            NodeState::Shared | NodeState::Clean => access == Access::Read,
            NodeState::Invalid => false,
        };
        if satisfied {
            outbox.act(Action::Wake);
        } else if self.upgrades_alone(outbox) {
            outbox.act(Action::Unprotect);
            self.state = NodeState::Exclusive;
        } else if self.pending.is_none() {
            if outbox.is_lost(home) {
                outbox.act(Action::Fail);
                return;
            }
            self.pending = Some(access);
            outbox.send(home, Message::Get(access));
        }
        // Else: the answer to the request under way wakes every waiter; one that needs more faults again.
    }

    /// Whether a first write needs nobody's leave.
    fn upgrades_alone(&self, outbox: &Outbox<'_>) -> bool {
        let mistaken = mutated!(outbox.rules, StaleEventUpgrades);
        self.state == NodeState::Clean || (mistaken && self.state == NodeState::Shared)
    }

    /// This node has no room for its copy; whether the home was told so now.
    pub(crate) fn give_back(&mut self, home: NodeId, outbox: &mut Outbox<'_>) -> bool {
        let held = self.state.has_copy();
        if !held || self.pending.is_some() || self.returning || outbox.is_lost(home) {
            return false;
        }
        if mutated!(outbox.rules, ReturnSilently) && self.state == NodeState::Shared {
            outbox.act(Action::Drop);
            self.state = NodeState::Invalid;
            return true;
        }
        self.returning = true;
        outbox.send(home, Message::Return);
        true
    }

    /// A demand of the home. `held`: the copy is younger than the minimal holding time.
    pub(crate) fn demand(
        &mut self,
        demand: Demand,
        held: bool,
        home: NodeId,
        outbox: &mut Outbox<'_>,
    ) -> Result<(), Illegal> {
        if self.is_void(demand, home, outbox) {
            return Ok(());
        }
        match (self.state, demand) {
            (NodeState::Pooled, Demand::Leave(_)) => {}
            (NodeState::Invalid | NodeState::Pooled, _) | (_, Demand::Leave(_)) => {
                return Err(Illegal("demand for a page that this node does not hold"))
            }
            (_, Demand::Fetch { to, .. } | Demand::Evict { to }) if to == outbox.me => {
                return Err(Illegal("demand to send a page to its holder"))
            }
            (
                NodeState::Shared,
                Demand::Fetch {
                    access: Access::Read,
                    ..
                },
            ) => {} // takes nothing away
            _ if held => {
                outbox.act(Action::Defer(demand));
                return Ok(());
            }
            _ => {}
        }
        // Give a page away: protect, read, drop, send. Dropping before reading would lose writes; sending before dropping
        // would let threads here read what the new owner has overwritten already.
        if self.state == NodeState::Exclusive
            && demand != Demand::Drop
            && !mutated!(outbox.rules, SendBeforeProtect)
        {
            outbox.act(Action::Protect);
        }
        self.obey(demand, home, outbox);
        Ok(())
    }

    /// Nobody waits any more for what is demanded: the home, or the node that was to get the page, is lost.
    fn is_void(&self, demand: Demand, home: NodeId, outbox: &Outbox<'_>) -> bool {
        if mutated!(outbox.rules, LostDemandServed) {
            return false;
        }
        let to_lost = match demand {
            Demand::Fetch { to, .. } | Demand::Evict { to } => outbox.is_lost(to),
            Demand::Drop | Demand::Collect(_) | Demand::Leave(_) => false,
        };
        to_lost || outbox.is_lost(home)
    }

    /// Carries out a demand for a page that is held and cannot be written any more.
    fn obey(&mut self, demand: Demand, home: NodeId, outbox: &mut Outbox<'_>) {
        let sends = matches!(demand, Demand::Fetch { .. } | Demand::Evict { .. });
        let unwritten = sends && self.state == NodeState::Clean;
        match demand {
            Demand::Fetch {
                to,
                access: Access::Read,
            } => {
                outbox.act(Action::Read);
                outbox.act(Action::SendPage(to, Access::Read));
                let stays_clean =
                    self.state == NodeState::Clean && mutated!(outbox.rules, CleanAfterRead);
                if !mutated!(outbox.rules, OwnerKeepsWriting) && !stays_clean {
                    self.state = NodeState::Shared;
                }
            }
            Demand::Fetch {
                to,
                access: Access::Write,
            } => {
                let late = mutated!(outbox.rules, SendBeforeDrop);
                let keep = mutated!(outbox.rules, OwnerKeepsCopy);
                self.hand_over(Action::SendPage(to, Access::Write), late, keep, outbox);
            }
            Demand::Evict { to } => {
                let late = mutated!(outbox.rules, KeepBeforeDrop);
                let keep = mutated!(outbox.rules, EvictKeepsCopy);
                self.hand_over(Action::SendKeep(to), late, keep, outbox);
            }
            Demand::Collect(slot) => {
                outbox.act(Action::CopyToSlot(slot));
                self.drop_copy(outbox);
                outbox.send(home, Message::Dropped);
                if mutated!(outbox.rules, SupplierMapsAtOnce) {
                    outbox.act(Action::MapSlot(slot));
                    self.state = NodeState::Pooled;
                }
            }
            Demand::Drop => {
                if !mutated!(outbox.rules, DropClaimed) {
                    self.drop_copy(outbox);
                }
                outbox.send(home, Message::Dropped);
            }
            Demand::Leave(slot) => {
                outbox.act(Action::UnmapSlot(slot));
                self.state = NodeState::Invalid;
                outbox.send(home, Message::Dropped);
            }
        }
        if unwritten {
            outbox.send(home, Message::Unwritten);
        }
        if sends && home == outbox.me {
            outbox.send(home, Message::Installed);
        }
    }

    /// Gives up the page, which cannot be written any more, and then sends it. `late` and `keep` are mistakes.
    fn hand_over(&mut self, send: Action, late: bool, keep: bool, outbox: &mut Outbox<'_>) {
        if mutated!(outbox.rules, DropBeforeRead) {
            self.drop_copy(outbox);
            outbox.act(Action::Read);
            outbox.act(send);
            return;
        }
        outbox.act(Action::Read);
        if late {
            outbox.act(send);
        }
        if !keep {
            self.drop_copy(outbox);
        }
        if !late {
            outbox.act(send);
        }
    }

    fn drop_copy(&mut self, outbox: &mut Outbox<'_>) {
        outbox.act(Action::Drop);
        self.state = NodeState::Invalid;
    }

    /// Something that this node did not ask for. A request that is under way stays so: the home has not seen it yet,
    /// and will answer it by what it knows then.
    pub(crate) fn unasked(
        &mut self,
        from: NodeId,
        message: Message,
        home: NodeId,
        outbox: &mut Outbox<'_>,
    ) -> Result<(), Illegal> {
        match message {
            Message::Stay => {
                self.returning = false;
                return Ok(());
            }
            Message::Ask { .. } => {
                let have = match self.state {
                    NodeState::Clean if mutated!(outbox.rules, CleanDenied) => Some(Access::Read),
                    NodeState::Shared => Some(Access::Read),
                    NodeState::Exclusive | NodeState::Clean => Some(Access::Write),
                    NodeState::Invalid | NodeState::Pooled => None,
                };
                outbox.send(home, Message::Have(have));
                return Ok(());
            }
            _ if self.state != NodeState::Invalid => {
                return Err(Illegal("a page for a node that has it already"))
            }
            Message::GiveZero => {
                outbox.act(Action::InstallZero);
                self.state = NodeState::Exclusive;
            }
            Message::ReadAhead { .. } => {
                outbox.act(Action::InstallReceived(Access::Read));
                self.state = NodeState::Shared;
            }
            Message::Keep { zero } => {
                outbox.act(received(Access::Write, zero));
                self.state = NodeState::Exclusive;
                acknowledge(from, home, outbox);
            }
            Message::KeepSlot(slot) => {
                outbox.act(Action::InstallSlot(slot));
                self.state = NodeState::Exclusive;
                outbox.send(home, Message::Installed);
            }
            _ => return Err(Illegal("message that a node does not take unasked")),
        }
        if mutated!(outbox.rules, UnaskedAnswers) {
            self.pending = None;
        }
        Ok(())
    }

    /// An answer to this node's request.
    pub(crate) fn answer(
        &mut self,
        from: NodeId,
        message: Message,
        home: NodeId,
        outbox: &mut Outbox<'_>,
    ) -> Result<(), Illegal> {
        let Some(wanted) = self.pending else {
            if outbox.is_lost(home) {
                return Ok(()); // this node gave up waiting when its home was lost
            }
            return Err(Illegal("answer to a question that was not asked"));
        };
        match (self.state, message) {
            (NodeState::Invalid, Message::Contents { access, .. }) if access > wanted => {
                outbox.act(Action::InstallReceived(wanted));
                self.state = NodeState::Clean;
            }
            (NodeState::Invalid, Message::Contents { access, zero }) if access == wanted => {
                outbox.act(received(access, zero));
                self.state = state_for(access);
            }
            (NodeState::Invalid, Message::GrantZero) => {
                outbox.act(Action::InstallZero);
                self.state = NodeState::Exclusive;
            }
            (NodeState::Invalid, Message::UsePool(slot)) => {
                outbox.act(Action::MapSlot(slot));
                self.state = NodeState::Pooled; // mapping wakes
            }
            (NodeState::Invalid, Message::Failed) => {
                outbox.act(Action::Fail);
            }
            (NodeState::Shared | NodeState::Exclusive, Message::Grant(Access::Write)) => {
                outbox.act(Action::Unprotect);
                self.state = NodeState::Exclusive;
            }
            (NodeState::Shared | NodeState::Exclusive, Message::Grant(Access::Read)) => {
                outbox.act(Action::Wake)
            }
            _ if mutated!(outbox.rules, TrustOldCopy) => {
                outbox.act(Action::Unprotect);
                self.state = NodeState::Exclusive;
            }
            _ => return Err(Illegal("answer that does not fit the state of the page")),
        }
        self.pending = None;
        acknowledge(from, home, outbox);
        Ok(())
    }

    /// Node `lost` is lost. Copies stay: while the home is there it knows of them, and without a home no right moves.
    pub(crate) fn lost(&mut self, lost: NodeId, home: NodeId, outbox: &mut Outbox<'_>) {
        if lost != home {
            return;
        }
        self.returning = false;
        if self.pending.is_some() && !mutated!(outbox.rules, LostHomeAwaited) {
            self.pending = None;
            outbox.act(Action::Fail);
        }
    }
}

/// Tells the home that what `from` sent is in place. The home need not be told of what it sent itself: its next word about
/// the page comes after it.
fn acknowledge(from: NodeId, home: NodeId, outbox: &mut Outbox<'_>) {
    let skipped = from == home && !mutated!(outbox.rules, NeedlessReceipt);
    if !skipped && !mutated!(outbox.rules, ReceiptForgotten) {
        outbox.send(home, Message::Installed);
    }
}

fn received(access: Access, zero: bool) -> Action {
    match (zero, access) {
        (true, Access::Write) => Action::InstallZero,
        _ => Action::InstallReceived(access),
    }
}

fn state_for(access: Access) -> NodeState {
    match access {
        Access::Read => NodeState::Shared,
        Access::Write => NodeState::Exclusive,
    }
}
