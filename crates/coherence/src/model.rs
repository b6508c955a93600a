//! The protocol as a model for exhaustive exploration: one page, a few nodes, channels that keep their order.
//!
//! Contents are modelled exactly by one bit per copy: is it what was written last? A write makes every other copy,
//! pages in flight included, old. That keeps the number of states finite without a bound on the number of writes.

use crate::{
    Access, Action, Demand, HomePage, HomeState, Message, Mutation, NodePage, NodeState, Page,
    Rules, Slot, Surroundings,
};
use lev_wire::NodeId;
use stateright::{Model, Property};
use std::collections::VecDeque;

/// The page's home in the model.
const HOME: NodeId = NodeId(0);

/// What is explored.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) nodes: usize,
    /// 0: no pool.
    pub(crate) promote_after: u32,
    /// So many nodes, the last ones, may discard the page.
    pub(crate) discards: usize,
    /// Holders may put demands off.
    pub(crate) holds: bool,
    /// The home gives away copies that nobody asked for, at any time that the protocol allows: as if a neighbour of the
    /// page had just been asked for. Other pages matter in no other way, so that one page is enough to explore.
    pub(crate) unasked: bool,
    /// The page has contents at first, owned by this node.
    pub(crate) populated_on: Option<usize>,
    pub(crate) mutation: Option<Mutation>,
}

/// A copy in a node's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Copy {
    writable: bool,
    /// The bytes are what was written last.
    fresh: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Node {
    page: NodePage,
    copy: Option<Copy>,
    deferred: Option<Demand>,
    discarding: bool,
}

/// A message on its way; `fresh` concerns the bytes of [`Message::Contents`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Flight {
    message: Message,
    fresh: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    nodes: Vec<Node>,
    entry: HomePage,
    /// `channels[from][to]`.
    channels: Vec<Vec<VecDeque<Flight>>>,
    /// The slot is free, or: are its bytes what was written last?
    slot: Option<bool>,
    /// Zeroes are what was written last.
    zero_fresh: bool,
    broken: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Fault(usize, Access),
    Write(usize),
    Discard(usize),
    Deliver {
        from: usize,
        to: usize,
        held: bool,
    },
    Resume(usize),
    /// The home gives the page to this node, which did not ask.
    GiveZero(usize),
    /// The home sends this node, which did not ask, a copy for reading.
    ReadAhead(usize),
}

struct Ask {
    held: bool,
    slot_free: bool,
}

impl Surroundings for Ask {
    fn held(&mut self) -> bool {
        self.held
    }
    fn take_slot(&mut self) -> Option<Slot> {
        std::mem::take(&mut self.slot_free).then_some(0)
    }
}

impl State {
    /// Runs one event of node `at`; `fresh`: the bytes that came with it.
    fn run(
        &mut self,
        cluster: &Cluster,
        at: usize,
        held: bool,
        fresh: bool,
        event: impl FnOnce(&mut Page<'_>, &mut Ask, &mut Vec<Action>) -> Result<(), crate::Illegal>,
    ) {
        let mut rules = Rules::new(NodeId(at as u16), cluster.promote_after);
        rules.mutation = cluster.mutation;
        let mut ask = Ask {
            held,
            slot_free: self.slot.is_none(),
        };
        let mut actions = Vec::new();
        let mut page = Page {
            rules: &rules,
            home: HOME,
            node: &mut self.nodes[at].page,
            entry: (at == HOME.index()).then_some(&mut self.entry),
        };
        if let Err(illegal) = event(&mut page, &mut ask, &mut actions) {
            self.broken = Some(illegal.0);
            return;
        }
        let mut read = None;
        for action in actions {
            if action == Action::Read {
                read = self.nodes[at].copy;
            }
            self.act(at, action, fresh, read);
        }
    }

    fn act(&mut self, at: usize, action: Action, received_fresh: bool, read: Option<Copy>) {
        let node = &mut self.nodes[at];
        let zero_fresh = self.zero_fresh;
        let mut broken = None;
        match action {
            Action::Send(to, message) => self.channels[at][to.index()].push_back(Flight {
                message,
                fresh: zero_fresh,
            }),
            Action::SendPage(to, _) | Action::SendAhead(to) => match read {
                Some(Copy {
                    writable: false,
                    fresh,
                }) => {
                    let zero = false;
                    let message = match action {
                        Action::SendPage(_, access) => Message::Contents { access, zero },
                        _ => Message::ReadAhead { zero },
                    };
                    self.channels[at][to.index()].push_back(Flight { message, fresh });
                }
                _ => broken = Some("page sent while absent or writable"),
            },
            Action::Protect | Action::Unprotect => match node.copy.as_mut() {
                Some(copy) => copy.writable = action == Action::Unprotect,
                None => broken = Some("protection of an absent page"),
            },
            Action::Drop => {
                broken = node
                    .copy
                    .take()
                    .is_none()
                    .then_some("drop of an absent page")
            }
            Action::InstallReceived(access) => {
                broken = node.copy.is_some().then_some("page installed twice");
                node.copy = Some(Copy {
                    writable: access == Access::Write,
                    fresh: received_fresh,
                });
            }
            Action::InstallZero => {
                broken = node.copy.is_some().then_some("page installed twice");
                node.copy = Some(Copy {
                    writable: true,
                    fresh: zero_fresh,
                });
            }
            Action::CopyToSlot(_) => match node.copy {
                Some(Copy {
                    writable: false,
                    fresh,
                }) => self.slot = Some(fresh),
                _ => broken = Some("page collected while absent or writable"),
            },
            Action::MapSlot(_) => broken = node.copy.is_some().then_some("slot mapped over a copy"),
            Action::ZeroSlot(_) => {
                self.slot = Some(true); // the contents are zero from now on, and that is the last write
            }
            Action::DiscardDone => node.discarding = false,
            Action::Defer(demand) => node.deferred = Some(demand),
            Action::Zeroed => self.zero_fresh = true, // a discard counts as a write of zeroes
            Action::Wake | Action::Promoted(_) | Action::Queued | Action::Read => {}
        }
        self.broken = self.broken.or(broken);
    }

    /// Node `at` writes: every other copy is old now.
    fn write(&mut self, at: usize) {
        for (index, node) in self.nodes.iter_mut().enumerate() {
            if let Some(copy) = node.copy.as_mut() {
                copy.fresh = index == at;
            }
        }
        self.channels
            .iter_mut()
            .flatten()
            .flatten()
            .for_each(|flight| flight.fresh = false);
        self.zero_fresh = false;
        self.slot = self
            .slot
            .map(|_| self.nodes[at].page.state == NodeState::Pooled);
    }

    fn quiet(&self) -> bool {
        self.channels.iter().flatten().all(VecDeque::is_empty)
            && self.nodes.iter().all(|node| node.deferred.is_none())
    }

    fn single_writer(&self) -> bool {
        let count = |wanted| {
            self.nodes
                .iter()
                .filter(|node| node.page.state == wanted)
                .count()
        };
        let (shared, exclusive, pooled) = (
            count(NodeState::Shared),
            count(NodeState::Exclusive),
            count(NodeState::Pooled),
        );
        exclusive <= 1
            && [shared, exclusive, pooled]
                .iter()
                .filter(|number| **number > 0)
                .count()
                <= 1
    }

    fn reads_last_write(&self) -> bool {
        self.nodes.iter().all(|node| match node.page.state {
            NodeState::Invalid => node.copy.is_none(),
            NodeState::Shared => {
                node.copy
                    == Some(Copy {
                        writable: false,
                        fresh: true,
                    })
            }
            NodeState::Exclusive => {
                node.copy
                    == Some(Copy {
                        writable: true,
                        fresh: true,
                    })
            }
            NodeState::Pooled => node.copy.is_none() && self.slot == Some(true),
        })
    }

    fn all_answered(&self) -> bool {
        let idle = |node: &Node| node.page.pending.is_none() && !node.discarding;
        !self.entry.is_busy() && self.nodes.iter().all(idle)
    }

    /// With nothing under way, the directory says exactly what the nodes have.
    fn directory_agrees(&self) -> bool {
        self.nodes.iter().enumerate().all(|(index, node)| {
            let id = NodeId(index as u16);
            match self.entry.state() {
                HomeState::Zero => node.page.state == NodeState::Invalid,
                HomeState::Owned(owner) => {
                    (node.page.state == NodeState::Exclusive) == (*owner == id)
                }
                HomeState::Shared(set) => {
                    (node.page.state == NodeState::Shared) == set.contains(id)
                }
                HomeState::Pooled(_) => {
                    matches!(node.page.state, NodeState::Pooled | NodeState::Invalid)
                }
            }
        })
    }
}

impl Model for Cluster {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let mut nodes = vec![Node::default(); self.nodes];
        let mut entry = HomePage::default();
        if let Some(owner) = self.populated_on {
            nodes[owner].page.state = NodeState::Exclusive;
            nodes[owner].copy = Some(Copy {
                writable: true,
                fresh: true,
            });
            entry = HomePage::owned_by(NodeId(owner as u16));
        }
        vec![State {
            nodes,
            entry,
            channels: vec![vec![VecDeque::new(); self.nodes]; self.nodes],
            slot: None,
            zero_fresh: self.populated_on.is_none(),
            broken: None,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if state.broken.is_some() {
            return;
        }
        for (index, node) in state.nodes.iter().enumerate() {
            // Faults come in every state: the events of userfaultfd are old when they are read.
            steps.push(Step::Fault(index, Access::Read));
            steps.push(Step::Fault(index, Access::Write));
            if matches!(node.page.state, NodeState::Exclusive | NodeState::Pooled) {
                steps.push(Step::Write(index));
            }
            if index + self.discards >= self.nodes && !node.discarding {
                steps.push(Step::Discard(index));
            }
            if node.deferred.is_some() {
                steps.push(Step::Resume(index));
            }
        }
        if self.unasked {
            for to in 1..self.nodes {
                steps.push(Step::GiveZero(to));
                steps.push(Step::ReadAhead(to));
            }
        }
        for (from, row) in state.channels.iter().enumerate() {
            for (to, channel) in row.iter().enumerate() {
                if !channel.is_empty() {
                    steps.push(Step::Deliver {
                        from,
                        to,
                        held: false,
                    });
                    if self.holds {
                        steps.push(Step::Deliver {
                            from,
                            to,
                            held: true,
                        });
                    }
                }
            }
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Fault(at, access) => {
                state.run(self, at, false, false, |page, ask, actions| {
                    page.fault(access, ask, actions)
                });
            }
            Step::Write(at) => state.write(at),
            Step::Discard(at) => {
                state.nodes[at].discarding = true;
                state.run(self, at, false, false, |page, ask, actions| {
                    page.discard(ask, actions)
                });
            }
            Step::Deliver { from, to, held } => {
                let flight = state.channels[from][to].pop_front()?;
                state.run(self, to, held, flight.fresh, |page, ask, actions| {
                    page.receive(NodeId(from as u16), flight.message, ask, actions)
                });
            }
            Step::Resume(at) => {
                let demand = state.nodes[at].deferred.take()?;
                state.run(self, at, false, false, |page, ask, actions| {
                    page.resume(demand, ask, actions)
                });
            }
            Step::ReadAhead(to) => {
                state.run(self, HOME.index(), false, false, |page, ask, actions| {
                    page.read_ahead(NodeId(to as u16), ask, actions);
                    Ok(())
                });
            }
            Step::GiveZero(to) => {
                let mut rules = Rules::new(HOME, self.promote_after);
                rules.mutation = self.mutation;
                if state.entry.give_zero(NodeId(to as u16), &rules) {
                    let give = Action::Send(NodeId(to as u16), Message::GiveZero);
                    state.act(HOME.index(), give, false, None);
                }
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one writer or any number of readers", |_, state: &State| {
                state.single_writer()
            }),
            Property::always("a read returns the last write", |_, state: &State| {
                state.reads_last_write()
            }),
            Property::always("no message is illegal", |_, state: &State| {
                state.broken.is_none()
            }),
            Property::always("every request is answered", |_, state: &State| {
                !state.quiet() || state.all_answered()
            }),
            Property::always("the directory agrees", |_, state: &State| {
                !(state.quiet() && state.broken.is_none() && state.all_answered())
                    || state.directory_agrees()
            }),
            Property::sometimes("all nodes read", |_, state: &State| {
                state
                    .nodes
                    .iter()
                    .all(|node| node.page.state == NodeState::Shared)
            }),
            Property::sometimes(
                "a writer lost its copy while it waited",
                |_, state: &State| {
                    state.nodes.iter().any(|node| {
                        node.page
                            == NodePage {
                                state: NodeState::Invalid,
                                pending: Some(Access::Write),
                            }
                    }) && state.entry.waiting() > 0
                },
            ),
            Property::sometimes(
                "a page came unasked while its request was under way",
                |cluster: &Self, state: &State| {
                    let asked = |node: &Node| {
                        node.page.state == NodeState::Exclusive && node.page.pending.is_some()
                    };
                    !cluster.unasked || state.nodes.iter().any(asked)
                },
            ),
            Property::sometimes(
                "a copy for reading came unasked while its request was under way",
                |cluster: &Self, state: &State| {
                    let asked = |node: &Node| {
                        node.page.state == NodeState::Shared
                            && node.page.pending == Some(Access::Read)
                    };
                    !cluster.unasked || state.nodes.iter().any(asked)
                },
            ),
            Property::sometimes("all nodes use the pool", |cluster: &Self, state: &State| {
                cluster.promote_after == 0
                    || state
                        .nodes
                        .iter()
                        .all(|node| node.page.state == NodeState::Pooled)
            }),
        ]
    }
}
