//! What must be true in every state of the model, and what must happen at least once for the exploration to mean something.

use super::state::{Copy, Held, State};
use super::Cluster;
use crate::{Access, HomeState, NodePage, NodeState};
use lev_wire::NodeId;
use stateright::Property;

/// Names of the properties that must hold always.
pub(crate) const ALWAYS: [&str; 7] = [
    "one writer or any number of readers",
    "a read returns the last write",
    "no message is illegal",
    "every request is answered",
    "the directory agrees",
    "who knows of a loss waits for nobody lost",
    "memory is as the protocol believes",
];

pub(super) fn all() -> Vec<Property<Cluster>> {
    vec![
        Property::always(ALWAYS[0], |_, state: &State| {
            state.pages().all(|page| state.single_writer(page))
        }),
        Property::always(ALWAYS[1], |_, state: &State| {
            state.pages().all(|page| state.reads_last_write(page))
        }),
        Property::always(ALWAYS[2], |_, state: &State| state.broken.is_none()),
        Property::always(ALWAYS[3], |cluster: &Cluster, state: &State| {
            !state.quiet() || state.all_answered(cluster)
        }),
        Property::always(ALWAYS[4], |cluster: &Cluster, state: &State| {
            !(state.quiet() && state.broken.is_none() && state.all_answered(cluster))
                || state
                    .pages()
                    .all(|page| state.directory_agrees(cluster, page))
        }),
        Property::always(ALWAYS[5], |cluster: &Cluster, state: &State| {
            state.nobody_awaits_the_lost(cluster)
        }),
        Property::always(ALWAYS[6], |_, state: &State| {
            state.broken.is_some() || state.memory_agrees()
        }),
        Property::sometimes("all nodes read", |_, state: &State| {
            state
                .held
                .iter()
                .all(|pages| pages[0].page.state == NodeState::Shared)
        }),
        Property::sometimes(
            "a writer lost its copy while it waited",
            |_, state: &State| {
                let robbed = |held: &Held| {
                    held.page.state == NodeState::Invalid
                        && held.page.pending == Some(Access::Write)
                };
                state.held.iter().any(|pages| robbed(&pages[0]))
                    && state.whole[0].entry.waiting() > 0
            },
        ),
        Property::sometimes(
            "a page came unasked while its request was under way",
            |cluster: &Cluster, state: &State| {
                let asked = |held: &Held| {
                    held.page.state == NodeState::Exclusive && held.page.pending.is_some()
                };
                !cluster.unasked || state.any(asked)
            },
        ),
        Property::sometimes(
            "a copy for reading came unasked while its request was under way",
            |cluster: &Cluster, state: &State| {
                let asked = |held: &Held| {
                    held.page.state == NodeState::Shared && held.page.pending == Some(Access::Read)
                };
                !cluster.unasked || state.any(asked)
            },
        ),
        Property::sometimes(
            "a reader may write, and has not",
            |cluster: &Cluster, state: &State| {
                !cluster.migratory || state.any(|held| held.page.state == NodeState::Clean)
            },
        ),
        Property::sometimes(
            "all nodes use the pool",
            |cluster: &Cluster, state: &State| {
                cluster.promote_after == 0
                    || state
                        .held
                        .iter()
                        .all(|pages| pages[0].page.state == NodeState::Pooled)
            },
        ),
        Property::sometimes(
            "a page left the pool and is held again",
            |cluster: &Cluster, state: &State| {
                !cluster.demotes
                    || (state.any(|held| held.page.state == NodeState::Pooled)
                        && state.whole[0].entry.is_busy())
            },
        ),
        Property::sometimes(
            "a request meets its page while it is given back",
            |cluster: &Cluster, state: &State| {
                !cluster.returns
                    || (state.any(|held| held.page.returning) && state.whole[0].entry.waiting() > 0)
            },
        ),
        Property::sometimes(
            "contents were lost and somebody was told",
            |cluster: &Cluster, state: &State| {
                cluster.losses.is_empty()
                    || state
                        .whole
                        .iter()
                        .any(|whole| *whole.entry.state() == HomeState::Gone)
                    || cluster.losses == [0]
            },
        ),
    ]
}

impl State {
    fn pages(&self) -> std::ops::Range<usize> {
        0..self.whole.len()
    }

    fn any(&self, what: impl Fn(&Held) -> bool) -> bool {
        self.held.iter().flatten().any(what)
    }

    fn survivors(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.held.len()).filter(|node| self.lost != Some(*node))
    }

    fn all_know(&self) -> bool {
        self.lost.is_none() || self.survivors().all(|node| self.knows[node])
    }

    fn nobody_awaits_the_lost(&self, cluster: &Cluster) -> bool {
        let Some(lost) = self.lost else { return true };
        let fine = |node: usize, page: usize| {
            let home = cluster.homes[page];
            let waits = home == lost && self.held[node][page].page.pending.is_some();
            let mentions = home == node && self.whole[page].entry.mentions(NodeId(lost as u16));
            !self.knows[node] || (!waits && !mentions)
        };
        self.survivors()
            .all(|node| self.pages().all(|page| fine(node, page)))
    }

    /// Nothing is under way, and everybody has heard of a loss.
    pub(super) fn quiet(&self) -> bool {
        let waits_for_news = self.lost.is_some() && !self.all_know();
        !waits_for_news
            && self
                .channels
                .iter()
                .flatten()
                .all(|channel| channel.is_empty())
            && !self.any(|held| !held.deferred.is_empty() || !held.todo.is_empty())
    }

    /// What counts is what threads can do at the memory, whatever the protocol believes.
    fn single_writer(&self, page: usize) -> bool {
        let count = |what: fn(&Held) -> bool| {
            let on = self.held.iter().filter(|pages| what(&pages[page]));
            on.count()
        };
        let writers = count(|held| held.copy.is_some_and(|copy| copy.writable));
        let (copies, mapped) = (count(|held| held.copy.is_some()), count(|held| held.mapped));
        (writers == 0 || copies == 1) && (mapped == 0 || copies == 0)
    }

    fn reads_last_write(&self, page: usize) -> bool {
        self.held.iter().all(|pages| {
            let held = &pages[page];
            let fresh = |copy: Copy| copy.fresh;
            held.copy.is_none_or(fresh) && (!held.mapped || self.whole[page].slot == Some(true))
        })
    }

    /// With no event half done, memory is as the protocol believes.
    fn memory_agrees(&self) -> bool {
        let writable = |held: &Held| held.copy.map(|copy| copy.writable);
        !self.any(|held| {
            let expected = match held.page.state {
                NodeState::Invalid | NodeState::Pooled => None,
                NodeState::Shared | NodeState::Clean => Some(false),
                NodeState::Exclusive => Some(true),
            };
            let mapped = held.page.state == NodeState::Pooled;
            held.todo.is_empty() && (writable(held) != expected || held.mapped != mapped)
        })
    }

    pub(super) fn all_answered(&self, cluster: &Cluster) -> bool {
        let idle = |held: &Held| {
            let NodePage {
                pending, returning, ..
            } = held.page;
            pending.is_none() && !returning && !held.discarding
        };
        let homes_idle = self.pages().all(|page| {
            self.lost == Some(cluster.homes[page]) || !self.whole[page].entry.is_busy()
        });
        homes_idle
            && self
                .survivors()
                .all(|node| self.held[node].iter().all(idle))
    }

    /// With nothing under way, the directory says exactly what the nodes have.
    fn directory_agrees(&self, cluster: &Cluster, page: usize) -> bool {
        if self.lost == Some(cluster.homes[page]) {
            return true;
        }
        let slot_used = self.whole[page].slot.is_some();
        let state = self.whole[page].entry.state();
        let slot_agrees = slot_used == matches!(state, HomeState::Pooled { .. })
            || (slot_used && self.lost.is_some()); // a slot that a lost node was filling is not given out again
        slot_agrees
            && self.held.iter().enumerate().all(|(index, pages)| {
                let (id, held) = (NodeId(index as u16), pages[page].page.state);
                match state {
                    HomeState::Zero | HomeState::Gone => held == NodeState::Invalid,
                    HomeState::Owned(owner) => {
                        let owns = matches!(held, NodeState::Exclusive | NodeState::Clean);
                        owns == (*owner == id)
                    }
                    HomeState::Shared(set) => (held == NodeState::Shared) == set.contains(id),
                    HomeState::Pooled { users, .. } => {
                        (held == NodeState::Pooled) == users.contains(id)
                    }
                }
            })
    }
}
