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
    /// Read and write in the pool, without any protocol.
    Pooled,
}

/// A page on one node. Two bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodePage {
    /// What this node may do now.
    pub state: NodeState,
    /// What it has asked for; one request at a time.
    pub pending: Option<Access>,
}

impl NodePage {
    /// A thread of this node faulted. Events are hints that may be old: only the state decides.
    pub(crate) fn fault(&mut self, access: Access, home: NodeId, outbox: &mut Outbox<'_>) {
        let satisfied = match self.state {
            NodeState::Pooled | NodeState::Exclusive => true,
            NodeState::Shared => access == Access::Read,
            NodeState::Invalid => false,
        };
        if satisfied {
            outbox.act(Action::Wake);
        } else if self.pending.is_none() {
            self.pending = Some(access);
            outbox.send(home, Message::Get(access));
        }
        // Else: the answer to the request under way wakes every waiter; one that needs more faults again.
    }

    /// A demand of the home. `held`: the copy is younger than the minimal holding time.
    pub(crate) fn demand(
        &mut self,
        demand: Demand,
        held: bool,
        home: NodeId,
        outbox: &mut Outbox<'_>,
    ) -> Result<(), Illegal> {
        match (self.state, demand) {
            (NodeState::Invalid | NodeState::Pooled, _) => {
                return Err(Illegal("demand for a page that this node does not hold"))
            }
            (_, Demand::Fetch { to, .. }) if to == outbox.me => {
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
        if self.state == NodeState::Exclusive && demand != Demand::Drop {
            outbox.act(Action::Protect);
        }
        match demand {
            Demand::Fetch {
                to,
                access: Access::Read,
            } => {
                outbox.act(Action::Read);
                outbox.act(Action::SendPage(to, Access::Read));
                if !mutated!(outbox.rules, OwnerKeepsWriting) {
                    self.state = NodeState::Shared;
                }
            }
            Demand::Fetch {
                to,
                access: Access::Write,
            } => {
                outbox.act(Action::Read);
                if !mutated!(outbox.rules, OwnerKeepsCopy) {
                    outbox.act(Action::Drop);
                    self.state = NodeState::Invalid;
                }
                outbox.act(Action::SendPage(to, Access::Write));
            }
            Demand::Collect(slot) => {
                outbox.act(Action::CopyToSlot(slot));
                outbox.act(Action::Drop);
                self.state = NodeState::Invalid;
                outbox.send(home, Message::Dropped);
                if mutated!(outbox.rules, SupplierMapsAtOnce) {
                    outbox.act(Action::MapSlot(slot));
                    self.state = NodeState::Pooled;
                }
            }
            Demand::Drop => {
                outbox.act(Action::Drop);
                self.state = NodeState::Invalid;
                outbox.send(home, Message::Dropped);
            }
        }
        Ok(())
    }

    /// Something from the home that this node did not ask for. A request that is under way stays so: the home has not
    /// seen it yet, and will answer it by what it knows then.
    pub(crate) fn unasked(
        &mut self,
        message: Message,
        outbox: &mut Outbox<'_>,
    ) -> Result<(), Illegal> {
        match (self.state, message) {
            (NodeState::Invalid, Message::GiveZero) => {
                outbox.act(Action::InstallZero);
                self.state = NodeState::Exclusive;
            }
            (NodeState::Invalid, Message::ReadAhead { .. }) => {
                outbox.act(Action::InstallReceived(Access::Read));
                self.state = NodeState::Shared;
            }
            _ => return Err(Illegal("a page for a node that has it already")),
        }
        if mutated!(outbox.rules, UnaskedAnswers) {
            self.pending = None;
        }
        Ok(())
    }

    /// An answer to this node's request.
    pub(crate) fn answer(
        &mut self,
        message: Message,
        home: NodeId,
        outbox: &mut Outbox<'_>,
    ) -> Result<(), Illegal> {
        let Some(wanted) = self.pending else {
            return Err(Illegal("answer to a question that was not asked"));
        };
        match (self.state, message) {
            (NodeState::Invalid, Message::Contents { access, zero }) if access >= wanted => {
                outbox.act(match (zero, access) {
                    (true, Access::Write) => Action::InstallZero,
                    _ => Action::InstallReceived(access),
                });
                self.state = state_for(access);
            }
            (NodeState::Invalid, Message::GrantZero) => {
                outbox.act(Action::InstallZero);
                self.state = NodeState::Exclusive;
            }
            (NodeState::Invalid, Message::UsePool(slot)) => {
                outbox.act(Action::MapSlot(slot));
                self.state = NodeState::Pooled;
                self.pending = None;
                return Ok(()); // mapping wakes; the home does not wait for it
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
        outbox.send(home, Message::Installed);
        Ok(())
    }
}

fn state_for(access: Access) -> NodeState {
    match access {
        Access::Read => NodeState::Shared,
        Access::Write => NodeState::Exclusive,
    }
}
