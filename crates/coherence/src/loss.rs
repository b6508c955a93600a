//! What the loss of a node means for the pages of the others' homes.
//!
//! What the lost node alone had is gone. Whatever it was to say is not waited for. Only a page that was on its way from
//! it or to it needs a question: the node at the other end says what it has, after it has stopped to take frames of the
//! lost one and to send it pages. Channels keep their order, so that its word is the last one.

use crate::home::{HomePage, HomeState, Install, Stage, Then, Want};
use crate::message::{Access, Message};
use crate::page::{mutated, Outbox, Rules};
use crate::sharers::Sharers;
use lev_wire::NodeId;

impl HomePage {
    /// Node `lost` is lost.
    pub(crate) fn lost(&mut self, lost: NodeId, outbox: &mut Outbox<'_>) {
        without(&mut self.state, lost, outbox.rules);
        let Some(mut busy) = self.busy.take() else {
            return;
        };
        busy.queue.retain(|request| request.from != lost);
        match &mut busy.stage {
            Stage::Dropping { left, then } => {
                let filled_slot = matches!(then, Then::Pool { from, .. } if *from != lost || !left.contains(lost));
                match then {
                    Then::Fetch(supplier) if *supplier == lost => *then = Then::Gone,
                    // The slot is not given out again: nobody knows how long the lost node goes on writing it.
                    Then::Pool { .. } if !filled_slot => *then = Then::Gone,
                    Then::Become(state) => without(state, lost, outbox.rules),
                    _ => {}
                }
                if !mutated!(outbox.rules, LostStillAwaited) {
                    left.remove(lost);
                }
                if left.is_empty() {
                    let then = then.clone();
                    return self.go_on(busy, then, outbox);
                }
            }
            Stage::Installing(page) if page.by == lost || page.supplier == Some(lost) => {
                if mutated!(outbox.rules, LostRequesterAwaited) {
                    self.busy = Some(busy);
                    return;
                }
                let other = if page.by == lost {
                    page.supplier.filter(|node| *node != lost)
                } else {
                    Some(page.by)
                };
                match other {
                    Some(whom) if !mutated!(outbox.rules, LostUnasked) => {
                        outbox.send(whom, Message::Ask { lost });
                        let about = page.clone();
                        busy.stage = Stage::Asking { whom, about };
                    }
                    _ => {
                        let (mut next, frees) = (page.next.clone(), page.frees);
                        without(&mut next, lost, outbox.rules);
                        self.settle(next, frees, outbox);
                        return self.serve(None, busy.queue, outbox);
                    }
                }
            }
            Stage::Installing(page) => without(&mut page.next, lost, outbox.rules),
            Stage::Asking { whom, .. } if *whom == lost => {
                self.busy = Some(busy);
                return self.have(lost, None, outbox);
            }
            Stage::Asking { about, .. } => {
                if let HomeState::Shared(sharers) = &mut about.next {
                    sharers.remove(lost);
                }
            }
        }
        self.busy = Some(busy);
    }

    /// Node `from` says what it has of a page that was on its way between it and a lost node.
    pub(crate) fn have(&mut self, from: NodeId, access: Option<Access>, outbox: &mut Outbox<'_>) {
        match self.busy.take() {
            Some(busy) if matches!(&busy.stage, Stage::Asking { whom, .. } if *whom == from) => {
                let Stage::Asking { whom, about } = &busy.stage else {
                    return;
                };
                let arrived = *whom == about.by && access.is_some();
                let (state, frees) = (found(*whom, about, access), about.frees);
                if state == HomeState::Gone {
                    self.gone(busy.request, outbox);
                    return self.serve(None, busy.queue, outbox);
                }
                // Who asked and got nothing yet, although others have the page, is served again.
                let again = (*whom == about.by && !arrived).then_some(busy.request);
                let again = again.filter(|request| matches!(request.want, Want::Access(_)));
                self.settle(state, frees, outbox);
                self.serve(again, busy.queue, outbox);
            }
            busy => self.busy = busy, // an answer that nobody needs any more
        }
    }
}

/// The state of a page of which `whom` has `access` after it was on its way as `about` says.
fn found(whom: NodeId, about: &Install, access: Option<Access>) -> HomeState {
    let mut others = match &about.next {
        HomeState::Shared(sharers) => sharers.clone(),
        _ => Sharers::default(),
    };
    let lost = if whom == about.by {
        about.supplier
    } else {
        Some(about.by)
    };
    if let Some(lost) = lost {
        others.remove(lost);
    }
    others.remove(whom);
    match access {
        Some(Access::Write) => HomeState::Owned(whom),
        Some(Access::Read) => {
            others.insert(whom);
            HomeState::Shared(others)
        }
        None if others.is_empty() => HomeState::Gone,
        None => HomeState::Shared(others),
    }
}

/// Strikes a lost node.
fn without(state: &mut HomeState, lost: NodeId, rules: &Rules) {
    match state {
        HomeState::Owned(owner) if *owner == lost => {
            *state = if mutated!(rules, LostOwnerIsZero) {
                HomeState::Zero
            } else {
                HomeState::Gone
            };
        }
        HomeState::Shared(sharers) if !mutated!(rules, LostStaysSharer) => {
            sharers.remove(lost);
            if sharers.is_empty() {
                *state = HomeState::Gone;
            }
        }
        HomeState::Pooled { users, .. } => users.remove(lost),
        _ => {}
    }
}
