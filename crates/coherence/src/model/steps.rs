//! What may happen next in the model.

use super::state::{Ask, State};
use super::Cluster;
use crate::mutation::Mutation;
use crate::{Access, Action, HomeState, Illegal, Message, Page};
use lev_wire::NodeId;
use stateright::{Model, Property};

/// Whom the home chooses to keep a page that was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Keeper {
    /// There is no room anywhere.
    Nobody,
    /// The home itself, unless it is the one without room.
    Home,
    /// Another node, unless it is the one without room.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Fault(usize, usize, Access),
    Write(usize, usize),
    Discard(usize, usize),
    Deliver {
        from: usize,
        to: usize,
        held: bool,
        keeper: Keeper,
    },
    /// The node goes on with an event of the page.
    GoOn(usize, usize),
    /// The n-th demand that was put off is due.
    Resume(usize, usize, usize),
    /// The home gives the page to this node, which did not ask.
    GiveZero(usize, usize),
    /// The home sends this node, which did not ask, a copy for reading.
    ReadAhead(usize, usize),
    /// The node wants to be rid of the page.
    Return(usize, usize, Keeper),
    /// The home takes the page out of the pool.
    Demote(usize),
    Crash(usize),
    /// The node gets to know of the loss.
    Notice(usize),
}

impl Step {
    /// Whether the step only finishes what is under way. Such steps are taken sooner or later; all others are choices.
    pub(crate) fn finishes(&self) -> bool {
        matches!(
            self,
            Self::Deliver { .. } | Self::GoOn(..) | Self::Resume(..) | Self::Notice(_)
        )
    }
}

const IDLE: (bool, Keeper, bool) = (false, Keeper::Nobody, false);

impl Cluster {
    fn local_steps(&self, state: &State, at: usize, steps: &mut Vec<Step>) {
        for (page, held) in state.held[at].iter().enumerate() {
            if held.mapped || held.copy.is_some_and(|copy| copy.writable) {
                steps.push(Step::Write(at, page));
            }
            if state.is_locked(at, page) {
                steps.push(Step::GoOn(at, page));
                continue;
            }
            // Faults come in every state: the events of userfaultfd are old when they are read.
            steps.push(Step::Fault(at, page, Access::Read));
            steps.push(Step::Fault(at, page, Access::Write));
            if at + self.discards >= self.nodes && !held.discarding {
                steps.push(Step::Discard(at, page));
            }
            steps.extend((0..held.deferred.len()).map(|index| Step::Resume(at, page, index)));
            if self.returns {
                let asks = at == self.homes[page];
                let keepers = if asks {
                    &self.keepers[..]
                } else {
                    &[Keeper::Nobody]
                };
                steps.extend(keepers.iter().map(|keeper| Step::Return(at, page, *keeper)));
            }
            if at == self.homes[page] {
                if self.demotes
                    && matches!(state.whole[page].entry.state(), HomeState::Pooled { .. })
                {
                    steps.push(Step::Demote(page));
                }
                let others = (0..self.nodes).filter(|to| *to != at && state.lost != Some(*to));
                for to in others.filter(|_| self.unasked) {
                    steps.push(Step::GiveZero(page, to));
                    steps.push(Step::ReadAhead(page, to));
                }
            }
        }
    }

    fn deliveries(&self, state: &State, from: usize, to: usize, steps: &mut Vec<Step>) {
        let channel = &state.channels[from][to];
        let Some(flight) = channel.get(self.due(channel.len())) else {
            return;
        };
        let pages = 0..self.homes.len();
        let waits = match flight.message {
            Message::Ask { .. } => pages.into_iter().any(|page| state.is_locked(to, page)),
            _ => state.is_locked(to, flight.page),
        };
        if waits {
            return;
        }
        let at_home = to == self.homes[flight.page];
        // What a node sends to itself is part of the event, so a home may put off its own demands.
        let demands = at_home || matches!(flight.message, Message::Demand(_));
        let helds: &[bool] = if self.holds && demands {
            &[false, true]
        } else {
            &[false]
        };
        let entry = &state.whole[flight.page].entry;
        let asks = at_home && (flight.message == Message::Return || entry.returns_wait());
        let keepers = if asks {
            &self.keepers[..]
        } else {
            &[Keeper::Nobody]
        };
        for held in helds {
            for keeper in keepers {
                steps.push(Step::Deliver {
                    from,
                    to,
                    held: *held,
                    keeper: *keeper,
                });
            }
        }
    }

    /// Which of the messages of a channel arrives next: the oldest.
    fn due(&self, waiting: usize) -> usize {
        match self.mutation {
            Some(Mutation::OrderNotKept) => waiting.saturating_sub(1),
            _ => 0,
        }
    }

    /// Takes a step in place.
    fn take(&self, state: &mut State, step: Step) -> Option<()> {
        let id = |node: usize| NodeId(node as u16);
        type Event<'a> =
            &'a mut dyn FnMut(&mut Page<'_>, &mut Ask, &mut Vec<Action>) -> Result<(), Illegal>;
        let mut local = |at, page, event: Event<'_>| state.run(self, (at, page), IDLE, event);
        match step {
            Step::Fault(at, page, access) => {
                local(at, page, &mut |page, ask, actions| {
                    page.fault(access, ask, actions)
                });
            }
            Step::Write(at, page) => state.write(at, page),
            Step::GoOn(at, page) => state.go_on(at, page),
            Step::Discard(at, page) => {
                state.held[at][page].discarding = true;
                state.run(self, (at, page), IDLE, |page, ask, actions| {
                    page.discard(ask, actions)
                });
            }
            Step::Deliver {
                from,
                to,
                held,
                keeper,
            } => {
                let channel = &mut state.channels[from][to];
                let flight = channel.remove(self.due(channel.len()))?;
                if matches!(flight.message, Message::Ask { .. }) {
                    state.notice(self, to);
                }
                let around = (held, keeper, flight.fresh);
                state.run(self, (to, flight.page), around, |page, ask, actions| {
                    page.receive(id(from), flight.message, ask, actions)
                });
            }
            Step::Resume(at, page, index) => {
                let demand = state.held[at][page].deferred.remove(index);
                state.run(self, (at, page), IDLE, |page, ask, actions| {
                    page.resume(demand, ask, actions)
                });
            }
            Step::ReadAhead(page, to) => {
                local(self.homes[page], page, &mut |page, ask, actions| {
                    page.read_ahead(id(to), ask, actions);
                    Ok(())
                });
            }
            Step::GiveZero(page, to) => {
                let home = self.homes[page];
                if state.whole[page].entry.give_zero(id(to)) {
                    state.act(home, page, Action::Send(id(to), Message::GiveZero));
                }
            }
            Step::Return(at, page, keeper) => {
                state.run(
                    self,
                    (at, page),
                    (false, keeper, false),
                    |page, ask, actions| page.give_back(ask, actions).map(|_| ()),
                );
            }
            Step::Demote(page) => local(self.homes[page], page, &mut |page, ask, actions| {
                page.demote(ask, actions).map(|_| ())
            }),
            Step::Crash(node) => state.crash(self, node),
            Step::Notice(at) => state.notice(self, at),
        }
        Some(())
    }
}

impl Model for Cluster {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self)]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if state.broken.is_some() {
            return;
        }
        let there = |node: &usize| state.lost != Some(*node);
        for at in (0..self.nodes).filter(there) {
            self.local_steps(state, at, steps);
            let idle = (0..self.homes.len()).all(|page| !state.is_locked(at, page));
            if state.lost.is_some() && !state.knows[at] && idle {
                steps.push(Step::Notice(at));
            }
            for from in 0..self.nodes {
                self.deliveries(state, from, at, steps);
            }
        }
        if state.lost.is_none() {
            steps.extend(self.losses.iter().map(|node| Step::Crash(*node)));
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        self.take(&mut state, step)?;
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        super::properties::all()
    }
}
