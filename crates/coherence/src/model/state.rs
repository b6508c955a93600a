//! What there is in the model, and what an action of the protocol does to it.

use super::{Cluster, Keeper};
use crate::{
    Access, Action, Demand, HomePage, Illegal, Message, NodePage, NodeState, Page, Rules, Slot,
    Surroundings,
};
use lev_wire::NodeId;
use std::collections::VecDeque;

/// A copy in a node's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Copy {
    pub(crate) writable: bool,
    /// The bytes are what was written last.
    pub(crate) fresh: bool,
}

/// One page on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Held {
    pub(crate) page: NodePage,
    pub(crate) copy: Option<Copy>,
    pub(crate) deferred: Vec<Demand>,
    pub(crate) discarding: bool,
    /// The slot is in the place of the page.
    pub(crate) mapped: bool,
    /// What an event left to be done: the node does one after the other, and others do not wait for it.
    pub(crate) todo: VecDeque<Action>,
    /// What was read for sending.
    read: Option<Copy>,
    /// The bytes that came with the event are what was written last.
    received_fresh: bool,
}

/// A message on its way; `fresh` concerns the bytes beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Flight {
    pub(crate) page: usize,
    pub(crate) message: Message,
    pub(crate) fresh: bool,
}

/// What is known of a page nowhere but in the model, or at its home.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Whole {
    pub(crate) entry: HomePage,
    /// The page's slot is free, or: are its bytes what was written last?
    pub(crate) slot: Option<bool>,
    /// Zeroes are what was written last.
    pub(crate) zero_fresh: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    /// `held[node][page]`.
    pub(crate) held: Vec<Vec<Held>>,
    pub(crate) whole: Vec<Whole>,
    /// `channels[from][to]`.
    pub(crate) channels: Vec<Vec<VecDeque<Flight>>>,
    /// The node that was lost, and for each node whether it knows.
    pub(crate) lost: Option<usize>,
    pub(crate) knows: Vec<bool>,
    pub(crate) broken: Option<&'static str>,
}

/// What surrounds one event.
#[derive(Clone, Copy)]
pub(crate) struct Ask {
    pub(crate) held: bool,
    slot_free: bool,
    pub(crate) keeper: Keeper,
    at: usize,
    nodes: usize,
    lost: Option<usize>,
}

impl Surroundings for Ask {
    fn held(&mut self) -> bool {
        self.held
    }

    fn take_slot(&mut self) -> Option<Slot> {
        std::mem::take(&mut self.slot_free).then_some(0)
    }

    fn keeper(&mut self, holder: NodeId) -> Option<NodeId> {
        let fits = |node: &usize| Some(*node) != self.lost && *node != holder.index();
        match self.keeper {
            Keeper::Nobody => None,
            Keeper::Home => Some(self.at).filter(fits),
            Keeper::Other => (0..self.nodes)
                .rev()
                .filter(|node| *node != self.at)
                .find(fits),
        }
        .map(|node| NodeId(node as u16))
    }

    fn is_lost(&self, node: NodeId) -> bool {
        self.lost == Some(node.index())
    }
}

impl State {
    pub(crate) fn new(cluster: &Cluster) -> Self {
        let pages = cluster.homes.len();
        let mut held = vec![vec![Held::default(); pages]; cluster.nodes];
        let mut entry = HomePage::default();
        if let Some(owner) = cluster.populated_on {
            for page in &mut held[owner] {
                page.page.state = NodeState::Exclusive;
                page.copy = Some(Copy {
                    writable: true,
                    fresh: true,
                });
            }
            entry = HomePage::owned_by(NodeId(owner as u16));
        }
        let whole = Whole {
            entry,
            slot: None,
            zero_fresh: cluster.populated_on.is_none(),
        };
        Self {
            held,
            whole: vec![whole; pages],
            channels: vec![vec![VecDeque::new(); cluster.nodes]; cluster.nodes],
            lost: None,
            knows: vec![false; cluster.nodes],
            broken: None,
        }
    }

    pub(crate) fn rules(cluster: &Cluster, at: usize) -> Rules {
        let mut rules = Rules::new(NodeId(at as u16), cluster.promote_after);
        rules.mutation = cluster.mutation;
        rules.migratory = cluster.migratory;
        rules
    }

    /// Runs one event of a page on node `at`; `fresh`: the bytes that came with it.
    pub(crate) fn run(
        &mut self,
        cluster: &Cluster,
        (at, page): (usize, usize),
        (held, keeper, fresh): (bool, Keeper, bool),
        event: impl FnOnce(&mut Page<'_>, &mut Ask, &mut Vec<Action>) -> Result<(), Illegal>,
    ) {
        let rules = Self::rules(cluster, at);
        let mut ask = Ask {
            held,
            slot_free: self.whole[page].slot.is_none(),
            keeper,
            at,
            nodes: cluster.nodes,
            lost: self.lost.filter(|_| self.knows[at]),
        };
        let mut actions = Vec::new();
        let home = cluster.home(page);
        let mut here = Page {
            rules: &rules,
            home,
            node: &mut self.held[at][page].page,
            entry: (at == home.index()).then_some(&mut self.whole[page].entry),
        };
        if let Err(illegal) = event(&mut here, &mut ask, &mut actions) {
            self.broken = Some(illegal.0);
            return;
        }
        let held = &mut self.held[at][page];
        held.todo = actions.into();
        held.received_fresh = fresh && !held.todo.is_empty();
        self.go_on(at, page);
    }

    /// Does what an event left to be done, up to a point where it matters what others do in between.
    pub(crate) fn go_on(&mut self, at: usize, page: usize) {
        while let Some(action) = self.held[at][page].todo.pop_front() {
            self.act(at, page, action);
            let held = &self.held[at][page];
            if pauses_after(action, held) && held.todo.iter().any(touches_memory) {
                return;
            }
        }
        let held = &mut self.held[at][page];
        (held.read, held.received_fresh) = (None, false);
    }

    /// Whether the node still carries out an event of the page: its lock is taken.
    pub(crate) fn is_locked(&self, at: usize, page: usize) -> bool {
        !self.held[at][page].todo.is_empty()
    }

    pub(crate) fn push(&mut self, from: usize, to: NodeId, flight: Flight) {
        if self.lost != Some(to.index()) {
            self.channels[from][to.index()].push_back(flight);
        }
    }

    pub(crate) fn act(&mut self, at: usize, page: usize, action: Action) {
        let zero_fresh = self.whole[page].zero_fresh;
        let held = &mut self.held[at][page];
        let mut broken = None;
        match action {
            Action::Send(to, message) => {
                let fresh = zero_fresh;
                self.push(
                    at,
                    to,
                    Flight {
                        page,
                        message,
                        fresh,
                    },
                );
            }
            Action::Read => {
                held.read = held.copy;
                broken = held.copy.is_none().then_some("page read while absent");
            }
            Action::SendPage(to, _) | Action::SendAhead(to) | Action::SendKeep(to) => {
                let message = carrier(action);
                match held.read {
                    Some(Copy { fresh, .. }) => self.push(
                        at,
                        to,
                        Flight {
                            page,
                            message,
                            fresh,
                        },
                    ),
                    None => broken = Some("page sent that was not read"),
                }
            }
            Action::Protect | Action::Unprotect => match held.copy.as_mut() {
                Some(copy) => copy.writable = action == Action::Unprotect,
                None => broken = Some("protection of an absent page"),
            },
            Action::Drop => {
                let none = held.copy.take().is_none();
                broken = none.then_some("drop of an absent page");
            }
            Action::InstallReceived(access) => {
                let fresh = held.received_fresh;
                broken = held.install(access == Access::Write, fresh);
            }
            Action::InstallZero => broken = held.install(true, zero_fresh),
            Action::InstallSlot(_) => match self.whole[page].slot {
                Some(fresh) => broken = held.install(true, fresh),
                None => broken = Some("contents taken from a free slot"),
            },
            Action::CopyToSlot(_) => match held.copy {
                Some(Copy { fresh, .. }) => self.whole[page].slot = Some(fresh),
                None => broken = Some("page collected while absent"),
            },
            Action::MapSlot(_) => {
                held.mapped = true;
                broken = held.copy.is_some().then_some("slot mapped over a copy");
            }
            Action::UnmapSlot(_) => held.mapped = false,
            Action::FreeSlot(_) => {
                let none = self.whole[page].slot.take().is_none();
                broken = none.then_some("a slot freed twice");
            }
            Action::ZeroSlot(_) => {
                self.whole[page].slot = Some(true); // the contents are zero from now on: the last write
            }
            Action::DiscardDone => held.discarding = false,
            Action::Defer(demand) => held.deferred.push(demand),
            Action::Zeroed => self.whole[page].zero_fresh = true, // a discard counts as a write of zeroes
            Action::Wake
            | Action::Promoted(_)
            | Action::Demoted(_)
            | Action::Queued
            | Action::LentToWrite
            | Action::Fail => {}
        }
        self.broken = self.broken.or(broken);
    }

    /// Node `at` writes: every other copy is old now.
    pub(crate) fn write(&mut self, at: usize, page: usize) {
        for (index, pages) in self.held.iter_mut().enumerate() {
            let held = &mut pages[page];
            if let Some(copy) = held.copy.as_mut() {
                copy.fresh = index == at;
            }
            if let Some(read) = held.read.as_mut() {
                read.fresh = false;
            }
            held.received_fresh = false;
        }
        for flight in self.channels.iter_mut().flatten().flatten() {
            flight.fresh &= flight.page != page;
        }
        let pooled = self.held[at][page].mapped;
        let whole = &mut self.whole[page];
        whole.zero_fresh = false;
        whole.slot = whole.slot.map(|_| pooled);
    }

    /// Node `gone` is not there any more. What it has sent may still arrive.
    pub(crate) fn crash(&mut self, cluster: &Cluster, gone: usize) {
        self.lost = Some(gone);
        self.held[gone]
            .iter_mut()
            .for_each(|page| *page = Held::default());
        self.channels.iter_mut().for_each(|row| row[gone].clear());
        for page in (0..cluster.homes.len()).filter(|page| cluster.homes[*page] == gone) {
            self.whole[page].entry = HomePage::default();
        }
    }

    /// Node `at` gets to know of the loss: it takes no more frames of the lost node.
    pub(crate) fn notice(&mut self, cluster: &Cluster, at: usize) {
        let Some(lost) = self.lost.filter(|_| !self.knows[at]) else {
            return;
        };
        self.knows[at] = true;
        self.channels[lost][at].clear();
        for page in 0..cluster.homes.len() {
            self.run(
                cluster,
                (at, page),
                (false, Keeper::Nobody, false),
                |page, ask, actions| page.lost(NodeId(lost as u16), ask, actions),
            );
            if cluster.homes[page] == lost {
                self.held[at][page].discarding = false; // who waits for it is told, by page and not by message
            }
        }
    }
}

impl Held {
    fn install(&mut self, writable: bool, fresh: bool) -> Option<&'static str> {
        let twice = self.copy.is_some().then_some("page installed twice");
        self.copy = Some(Copy { writable, fresh });
        twice
    }
}

/// The message beside which a page travels.
fn carrier(action: Action) -> Message {
    let zero = false;
    match action {
        Action::SendPage(_, access) => Message::Contents { access, zero },
        Action::SendKeep(_) => Message::Keep { zero },
        _ => Message::ReadAhead { zero },
    }
}

/// Whether others, or threads of the node itself, may do something now that matters for the rest of the event.
fn pauses_after(action: Action, held: &Held) -> bool {
    match action {
        Action::Read | Action::CopyToSlot(_) => held.copy.is_some_and(|copy| copy.writable),
        Action::Send(..) | Action::SendPage(..) | Action::SendKeep(_) | Action::SendAhead(_) => {
            true
        }
        _ => false,
    }
}

fn touches_memory(action: &Action) -> bool {
    !matches!(
        action,
        Action::Send(..)
            | Action::SendPage(..)
            | Action::SendKeep(_)
            | Action::SendAhead(_)
            | Action::Defer(_)
            | Action::DiscardDone
            | Action::Promoted(_)
            | Action::Demoted(_)
            | Action::Queued
            | Action::LentToWrite
            | Action::Wake
            | Action::Fail
    )
}
