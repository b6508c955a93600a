//! Turns: when nodes fight over a whole set of pages, only one of them works on it at a time, for long enough.
//!
//! Pure: events and the time in, messages out. One node at a time has the turn; node 0 gives it. A turn is a hint for
//! speed and never a right: a node without it may be granted any page, and one that keeps it too long is passed over. See
//! `docs/design/0008-turns.md`.

use crate::Activity;
use lev_coherence::Access;
use lev_wire::{NodeId, PageNumber};
use std::collections::VecDeque;
use std::time::Duration;

/// A node that was asked to end its turn and says nothing for so long is passed over, microseconds.
const SILENCE_US: u64 = 1_000_000;
/// A request for the turn that is not answered for so long is given up: what waits for it goes on without.
const PATIENCE_US: u64 = 4_000_000;
/// Somebody waits for the turn of a node: it looks so often whether its vCPUs sleep.
const LOOK_US: u64 = 1_000;
/// A call of another node longer ago has been answered, microseconds.
const CALL_US: u64 = 100_000;
/// A turn goes on for so long after a call, microseconds: often several things are to be done before the wait.
const GRACE_US: u64 = 2_000;
/// Pages of the set that a node asks for at the beginning of its turn.
const SET: usize = 160;
/// A page stays in the set for so many turns after a thread faulted on it.
const FRESH: u8 = 16;

/// What nodes say to each other about turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// To node 0: I want the turn.
    Ask,
    /// From node 0: it is yours.
    Give,
    /// From node 0: somebody waits, so your turn ends when its time is over, or when you have nothing to do.
    Recall,
    /// To node 0: I have no turn any more.
    Over,
}

/// What comes out of an event.
#[derive(Default)]
pub(crate) struct Effects {
    /// To be sent to other nodes, in this order, before the next event.
    pub(crate) send: Vec<(NodeId, Word)>,
    /// What waits here goes on now: [`Turns::take_parked`].
    pub(crate) go: bool,
}

/// Gives the turn; at node 0.
#[derive(Default)]
struct Arbiter {
    holder: Option<NodeId>,
    /// When the holder was asked to come to an end.
    recalled_us: Option<u64>,
    waiting: VecDeque<NodeId>,
}

impl Arbiter {
    fn ask(&mut self, node: NodeId, now_us: u64, out: &mut Vec<(NodeId, Word)>) {
        if self.holder == Some(node) {
            self.holder = None; // it gave up waiting, and asks again
        }
        if !self.waiting.contains(&node) {
            self.waiting.push_back(node);
        }
        self.advance(now_us, out);
    }

    fn over(&mut self, node: NodeId, now_us: u64, out: &mut Vec<(NodeId, Word)>) {
        if self.holder == Some(node) {
            self.holder = None;
            self.advance(now_us, out);
        }
    }

    /// Passes over a holder that does not answer.
    fn tick(&mut self, now_us: u64, out: &mut Vec<(NodeId, Word)>) {
        if self.overdue_us().is_some_and(|at| at <= now_us) {
            self.holder = None;
            self.advance(now_us, out);
        }
    }

    fn overdue_us(&self) -> Option<u64> {
        self.holder.and(self.recalled_us).map(|at| at + SILENCE_US)
    }

    fn advance(&mut self, now_us: u64, out: &mut Vec<(NodeId, Word)>) {
        if self.holder.is_none() {
            self.holder = self.waiting.pop_front();
            self.recalled_us = None;
            out.extend(self.holder.map(|node| (node, Word::Give)));
        }
        if let (Some(holder), None, false) =
            (self.holder, self.recalled_us, self.waiting.is_empty())
        {
            self.recalled_us = Some(now_us);
            out.push((holder, Word::Recall));
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    None,
    Asked {
        since_us: u64,
    },
    Mine {
        since_us: u64,
        until_us: u64,
        recalled: bool,
    },
}

/// A page that this node needs while it works.
#[derive(Clone, Copy)]
struct Wanted {
    page: PageNumber,
    access: Access,
    fresh: u8,
}

/// Turns as one node sees them, and at node 0 who gives them.
pub(crate) struct Turns {
    me: NodeId,
    state: State,
    arbiter: Arbiter,
    /// Faults that wait for the turn.
    parked: Vec<(PageNumber, Access)>,
    /// What this node fetches together when its turn begins; latest first.
    set: VecDeque<Wanted>,
}

impl Turns {
    pub(crate) fn new(me: NodeId) -> Self {
        Self {
            me,
            state: State::None,
            arbiter: Arbiter::default(),
            parked: Vec::new(),
            set: VecDeque::new(),
        }
    }

    /// Since when and until when this node has the turn and another one waits for it. Without that other one there is no
    /// fight: who needs a page then does not know of turns, and must not be put off.
    pub(crate) fn contested_us(&self) -> Option<(u64, u64)> {
        match self.state {
            State::Mine {
                since_us,
                until_us,
                recalled: true,
            } => Some((since_us, until_us)),
            State::Mine { .. } | State::None | State::Asked { .. } => None,
        }
    }

    #[cfg(test)]
    fn is_mine(&self) -> bool {
        matches!(self.state, State::Mine { .. })
    }

    /// Whether the page is one of those that this node fetches together.
    pub(crate) fn is_in_set(&self, page: PageNumber) -> bool {
        self.set.iter().any(|wanted| wanted.page == page)
    }

    /// The page bounces, but not with others: it needs no turn.
    pub(crate) fn forget(&mut self, page: PageNumber) {
        self.set.retain(|wanted| wanted.page != page);
    }

    /// A thread needs a page that is fought over. `true`: ask for it now; `false`: it waits for the turn.
    pub(crate) fn admit(
        &mut self,
        page: PageNumber,
        access: Access,
        now_us: u64,
        quantum_us: u64,
        effects: &mut Effects,
    ) -> bool {
        self.want(page, access);
        match &mut self.state {
            State::Mine {
                since_us,
                until_us,
                recalled,
            } => {
                if now_us < *until_us {
                    return true;
                }
                // Nobody waits for it. Asked anew now and then all the same, in case node 0 thinks otherwise.
                if !*recalled && now_us < *since_us + PATIENCE_US {
                    *until_us = now_us + quantum_us;
                    return true;
                }
                self.finish(now_us, quantum_us, effects);
                self.ask(now_us, quantum_us, effects);
            }
            State::None => self.ask(now_us, quantum_us, effects),
            State::Asked { .. } => {}
        }
        if matches!(self.state, State::Mine { .. }) {
            return true;
        }
        if !self.parked.contains(&(page, access)) {
            self.parked.push((page, access));
        }
        false
    }

    /// Another node said something. [`Turns::tick`] should follow.
    pub(crate) fn hear(
        &mut self,
        from: NodeId,
        word: Word,
        now_us: u64,
        quantum_us: u64,
        effects: &mut Effects,
    ) {
        let mut out = Vec::new();
        match (word, &mut self.state) {
            (Word::Ask, _) => self.arbiter.ask(from, now_us, &mut out),
            (Word::Over, _) => self.arbiter.over(from, now_us, &mut out),
            (Word::Give, state) => {
                *state = State::Mine {
                    since_us: now_us,
                    until_us: now_us + quantum_us,
                    recalled: false,
                };
                effects.go = true;
            }
            (Word::Recall, State::Mine { recalled, .. }) => *recalled = true,
            (Word::Recall, _) => {} // it crossed this node's own word that its turn is over
        }
        self.post(out, now_us, quantum_us, effects);
    }

    /// Does what is due at `now_us`; returns when to call again at the latest.
    pub(crate) fn tick(
        &mut self,
        now_us: u64,
        quantum_us: u64,
        activity: Activity,
        effects: &mut Effects,
    ) -> Option<u64> {
        self.answer_call(now_us, activity.since_call);
        match self.state {
            State::Mine {
                until_us,
                recalled: true,
                ..
            } if until_us <= now_us || activity.asleep || activity.waits => {
                self.finish(now_us, quantum_us, effects);
            }
            State::Asked { since_us } if since_us + PATIENCE_US <= now_us => {
                self.state = State::None;
                effects.go = true;
            }
            _ => {}
        }
        let mut out = Vec::new();
        self.arbiter.tick(now_us, &mut out);
        self.post(out, now_us, quantum_us, effects);
        let own = match self.state {
            State::Mine {
                until_us,
                recalled: true,
                ..
            } => Some(until_us.min(now_us + LOOK_US)),
            State::Asked { since_us } => Some(since_us + PATIENCE_US),
            _ => None,
        };
        [own, self.arbiter.overdue_us()].into_iter().flatten().min()
    }

    /// The faults that have waited, and after them the rest of the set.
    pub(crate) fn take_parked(&mut self) -> Vec<(PageNumber, Access)> {
        let mut pages = std::mem::take(&mut self.parked);
        for wanted in &mut self.set {
            wanted.fresh -= 1;
            if !pages.iter().any(|(page, _)| *page == wanted.page) {
                pages.push((wanted.page, wanted.access));
            }
        }
        self.set.retain(|wanted| wanted.fresh > 0);
        pages
    }

    /// Somebody else wants the turn, and a thread of this node has called one of another node in this turn: it waits
    /// for the answer, most likely, which cannot come before the turn is over.
    fn answer_call(&mut self, now_us: u64, since_call: Duration) {
        if let State::Mine {
            since_us,
            until_us,
            recalled: true,
        } = &mut self.state
        {
            let ago_us = u64::try_from(since_call.as_micros()).unwrap_or(u64::MAX);
            let called_us = now_us.saturating_sub(ago_us);
            if ago_us < CALL_US && called_us >= *since_us {
                *until_us = (*until_us).min(called_us + GRACE_US);
            }
        }
    }

    fn want(&mut self, page: PageNumber, access: Access) {
        let old = self.set.iter().position(|wanted| wanted.page == page);
        let old = old.and_then(|at| self.set.remove(at));
        self.set.truncate(SET - 1);
        self.set.push_front(Wanted {
            page,
            access: old.map_or(access, |old| old.access.max(access)),
            fresh: FRESH,
        });
    }

    fn ask(&mut self, now_us: u64, quantum_us: u64, effects: &mut Effects) {
        self.state = State::Asked { since_us: now_us };
        let out = vec![(NodeId::HEAD, Word::Ask)];
        self.post(out, now_us, quantum_us, effects);
    }

    fn finish(&mut self, now_us: u64, quantum_us: u64, effects: &mut Effects) {
        self.state = State::None;
        let out = vec![(NodeId::HEAD, Word::Over)];
        self.post(out, now_us, quantum_us, effects);
    }

    /// Hands messages on; those to this node are heard at once.
    fn post(
        &mut self,
        out: Vec<(NodeId, Word)>,
        now_us: u64,
        quantum_us: u64,
        effects: &mut Effects,
    ) {
        for (to, word) in out {
            if to == self.me {
                self.hear(to, word, now_us, quantum_us, effects);
            } else {
                effects.send.push((to, word));
            }
        }
    }
}

#[cfg(test)]
#[path = "turns_tests.rs"]
mod tests;
