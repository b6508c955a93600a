//! The page as its home sees it: who holds it, which request is being served, which ones wait.

use crate::message::{Access, Action, Demand, Illegal, Message, Slot};
use crate::page::{mutated, Outbox, Rules};
use crate::sharers::Sharers;
use lev_wire::NodeId;
use std::collections::VecDeque;

/// Changes of rights are counted so far even if pages are promoted earlier or never.
const COUNTED: u32 = 2;

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
    /// It lives in this slot of the pool.
    Pooled(Slot),
}

/// The home's entry for one page.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HomePage {
    state: HomeState,
    /// How often rights moved from one node to another.
    changes: u32,
    busy: Option<Box<Busy>>,
}

/// A transaction under way, and the requests behind it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Busy {
    requester: NodeId,
    stage: Stage,
    queue: VecDeque<Request>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// These nodes still have to say [`Message::Dropped`]; then go on.
    Dropping { left: Sharers, then: Then },
    /// The requester still has to say [`Message::Installed`]; then this is the state.
    Installing(HomeState),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Then {
    /// The requester has a copy: allow it to write.
    Grant,
    /// This node sends its copy and drops it.
    Fetch(NodeId),
    /// The contents are in the slot.
    Pool(Slot),
    /// The contents are gone.
    Zero,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Request {
    from: NodeId,
    want: Want,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Want {
    Access(Access),
    Discard,
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

    /// The home itself fills the page with zeroes and owns it, if it is [`HomeState::Zero`] and idle; else nothing
    /// happens and the answer is `false`. For filling in blocks, without messages.
    pub fn claim_zero(&mut self, home: NodeId) -> bool {
        let free = self.state == HomeState::Zero && self.busy.is_none();
        if free {
            self.state = HomeState::Owned(home);
        }
        free
    }

    /// Gives the page to node `to`, which did not ask for it, if it is [`HomeState::Zero`] and idle; else nothing
    /// happens and the answer is `false`. The caller sends [`Message::GiveZero`] before anything else about the page:
    /// then no later demand overtakes it, and the home need not wait for an answer.
    pub fn give_zero(&mut self, to: NodeId, rules: &Rules) -> bool {
        let free = self.state == HomeState::Zero
            && (self.busy.is_none() || mutated!(rules, GiveWhileBusy));
        if free {
            self.state = HomeState::Owned(to);
        }
        free
    }

    /// Makes node `to`, which did not ask, a sharer, if the page is idle, the home has it and `to` has not; else
    /// nothing happens and the answer is `false`. No rights move, so this does not count as a change.
    pub(crate) fn share_ahead(&mut self, to: NodeId, rules: &Rules) -> bool {
        let mut sharers = match &self.state {
            HomeState::Owned(owner) => [*owner].into_iter().collect(),
            HomeState::Shared(sharers) => sharers.clone(),
            HomeState::Zero | HomeState::Pooled(_) => return false,
        };
        if self.busy.is_some() || !sharers.contains(rules.me) || sharers.contains(to) {
            return false;
        }
        if !mutated!(rules, AheadForgetsSharer) {
            sharers.insert(to);
        }
        self.state = HomeState::Shared(sharers);
        true
    }

    /// A message from node `from`.
    pub(crate) fn receive(
        &mut self,
        from: NodeId,
        message: Message,
        outbox: &mut Outbox<'_>,
    ) -> Result<(), Illegal> {
        match message {
            Message::Get(access) => self.request(
                Request {
                    from,
                    want: Want::Access(access),
                },
                outbox,
            ),
            Message::Discard => self.request(
                Request {
                    from,
                    want: Want::Discard,
                },
                outbox,
            ),
            Message::Dropped => return self.dropped(from, outbox),
            Message::Installed => return self.installed(from, outbox),
            _ => return Err(Illegal("message that a home does not take")),
        }
        Ok(())
    }

    fn request(&mut self, request: Request, outbox: &mut Outbox<'_>) {
        match self.busy.as_mut() {
            Some(busy) => {
                if !mutated!(outbox.rules, ForgetQueued) {
                    busy.queue.push_back(request);
                }
                outbox.act(Action::Queued);
            }
            None => self.serve(Some(request), VecDeque::new(), outbox),
        }
    }

    /// Serves requests until one has to wait for somebody.
    fn serve(
        &mut self,
        first: Option<Request>,
        mut queue: VecDeque<Request>,
        outbox: &mut Outbox<'_>,
    ) {
        let mut next = first.or_else(|| queue.pop_front());
        while let Some(request) = next {
            let stage = match request.want {
                Want::Discard => self.discard(request.from, outbox),
                Want::Access(access) => self.grant(request.from, access, outbox),
            };
            if let Some(stage) = stage {
                self.busy = Some(Box::new(Busy {
                    requester: request.from,
                    stage,
                    queue,
                }));
                return;
            }
            next = queue.pop_front();
        }
    }

    /// Starts a discard; `None`: finished at once.
    fn discard(&mut self, from: NodeId, outbox: &mut Outbox<'_>) -> Option<Stage> {
        let left = match &self.state {
            HomeState::Zero => Sharers::default(),
            HomeState::Pooled(slot) => {
                outbox.act(Action::ZeroSlot(*slot));
                Sharers::default()
            }
            HomeState::Owned(owner) => drop_all([*owner], outbox),
            HomeState::Shared(sharers) => drop_all(sharers.iter(), outbox),
        };
        if left.is_empty() {
            outbox.send(from, Message::Discarded);
            return None;
        }
        Some(Stage::Dropping {
            left,
            then: Then::Zero,
        })
    }

    /// Starts a read or write; `None`: finished at once.
    fn grant(&mut self, from: NodeId, access: Access, outbox: &mut Outbox<'_>) -> Option<Stage> {
        if let Some(stage) = self.promote(from, access, outbox) {
            return Some(stage);
        }
        match (&self.state, access) {
            (HomeState::Zero, _) => {
                outbox.send(from, Message::GrantZero);
                Some(Stage::Installing(HomeState::Owned(from)))
            }
            (HomeState::Pooled(slot), _) => {
                outbox.send(from, Message::UsePool(*slot));
                None
            }
            (HomeState::Owned(owner), _) if *owner == from => {
                outbox.send(from, Message::Grant(Access::Write));
                Some(Stage::Installing(self.state.clone()))
            }
            (HomeState::Owned(owner), _) => {
                outbox.send(*owner, Message::Demand(Demand::Fetch { to: from, access }));
                Some(Stage::Installing(match access {
                    Access::Read => HomeState::Shared([*owner, from].into_iter().collect()),
                    Access::Write => HomeState::Owned(from),
                }))
            }
            (HomeState::Shared(sharers), Access::Read) => {
                let mut sharers = sharers.clone();
                if sharers.contains(from) {
                    outbox.send(from, Message::Grant(Access::Read));
                } else {
                    outbox.send(
                        supplier(&sharers, outbox.me),
                        Message::Demand(Demand::Fetch { to: from, access }),
                    );
                    sharers.insert(from);
                }
                Some(Stage::Installing(HomeState::Shared(sharers)))
            }
            (HomeState::Shared(sharers), Access::Write) => {
                let keeps_copy = sharers.contains(from) || mutated!(outbox.rules, TrustOldCopy);
                let (spared, then) = if keeps_copy {
                    (from, Then::Grant)
                } else {
                    let supplier = supplier(sharers, outbox.me);
                    (supplier, Then::Fetch(supplier))
                };
                let left = drop_all(sharers.iter().filter(|node| *node != spared), outbox);
                if left.is_empty() || mutated!(outbox.rules, GrantBeforeDrops) {
                    return self.proceed(from, then, outbox);
                }
                Some(Stage::Dropping { left, then })
            }
        }
    }

    /// Counts a change of rights; after enough of them starts to collect the page into the pool.
    fn promote(&mut self, from: NodeId, access: Access, outbox: &mut Outbox<'_>) -> Option<Stage> {
        let takes_rights = match &self.state {
            HomeState::Zero | HomeState::Pooled(_) => false,
            HomeState::Owned(owner) => *owner != from,
            HomeState::Shared(sharers) => {
                access == Access::Write && (sharers.len() > 1 || !sharers.contains(from))
            }
        };
        if !takes_rights {
            return None;
        }
        let limit = outbox.rules.promote_after;
        self.changes = (self.changes + 1).min(limit.max(COUNTED));
        if limit == 0 || self.changes < limit {
            return None;
        }
        let slot = outbox.take_slot()?;
        let (supplier, mut left) = match &self.state {
            HomeState::Owned(owner) => (*owner, Sharers::default()),
            HomeState::Shared(sharers) => {
                let supplier = supplier(sharers, outbox.me);
                let keep = mutated!(outbox.rules, PromoteKeepsSharers);
                (
                    supplier,
                    drop_all(
                        sharers.iter().filter(|node| *node != supplier && !keep),
                        outbox,
                    ),
                )
            }
            HomeState::Zero | HomeState::Pooled(_) => return None,
        };
        outbox.send(supplier, Message::Demand(Demand::Collect(slot)));
        left.insert(supplier);
        Some(Stage::Dropping {
            left,
            then: Then::Pool(slot),
        })
    }

    /// A holder has no copy any more.
    fn dropped(&mut self, from: NodeId, outbox: &mut Outbox<'_>) -> Result<(), Illegal> {
        let Some(Busy {
            requester,
            stage: Stage::Dropping { left, then },
            ..
        }) = self.busy.as_deref_mut()
        else {
            if mutated!(outbox.rules, GrantBeforeDrops) {
                return Ok(());
            }
            return Err(Illegal("nobody was asked to drop this page"));
        };
        if !left.contains(from) {
            return Err(Illegal("this node was not asked to drop the page"));
        }
        left.remove(from);
        if !left.is_empty() {
            return Ok(());
        }
        let (requester, then) = (*requester, *then);
        let stage = self.proceed(requester, then, outbox);
        match (stage, self.busy.take()) {
            (Some(stage), Some(mut busy)) => {
                busy.stage = stage;
                self.busy = Some(busy);
            }
            (None, Some(busy)) => self.serve(None, busy.queue, outbox),
            (_, None) => {}
        }
        Ok(())
    }

    /// All others have dropped their copies.
    fn proceed(&mut self, requester: NodeId, then: Then, outbox: &mut Outbox<'_>) -> Option<Stage> {
        match then {
            Then::Grant => outbox.send(requester, Message::Grant(Access::Write)),
            Then::Fetch(supplier) => {
                let demand = Demand::Fetch {
                    to: requester,
                    access: Access::Write,
                };
                outbox.send(supplier, Message::Demand(demand));
            }
            Then::Pool(slot) => {
                self.state = HomeState::Pooled(slot);
                outbox.act(Action::Promoted(slot));
                outbox.send(requester, Message::UsePool(slot));
                return None;
            }
            Then::Zero => {
                self.state = HomeState::Zero;
                outbox.act(Action::Zeroed);
                outbox.send(requester, Message::Discarded);
                return None;
            }
        }
        if mutated!(outbox.rules, IdleBeforeInstalled) {
            self.state = HomeState::Owned(requester);
            return None;
        }
        Some(Stage::Installing(HomeState::Owned(requester)))
    }

    /// The requester has what it asked for.
    fn installed(&mut self, from: NodeId, outbox: &mut Outbox<'_>) -> Result<(), Illegal> {
        if mutated!(outbox.rules, IdleBeforeInstalled) && self.busy.is_none() {
            return Ok(());
        }
        match self.busy.take() {
            Some(busy) if busy.requester == from && matches!(busy.stage, Stage::Installing(_)) => {
                let Busy { stage, queue, .. } = *busy;
                if let Stage::Installing(state) = stage {
                    self.state = state;
                }
                self.serve(None, queue, outbox);
                Ok(())
            }
            busy => {
                self.busy = busy;
                Err(Illegal("no answer to this node is under way"))
            }
        }
    }
}

/// Asks the nodes to drop their copies; returns them.
fn drop_all(nodes: impl IntoIterator<Item = NodeId>, outbox: &mut Outbox<'_>) -> Sharers {
    nodes
        .into_iter()
        .inspect(|node| outbox.send(*node, Message::Demand(Demand::Drop)))
        .collect()
}

/// The sharer that sends the page: the home if it can, because that saves a message.
fn supplier(sharers: &Sharers, home: NodeId) -> NodeId {
    if sharers.contains(home) {
        return home;
    }
    sharers.iter().next().unwrap_or(home) // never empty: see `HomeState::Shared`
}
