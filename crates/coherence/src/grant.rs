//! What the home does for a request: whom it asks for what, and what it does when they have done it.

use crate::home::{HomePage, HomeState, Install, Request, Stage, Then, Want};
use crate::message::{Access, Action, Demand, Message};
use crate::page::{mutated, Outbox};
use crate::sharers::Sharers;
use lev_wire::NodeId;

/// Changes of rights are counted so far even if pages are promoted earlier or never.
const COUNTED: u32 = 2;

impl HomePage {
    /// Starts to serve a request; `None`: finished at once.
    pub(crate) fn begin(&mut self, request: Request, outbox: &mut Outbox<'_>) -> Option<Stage> {
        let from = request.from;
        match request.want {
            Want::Access(access) => self.grant(request, access, outbox),
            Want::Discard => self.discard(request, outbox),
            Want::Return => self.give_back(from, outbox),
            Want::Demote => self.leave_pool(request, outbox),
        }
    }

    fn discard(&mut self, request: Request, outbox: &mut Outbox<'_>) -> Option<Stage> {
        let left = match &self.state {
            HomeState::Zero => {
                outbox.send(request.from, Message::Discarded);
                return None;
            }
            HomeState::Pooled { slot, .. } => {
                outbox.act(Action::ZeroSlot(*slot));
                outbox.send(request.from, Message::Discarded);
                return None;
            }
            HomeState::Gone => Sharers::default(),
            HomeState::Owned(owner) => drop_all([*owner], outbox),
            HomeState::Shared(sharers) => drop_all(sharers.iter(), outbox),
        };
        self.wait_for(request, left, Then::Zero, outbox)
    }

    /// Goes on with `then` as soon as `left` have dropped their copies.
    fn wait_for(
        &mut self,
        request: Request,
        left: Sharers,
        then: Then,
        outbox: &mut Outbox<'_>,
    ) -> Option<Stage> {
        if left.is_empty() {
            return self.proceed(request, then, outbox);
        }
        Some(Stage::Dropping { left, then })
    }

    fn grant(
        &mut self,
        request: Request,
        access: Access,
        outbox: &mut Outbox<'_>,
    ) -> Option<Stage> {
        if let Some(stage) = self.promote(request.from, access, outbox) {
            return Some(stage);
        }
        let from = request.from;
        match (&mut self.state, access) {
            (HomeState::Zero, _) => {
                outbox.send(from, Message::GrantZero);
                self.state = HomeState::Owned(from);
                None
            }
            (HomeState::Pooled { slot, users }, _) => {
                if !mutated!(outbox.rules, PoolForgetsUser) {
                    users.insert(from);
                }
                outbox.send(from, Message::UsePool(*slot));
                None
            }
            (HomeState::Gone, _) => {
                outbox.send(from, Message::Failed);
                None
            }
            (HomeState::Owned(owner), _) if *owner == from => {
                outbox.send(from, Message::Grant(Access::Write));
                None
            }
            (HomeState::Owned(owner), _) => {
                let lend = access == Access::Read && self.habit.is_migratory();
                let access = if lend { Access::Write } else { access };
                if lend {
                    // First: who counts it must not be behind what the message causes.
                    outbox.act(Action::LentToWrite);
                } else if access == Access::Read {
                    self.habit.read(from, true, outbox.rules);
                }
                outbox.send(*owner, Message::Demand(Demand::Fetch { to: from, access }));
                let next = match access {
                    _ if lend && mutated!(outbox.rules, LentUnrecorded) => {
                        HomeState::Shared([*owner, from].into_iter().collect())
                    }
                    Access::Read if mutated!(outbox.rules, ForgetReader) => {
                        HomeState::Shared([*owner].into_iter().collect())
                    }
                    Access::Read => HomeState::Shared([*owner, from].into_iter().collect()),
                    Access::Write => HomeState::Owned(from),
                };
                Some(installing(from, *owner, next))
            }
            (HomeState::Shared(sharers), Access::Read) => {
                let mut sharers = sharers.clone();
                if sharers.contains(from) {
                    outbox.send(from, Message::Grant(Access::Read));
                    return None;
                }
                self.habit.read(from, false, outbox.rules);
                let supplier = supplier(&sharers, outbox.me);
                outbox.send(
                    supplier,
                    Message::Demand(Demand::Fetch { to: from, access }),
                );
                sharers.insert(from);
                Some(installing(from, supplier, HomeState::Shared(sharers)))
            }
            (HomeState::Shared(sharers), Access::Write) => {
                let keeps_copy = sharers.contains(from) || mutated!(outbox.rules, TrustOldCopy);
                self.habit.upgraded(from);
                let (spared, then) = if keeps_copy {
                    (from, Then::Grant)
                } else {
                    let supplier = supplier(sharers, outbox.me);
                    (supplier, Then::Fetch(supplier))
                };
                let left = drop_all(sharers.iter().filter(|node| *node != spared), outbox);
                if mutated!(outbox.rules, GrantBeforeDrops) {
                    return self.proceed(request, then, outbox);
                }
                self.wait_for(request, left, then, outbox)
            }
        }
    }

    /// Counts a change of rights; after enough of them starts to collect the page into the pool.
    fn promote(&mut self, from: NodeId, access: Access, outbox: &mut Outbox<'_>) -> Option<Stage> {
        let takes_rights = match &self.state {
            HomeState::Zero | HomeState::Pooled { .. } | HomeState::Gone => false,
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
                let others = sharers.iter().filter(|node| *node != supplier && !keep);
                (supplier, drop_all(others, outbox))
            }
            HomeState::Zero | HomeState::Pooled { .. } | HomeState::Gone => return None,
        };
        outbox.send(supplier, Message::Demand(Demand::Collect(slot)));
        left.insert(supplier);
        let then = Then::Pool {
            slot,
            from: supplier,
        };
        Some(Stage::Dropping { left, then })
    }

    /// Node `from` would rather not keep its copy. If it has none any more, another request was faster.
    fn give_back(&mut self, from: NodeId, outbox: &mut Outbox<'_>) -> Option<Stage> {
        match &self.state {
            HomeState::Owned(owner) if *owner == from => {}
            HomeState::Shared(sharers) if sharers.contains(from) => {
                let mut rest = sharers.clone();
                rest.remove(from);
                if !rest.is_empty() || mutated!(outbox.rules, LastCopyDropped) {
                    if mutated!(outbox.rules, ReturnKeepsSharer) {
                        rest.insert(from);
                    }
                    outbox.send(from, Message::Stay);
                    let left = drop_all([from], outbox);
                    let then = Then::Become(HomeState::Shared(rest));
                    return Some(Stage::Dropping { left, then });
                }
            }
            _ => {
                outbox.send(from, Message::Stay);
                return None;
            }
        }
        let Some(keeper) = outbox.keeper(from) else {
            if !mutated!(outbox.rules, NoRoomNoAnswer) {
                outbox.send(from, Message::Stay);
            }
            return None;
        };
        outbox.send(from, Message::Demand(Demand::Evict { to: keeper }));
        if mutated!(outbox.rules, EvictWithoutAnswer) {
            self.state = HomeState::Owned(keeper);
            return None;
        }
        Some(installing(keeper, from, HomeState::Owned(keeper)))
    }

    fn leave_pool(&mut self, request: Request, outbox: &mut Outbox<'_>) -> Option<Stage> {
        let HomeState::Pooled { slot, users } = &self.state else {
            return None;
        };
        let (slot, left) = (*slot, users.clone());
        for user in left.iter() {
            outbox.send(user, Message::Demand(Demand::Leave(slot)));
        }
        if mutated!(outbox.rules, DemoteBeforeUnmapped) {
            return self.proceed(request, Then::Demote(slot), outbox);
        }
        self.wait_for(request, left, Then::Demote(slot), outbox)
    }

    /// All that had to drop their copies have done so; `None`: the request is served.
    pub(crate) fn proceed(
        &mut self,
        request: Request,
        then: Then,
        outbox: &mut Outbox<'_>,
    ) -> Option<Stage> {
        let from = request.from;
        let there = !outbox.is_lost(from);
        match then {
            Then::Grant if there => {
                outbox.send(from, Message::Grant(Access::Write));
                if !mutated!(outbox.rules, GrantUnrecorded) {
                    self.state = HomeState::Owned(from);
                }
                None
            }
            Then::Fetch(supplier) if there => {
                let access = Access::Write;
                let demand = Demand::Fetch { to: from, access };
                outbox.send(supplier, Message::Demand(demand));
                Some(installing(from, supplier, HomeState::Owned(from)))
            }
            Then::Fetch(supplier) => {
                self.state = HomeState::Shared([supplier].into_iter().collect());
                None
            }
            Then::Pool { slot, .. } => {
                let users = [from].into_iter().filter(|_| there);
                self.state = HomeState::Pooled {
                    slot,
                    users: users.collect(),
                };
                outbox.act(Action::Promoted(slot));
                outbox.send(from, Message::UsePool(slot));
                None
            }
            Then::Zero => {
                self.state = HomeState::Zero;
                outbox.act(Action::Zeroed);
                outbox.send(from, Message::Discarded);
                None
            }
            Then::Become(state) => {
                self.state = state;
                None
            }
            Then::Demote(slot) => {
                self.changes = 0;
                outbox.act(Action::Demoted(slot));
                if mutated!(outbox.rules, SlotFreedEarly) {
                    outbox.act(Action::FreeSlot(slot));
                }
                outbox.send(outbox.me, Message::KeepSlot(slot));
                Some(Stage::Installing(Install {
                    by: outbox.me,
                    supplier: None,
                    next: HomeState::Owned(outbox.me),
                    frees: Some(slot),
                }))
            }
            Then::Gone | Then::Grant => {
                self.gone(request, outbox);
                None
            }
        }
    }

    /// The contents were lost with a node; who asked for them is told.
    pub(crate) fn gone(&mut self, request: Request, outbox: &mut Outbox<'_>) {
        self.state = HomeState::Gone;
        if matches!(request.want, Want::Access(_)) && !mutated!(outbox.rules, LossNotTold) {
            outbox.send(request.from, Message::Failed);
        }
    }
}

fn installing(by: NodeId, supplier: NodeId, next: HomeState) -> Stage {
    Stage::Installing(Install {
        by,
        supplier: Some(supplier),
        next,
        frees: None,
    })
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
