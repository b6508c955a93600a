//! The page as its home sees it: who holds it, which request is being served, which ones wait.
//!
//! What starts and continues the transactions is in `grant`, what the loss of a node changes in `loss`.

use crate::habit::Habit;
use crate::message::{Access, Action, Illegal, Message, Slot};
use crate::page::{mutated, Outbox, Rules};
use crate::sharers::Sharers;
use lev_wire::NodeId;
use std::collections::VecDeque;

/// Who holds the page.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum HomeState {
    /// Never touched or discarded: the contents are zero and nobody holds a copy.
    #[default]
    Zero,
    /// One node holds it and may write.
    Owned(NodeId),
    /// These nodes (at least one) hold it and may read.
    Shared(Sharers),
    /// It lives in the pool.
    Pooled {
        /// Where.
        slot: Slot,
        /// Nodes that were told to use the slot.
        users: Sharers,
    },
    /// The only copy was lost together with a node.
    Gone,
}

/// Requests that may wait for a page: one access of each node, and several discards of each. A node that sends more is
/// broken, and what it says must not fill the home's memory.
const QUEUE_MAX: usize = 16 * Sharers::LIMIT as usize;

/// The home's entry for one page.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HomePage {
    pub(crate) state: HomeState,
    /// How often rights moved from one node to another.
    pub(crate) changes: u32,
    pub(crate) habit: Habit,
    pub(crate) busy: Option<Box<Busy>>,
}

/// A transaction under way, and the requests behind it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Busy {
    pub(crate) request: Request,
    pub(crate) stage: Stage,
    pub(crate) queue: VecDeque<Request>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    /// These nodes still have to say [`Message::Dropped`]; then go on.
    Dropping { left: Sharers, then: Then },
    /// Somebody still has to say [`Message::Installed`]: see [`Install::told_by`].
    Installing(Install),
    /// A node was lost in the middle of the transfer; this one still has to say [`Message::Have`].
    Asking { whom: NodeId, about: Install },
}

/// A page on its way to a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Install {
    /// Who gets it.
    pub(crate) by: NodeId,
    /// Who sends it; `None`: the home takes it out of the pool.
    pub(crate) supplier: Option<NodeId>,
    /// The state when it has arrived.
    pub(crate) next: HomeState,
    /// A slot that is free then.
    pub(crate) frees: Option<Slot>,
}

impl Install {
    /// Who says [`Message::Installed`]. If the home itself sends the page, order does the rest once it is sent: whatever the
    /// home says later to the same node comes after it. From another node it may take longer than what the home says.
    fn told_by(&self, home: NodeId) -> NodeId {
        if self.supplier == Some(home) {
            home
        } else {
            self.by
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Then {
    /// The requester has a copy: allow it to write.
    Grant,
    /// This node sends its copy and drops it.
    Fetch(NodeId),
    /// This node has put the contents into the slot.
    Pool { slot: Slot, from: NodeId },
    /// The contents are gone because the requester wants it so.
    Zero,
    /// That was all; the requester expects no answer.
    Become(HomeState),
    /// The slot is not mapped any more; the home takes the contents.
    Demote(Slot),
    /// The contents were lost with a node.
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Request {
    pub(crate) from: NodeId,
    pub(crate) want: Want,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Want {
    Access(Access),
    Discard,
    /// To be rid of the page.
    Return,
    /// Of the home itself: the page out of the pool.
    Demote,
}

impl HomePage {
    /// An entry for a page that had contents before the nodes came together.
    #[must_use]
    pub fn owned_by(node: NodeId) -> Self {
        Self {
            state: HomeState::Owned(node),
            ..Self::default()
        }
    }

    /// Who holds the page, as of the last finished transaction.
    #[must_use]
    pub fn state(&self) -> &HomeState {
        &self.state
    }

    /// Whether a request is being served.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.busy.is_some()
    }

    /// Whether the page is on its way to this node.
    #[must_use]
    pub fn is_coming_to(&self, node: NodeId) -> bool {
        let stage = self.busy.as_ref().map(|busy| &busy.stage);
        matches!(stage, Some(Stage::Installing(install)) if install.by == node)
    }

    /// Requests that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.busy.as_ref().map_or(0, |busy| busy.queue.len())
    }

    /// How often rights moved from one node to another, up to [`Rules::promote_after`](crate::Rules), but at
    /// least up to 2: never, once, or more often.
    #[must_use]
    pub fn changes(&self) -> u32 {
        self.changes
    }

    /// Nobody has the page, and nobody is about to get it: it is zero.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        self.state == HomeState::Zero && self.busy.is_none()
    }

    /// The home itself fills the page with zeroes and owns it, if it is [`HomeState::Zero`] and idle; else nothing
    /// happens and the answer is `false`. For filling in blocks, without messages.
    pub fn claim_zero(&mut self, home: NodeId) -> bool {
        let free = self.is_untouched();
        if free {
            self.state = HomeState::Owned(home);
        }
        free
    }

    /// Gives the page to node `to`, which did not ask for it, if it is [`HomeState::Zero`] and idle; else nothing
    /// happens and the answer is `false`. The caller sends [`Message::GiveZero`] before anything else about the page:
    /// then no later demand overtakes it, and the home need not wait for an answer.
    pub fn give_zero(&mut self, to: NodeId) -> bool {
        self.claim_zero(to)
    }

    /// Makes node `to`, which did not ask, a sharer, if the page is idle, the home has it and `to` has not; else
    /// nothing happens and the answer is `false`. No rights move, so this does not count as a change.
    pub(crate) fn share_ahead(&mut self, to: NodeId, rules: &Rules) -> bool {
        let mut sharers = match &self.state {
            HomeState::Owned(owner) => [*owner].into_iter().collect(),
            HomeState::Shared(sharers) => sharers.clone(),
            HomeState::Zero | HomeState::Pooled { .. } | HomeState::Gone => return false,
        };
        let busy = self.busy.is_some() && !mutated!(rules, AheadWhileBusy);
        if busy || !sharers.contains(rules.me) || sharers.contains(to) {
            return false;
        }
        if !mutated!(rules, AheadForgetsSharer) {
            sharers.insert(to);
        }
        self.state = HomeState::Shared(sharers);
        true
    }

    /// Whether a page is on its way from `supplier` to `by`.
    pub(crate) fn expects(&self, by: NodeId, supplier: NodeId) -> bool {
        let stage = self.busy.as_deref().map(|busy| &busy.stage);
        matches!(stage, Some(Stage::Installing(page)) if page.by == by && page.supplier == Some(supplier))
    }

    /// Starts to take the page out of the pool, if it is there and idle.
    pub(crate) fn demote(&mut self, outbox: &mut Outbox<'_>) -> bool {
        if self.busy.is_some() || !matches!(self.state, HomeState::Pooled { .. }) {
            return false;
        }
        let request = Request {
            from: outbox.me,
            want: Want::Demote,
        };
        self.serve(Some(request), VecDeque::new(), outbox);
        true
    }

    /// A message from node `from`.
    pub(crate) fn receive(
        &mut self,
        from: NodeId,
        message: Message,
        outbox: &mut Outbox<'_>,
    ) -> Result<(), Illegal> {
        let want = match message {
            Message::Get(access) => Want::Access(access),
            Message::Discard => Want::Discard,
            Message::Return => Want::Return,
            Message::Dropped => return self.dropped(from, outbox),
            Message::Installed => return self.installed(from, outbox),
            Message::Unwritten => {
                self.habit.guessed_wrong(outbox.rules);
                return Ok(());
            }
            Message::Have(access) => {
                self.have(from, access, outbox);
                return Ok(());
            }
            _ => return Err(Illegal("message that a home does not take")),
        };
        self.request(Request { from, want }, outbox)
    }

    fn request(&mut self, request: Request, outbox: &mut Outbox<'_>) -> Result<(), Illegal> {
        match self.busy.as_mut() {
            Some(busy) if busy.queue.len() >= QUEUE_MAX => {
                return Err(Illegal("more requests for a page than nodes can have"));
            }
            Some(busy) => {
                if !mutated!(outbox.rules, ForgetQueued) {
                    busy.queue.push_back(request);
                }
                outbox.act(Action::Queued);
            }
            None => self.serve(Some(request), VecDeque::new(), outbox),
        }
        Ok(())
    }

    /// Serves requests until one has to wait for somebody.
    pub(crate) fn serve(
        &mut self,
        first: Option<Request>,
        mut queue: VecDeque<Request>,
        outbox: &mut Outbox<'_>,
    ) {
        let mut next = first.or_else(|| queue.pop_front());
        while let Some(request) = next {
            let stage = self.begin(request, outbox);
            if let Some(stage) = self.stays_busy(stage, outbox) {
                self.busy = Some(Box::new(Busy {
                    request,
                    stage,
                    queue,
                }));
                return;
            }
            next = queue.pop_front();
        }
    }

    /// A holder has no copy any more, or does not use the slot any more.
    fn dropped(&mut self, from: NodeId, outbox: &mut Outbox<'_>) -> Result<(), Illegal> {
        let Some(mut busy) = self.busy.take() else {
            return stray(outbox, "nobody was asked to drop this page");
        };
        let Stage::Dropping { left, then } = &mut busy.stage else {
            self.busy = Some(busy);
            return stray(outbox, "nobody was asked to drop this page");
        };
        if !left.contains(from) {
            self.busy = Some(busy);
            return stray(outbox, "this node was not asked to drop the page");
        }
        left.remove(from);
        if left.is_empty() || mutated!(outbox.rules, SkipAcknowledgement) {
            let then = then.clone();
            self.go_on(busy, then, outbox);
        } else {
            self.busy = Some(busy);
        }
        Ok(())
    }

    /// The transaction goes on with `then`, or is over.
    pub(crate) fn go_on(&mut self, mut busy: Box<Busy>, then: Then, outbox: &mut Outbox<'_>) {
        let stage = self.proceed(busy.request, then, outbox);
        match self.stays_busy(stage, outbox) {
            Some(stage) => {
                busy.stage = stage;
                self.busy = Some(busy);
            }
            None => self.serve(None, busy.queue, outbox),
        }
    }

    /// The stage, unless it is a deliberate mistake not to wait for it.
    fn stays_busy(&mut self, stage: Option<Stage>, outbox: &mut Outbox<'_>) -> Option<Stage> {
        match stage {
            Some(Stage::Installing(page)) if too_early(&page, outbox) => {
                self.settle(page.next, page.frees, outbox);
                None
            }
            stage => stage,
        }
    }

    /// A node has what the home let it have, or the home itself has sent it.
    fn installed(&mut self, from: NodeId, outbox: &mut Outbox<'_>) -> Result<(), Illegal> {
        match self.busy.take() {
            Some(busy) if matches!(&busy.stage, Stage::Installing(page) if page.told_by(outbox.me) == from) =>
            {
                let Busy { stage, queue, .. } = *busy;
                if let Stage::Installing(page) = stage {
                    self.settle(page.next, page.frees, outbox);
                }
                self.serve(None, queue, outbox);
                Ok(())
            }
            // It was on its way when the home asked: what the node has, it says after this.
            Some(busy) if matches!(&busy.stage, Stage::Asking { about, .. } if about.by == from) => {
                self.busy = Some(busy);
                Ok(())
            }
            busy => {
                self.busy = busy;
                stray(outbox, "no answer to this node is under way")
            }
        }
    }

    /// A page has arrived: this is the state now.
    pub(crate) fn settle(
        &mut self,
        state: HomeState,
        frees: Option<Slot>,
        outbox: &mut Outbox<'_>,
    ) {
        self.state = state;
        if let Some(slot) = frees {
            outbox.act(Action::FreeSlot(slot));
        }
    }
}

/// A deliberate mistake: not to wait for the page to be sent, or to arrive.
fn too_early(page: &Install, outbox: &Outbox<'_>) -> bool {
    let not_sent = page.supplier == Some(outbox.me) && mutated!(outbox.rules, SettledBeforeSent);
    not_sent || mutated!(outbox.rules, IdleBeforeInstalled)
}

/// A message that makes no sense now; harmless where a deliberate mistake explains it and must be found by what it does.
fn stray(outbox: &Outbox<'_>, why: &'static str) -> Result<(), Illegal> {
    let explained = mutated!(
        outbox.rules,
        GrantBeforeDrops
            | SkipAcknowledgement
            | IdleBeforeInstalled
            | SettledBeforeSent
            | DemoteBeforeUnmapped
            | EvictWithoutAnswer
    );
    if explained {
        return Ok(());
    }
    Err(Illegal(why))
}

/// What only the model asks.
#[cfg(test)]
impl HomePage {
    fn queued(&self) -> impl Iterator<Item = &Request> {
        self.busy.iter().flat_map(|busy| busy.queue.iter())
    }

    /// Whether a request to be rid of the page waits.
    pub(crate) fn returns_wait(&self) -> bool {
        self.queued().any(|request| request.want == Want::Return)
    }

    /// Whether a request of this node for the right to use the page waits.
    pub(crate) fn access_waits(&self, node: usize) -> bool {
        let its = |request: &Request| request.from.index() == node;
        self.queued()
            .any(|request| its(request) && matches!(request.want, Want::Access(_)))
    }

    /// Whose request for the right to use the page is being served.
    pub(crate) fn serves_access(&self) -> Option<NodeId> {
        let request = self.busy.as_ref()?.request;
        matches!(request.want, Want::Access(_)).then_some(request.from)
    }

    /// Whether the entry names this node as a holder or waits for it.
    pub(crate) fn mentions(&self, node: NodeId) -> bool {
        let held = match &self.state {
            HomeState::Owned(owner) => *owner == node,
            HomeState::Shared(set) | HomeState::Pooled { users: set, .. } => set.contains(node),
            HomeState::Zero | HomeState::Gone => false,
        };
        let awaited = |busy: &Busy| match &busy.stage {
            Stage::Dropping { left, .. } => left.contains(node),
            Stage::Installing(page) => page.by == node || page.supplier == Some(node),
            Stage::Asking { whom, .. } => *whom == node,
        };
        held || self.busy.as_deref().is_some_and(awaited)
            || self.queued().any(|request| request.from == node)
    }
}
