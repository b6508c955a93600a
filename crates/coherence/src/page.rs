//! One page on one node: its node part and, at home, its directory entry, with messages between the two looped.

use crate::home::HomePage;
use crate::message::{Access, Action, Demand, Illegal, Message, Slot};
#[cfg(test)]
use crate::mutation::Mutation;
use crate::node::{NodePage, NodeState};
use lev_wire::NodeId;
use std::collections::VecDeque;

/// What is the same for all pages.
#[derive(Clone, Debug)]
pub struct Rules {
    /// This node.
    pub me: NodeId,
    /// A page moves into the pool when its rights have changed hands so often; 0: never.
    pub promote_after: u32,
    /// Who asks to read a page that its readers have written next gets the right to write it, too.
    pub migratory: bool,
    /// A deliberate mistake, to see that the model checker finds it.
    #[cfg(test)]
    pub(crate) mutation: Option<Mutation>,
}

impl Rules {
    /// Rules of node `me`; the right to write is only given to those who ask for it.
    #[must_use]
    pub fn new(me: NodeId, promote_after: u32) -> Self {
        Self {
            me,
            promote_after,
            migratory: false,
            #[cfg(test)]
            mutation: None,
        }
    }
}

/// `true` if the rules carry this deliberate mistake, or one of these; constant `false` outside of tests.
macro_rules! mutated {
    ($rules:expr, $($name:ident)|+) => {{
        #[cfg(test)]
        {
            matches!($rules.mutation, Some($($crate::mutation::Mutation::$name)|+))
        }
        #[cfg(not(test))]
        {
            let _ = &$rules;
            false
        }
    }};
}
pub(crate) use mutated;

/// What the state machine must ask while it runs.
pub trait Surroundings {
    /// Whether the local copy is younger than its minimal holding time. Only asked when a demand would take it.
    fn held(&mut self) -> bool;
    /// A free slot of the pool, out of this home's part. Only asked when a page is to be promoted.
    fn take_slot(&mut self) -> Option<Slot>;
    /// A node that has room for a page that `holder` gives back: any but `holder`, none that is lost. Only asked at
    /// home, and only when there is no other copy.
    fn keeper(&mut self, holder: NodeId) -> Option<NodeId>;
    /// Whether this node knows that the other one is lost. From then on it takes no frames of it.
    fn is_lost(&self, node: NodeId) -> bool;
}

/// Where the parts of a page put what they want done.
pub(crate) struct Outbox<'a> {
    pub(crate) me: NodeId,
    pub(crate) rules: &'a Rules,
    surroundings: &'a mut dyn Surroundings,
    actions: &'a mut Vec<Action>,
    to_self: VecDeque<Message>,
}

impl Outbox<'_> {
    pub(crate) fn send(&mut self, to: NodeId, message: Message) {
        if to == self.me {
            self.to_self.push_back(message);
        } else {
            self.actions.push(Action::Send(to, message));
        }
    }

    pub(crate) fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    pub(crate) fn take_slot(&mut self) -> Option<Slot> {
        self.surroundings.take_slot()
    }

    pub(crate) fn keeper(&mut self, holder: NodeId) -> Option<NodeId> {
        self.surroundings.keeper(holder)
    }

    pub(crate) fn is_lost(&self, node: NodeId) -> bool {
        self.surroundings.is_lost(node)
    }
}

/// One page on one node, for the time of one event.
pub struct Page<'a> {
    /// What is the same for all pages.
    pub rules: &'a Rules,
    /// The page's home.
    pub home: NodeId,
    /// The node's part.
    pub node: &'a mut NodePage,
    /// The home's part; `Some` exactly if this node is the home.
    pub entry: Option<&'a mut HomePage>,
}

impl Page<'_> {
    /// A thread of this node faulted on the page.
    ///
    /// # Errors
    /// Never for a fault of this node itself, unless [`Page::entry`] is missing at home.
    pub fn fault(
        &mut self,
        access: Access,
        surroundings: &mut dyn Surroundings,
        actions: &mut Vec<Action>,
    ) -> Result<(), Illegal> {
        self.run(surroundings, actions, |page, outbox| {
            page.node.fault(access, page.home, outbox);
            Ok(())
        })
    }

    /// A message of another node arrived.
    ///
    /// # Errors
    /// The protocol does not allow the message now: the peer is broken, and the actions must not be carried out.
    pub fn receive(
        &mut self,
        from: NodeId,
        message: Message,
        surroundings: &mut dyn Surroundings,
        actions: &mut Vec<Action>,
    ) -> Result<(), Illegal> {
        self.run(surroundings, actions, |page, outbox| {
            page.dispatch(from, message, outbox)
        })
    }

    /// The holding time of a deferred demand is over.
    ///
    /// # Errors
    /// The page is not held any more: the peer is broken.
    pub fn resume(
        &mut self,
        demand: Demand,
        surroundings: &mut dyn Surroundings,
        actions: &mut Vec<Action>,
    ) -> Result<(), Illegal> {
        self.run(surroundings, actions, |page, outbox| {
            page.node.demand(demand, false, page.home, outbox)
        })
    }

    /// At home: sends a copy for reading to node `to`, which did not ask, if the page is idle, this node has it and may
    /// give up writing it now, and `to` has no copy. Otherwise nothing happens and the answer is `false`.
    pub fn read_ahead(
        &mut self,
        to: NodeId,
        surroundings: &mut dyn Surroundings,
        actions: &mut Vec<Action>,
    ) -> bool {
        let Some(entry) = self.entry.as_deref_mut() else {
            return false;
        };
        if (self.node.state.is_sole() && surroundings.held()) || !entry.share_ahead(to, self.rules)
        {
            return false;
        }
        if self.node.state == NodeState::Exclusive {
            actions.push(Action::Protect);
        }
        if !mutated!(self.rules, AheadKeepsWriting) {
            self.node.state = NodeState::Shared;
        }
        actions.push(Action::Read);
        actions.push(Action::SendAhead(to));
        true
    }

    /// This node wants the page to be zero everywhere; [`Action::DiscardDone`] follows, at once or later.
    ///
    /// # Errors
    /// Never for a request of this node itself, unless [`Page::entry`] is missing at home.
    pub fn discard(
        &mut self,
        surroundings: &mut dyn Surroundings,
        actions: &mut Vec<Action>,
    ) -> Result<(), Illegal> {
        self.run(surroundings, actions, |page, outbox| {
            if outbox.is_lost(page.home) {
                outbox.act(Action::Fail);
                outbox.act(Action::DiscardDone);
            } else {
                outbox.send(page.home, Message::Discard);
            }
            Ok(())
        })
    }

    /// This node is short of room: it tells the home that it would rather not keep its copy. Nothing happens, and the
    /// answer is `false`, if there is no copy, a thread waits for the page, or the home has been told already.
    ///
    /// # Errors
    /// Never for an event of this node itself, unless [`Page::entry`] is missing at home.
    pub fn give_back(
        &mut self,
        surroundings: &mut dyn Surroundings,
        actions: &mut Vec<Action>,
    ) -> Result<bool, Illegal> {
        let mut told = false;
        self.run(surroundings, actions, |page, outbox| {
            told = page.node.give_back(page.home, outbox);
            Ok(())
        })?;
        Ok(told)
    }

    /// At home: takes the page out of the pool. Nothing happens, and the answer is `false`, if it is not there or a
    /// request is being served.
    ///
    /// # Errors
    /// Never for an event of this node itself.
    pub fn demote(
        &mut self,
        surroundings: &mut dyn Surroundings,
        actions: &mut Vec<Action>,
    ) -> Result<bool, Illegal> {
        let mut started = false;
        self.run(surroundings, actions, |page, outbox| {
            if let Some(entry) = &mut page.entry {
                started = entry.demote(outbox);
            }
            Ok(())
        })?;
        Ok(started)
    }

    /// Node `lost` is lost, and [`Surroundings::is_lost`] says so already.
    ///
    /// # Errors
    /// Never for an event of this node itself.
    pub fn lost(
        &mut self,
        lost: NodeId,
        surroundings: &mut dyn Surroundings,
        actions: &mut Vec<Action>,
    ) -> Result<(), Illegal> {
        self.run(surroundings, actions, |page, outbox| {
            page.node.lost(lost, page.home, outbox);
            if let Some(entry) = &mut page.entry {
                entry.lost(lost, outbox);
            }
            Ok(())
        })
    }

    fn run(
        &mut self,
        surroundings: &mut dyn Surroundings,
        actions: &mut Vec<Action>,
        first: impl FnOnce(&mut Self, &mut Outbox<'_>) -> Result<(), Illegal>,
    ) -> Result<(), Illegal> {
        let (rules, me) = (self.rules, self.rules.me);
        let mut outbox = Outbox {
            me,
            rules,
            surroundings,
            actions,
            to_self: VecDeque::new(),
        };
        first(self, &mut outbox)?;
        while let Some(message) = outbox.to_self.pop_front() {
            self.dispatch(me, message, &mut outbox)?;
        }
        Ok(())
    }

    fn dispatch(
        &mut self,
        from: NodeId,
        message: Message,
        outbox: &mut Outbox<'_>,
    ) -> Result<(), Illegal> {
        match message {
            Message::Get(_)
            | Message::Discard
            | Message::Installed
            | Message::Dropped
            | Message::Return
            | Message::Unwritten
            | Message::Have(_) => match &mut self.entry {
                Some(entry) => entry.receive(from, message, outbox),
                None => Err(Illegal("this node is not the home of the page")),
            },
            Message::Contents { .. } => self.node.answer(from, message, self.home, outbox),
            Message::Keep { .. } => {
                let (me, entry) = (outbox.me, self.entry.as_deref());
                if entry.is_some_and(|entry| !entry.expects(me, from)) {
                    return Err(Illegal("a page to keep that this home did not ask for"));
                }
                self.node.unasked(from, message, self.home, outbox)
            }
            _ if from != self.home => Err(Illegal("only the home of the page may say this")),
            Message::Demand(demand) => {
                let held = outbox.surroundings.held();
                if matches!(demand, Demand::Evict { .. }) {
                    self.node.returning = false; // this is the answer
                }
                self.node.demand(demand, held, self.home, outbox)
            }
            Message::Discarded => {
                outbox.act(Action::DiscardDone);
                Ok(())
            }
            Message::GiveZero
            | Message::ReadAhead { .. }
            | Message::Stay
            | Message::KeepSlot(_)
            | Message::Ask { .. } => self.node.unasked(from, message, self.home, outbox),
            Message::Grant(_) | Message::GrantZero | Message::UsePool(_) | Message::Failed => {
                self.node.answer(from, message, self.home, outbox)
            }
        }
    }
}
