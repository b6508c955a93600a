//! The program of a trace on another number of nodes: made up from its [`Mix`].
//!
//! Every node does what a node of the trace did on average: as many accesses of each kind, with as much work between
//! them, to as many pages. What changes is how many nodes use a page together: a group, see [`Sharing`].

use crate::mix::{ClassMix, Mix};
use crate::rng::Rng;
use crate::work::{Issue, Workload};
use lev_coherence::Access;
use lev_trace::Pattern;
use lev_wire::NodeId;
use serde::{Deserialize, Serialize};

/// How many nodes use a page together, when there are more nodes than in the trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sharing {
    /// The same part of all nodes: what all used is used by all.
    #[default]
    Grows,
    /// As many as in the trace: nodes work in groups.
    Stays,
}

/// Bits of a page's number for its place in its class.
const CLASS_SHIFT: u32 = 48;

struct Class {
    mix: ClassMix,
    /// Nodes that use a page together.
    group: u64,
    /// Pages of a group.
    span: u64,
    /// Accesses up to which this class is chosen, as a part of 2^32.
    until: u64,
}

struct Thread {
    node: u16,
    rng: Rng,
    left: u64,
    /// A write that follows the read before it.
    follows: Option<u64>,
    /// Accesses to private pages so far.
    walked: u64,
}

pub(crate) struct Scaled {
    nodes: u16,
    threads_each: u64,
    think_ns: u64,
    classes: Vec<Class>,
    threads: Vec<Thread>,
}

impl Scaled {
    pub(crate) fn new(mix: &Mix, nodes: u16, accesses: u64, sharing: Sharing, seed: u64) -> Self {
        let mut seeds = Rng::new(seed);
        let thread = |number: u32| Thread {
            node: (number / u32::from(mix.threads)) as u16,
            rng: Rng::new(seeds.next()),
            left: accesses,
            follows: None,
            walked: 0,
        };
        let mut until = 0.0;
        let classes = mix
            .classes
            .iter()
            .map(|class| {
                // Chosen once for a read and the write that follows it.
                until += class.share * (1.0 - class.updates);
                let group = group(class, mix.nodes, nodes, sharing);
                Class {
                    group,
                    span: match class.pattern {
                        // Every node writes at least one.
                        Pattern::ProducerConsumer => class.pages.max(group),
                        _ => class.pages,
                    },
                    until: (until * f64::from(u32::MAX)) as u64,
                    mix: class.clone(),
                }
            })
            .collect();
        Self {
            nodes,
            threads_each: mix.threads.into(),
            think_ns: mix.think_ns,
            classes,
            threads: (0..u32::from(nodes) * u32::from(mix.threads))
                .map(thread)
                .collect(),
        }
    }

    fn choose(&mut self, at: usize) -> (u64, Access) {
        let all = self.classes.last().map_or(1, |class| class.until).max(1);
        let thread = &mut self.threads[at];
        if let Some(page) = thread.follows.take() {
            return (page, Access::Write);
        }
        let lot = thread.rng.below(all);
        let index = self.classes.partition_point(|class| class.until <= lot);
        let class = &self.classes[index.min(self.classes.len() - 1)];
        let mix = &class.mix;
        let how = thread.rng.part() * (mix.reads + mix.updates + mix.writes);
        let (access, update) = match how {
            _ if how < mix.reads => (Access::Read, false),
            _ if how < mix.reads + mix.updates => (Access::Read, true),
            _ => (Access::Write, false),
        };
        let node = u64::from(thread.node);
        let (group, member) = (node / class.group, node % class.group);
        let size = class.size(group, self.nodes.into());
        let place = match mix.pattern {
            // From one page to the next, as memory is taken into use.
            Pattern::Private => {
                let walked = thread.walked * self.threads_each + at as u64 % self.threads_each;
                thread.walked += 1;
                (walked as f64 / mix.accesses_per_page.max(1.0)) as u64 % class.span
            }
            Pattern::ProducerConsumer => {
                let writes = update || access == Access::Write;
                class.produced(member, size, writes, &mut thread.rng)
            }
            _ => thread.rng.below(class.span),
        };
        let page = (index as u64) << CLASS_SHIFT | (group * class.span + place);
        if update {
            thread.follows = Some(page);
        }
        (page, access)
    }
}

impl Class {
    /// Nodes of a group; the last one may have fewer.
    fn size(&self, group: u64, nodes: u64) -> u64 {
        self.group
            .min(nodes.saturating_sub(group * self.group))
            .max(1)
    }

    /// A page of a group of `size` in which each page has one node that writes it: one of this member's own, or not.
    fn produced(&self, member: u64, size: u64, own: bool, rng: &mut Rng) -> u64 {
        if own {
            return member + size * rng.below((self.span - member).div_ceil(size));
        }
        let page = rng.below(self.span);
        match page % size == member {
            true => (page + 1) % self.span,
            false => page,
        }
    }
}

/// Nodes that use a page of this class together, when there are `nodes` instead of `recorded`.
fn group(class: &ClassMix, recorded: u16, nodes: u16, sharing: Sharing) -> u64 {
    if class.pattern == Pattern::Private {
        return 1;
    }
    let part = match sharing {
        Sharing::Grows => class.nodes / f64::from(recorded) * f64::from(nodes),
        Sharing::Stays => class.nodes,
    };
    (part.round() as u64).clamp(2, u64::from(nodes.max(2)))
}

impl Workload for Scaled {
    fn threads(&self) -> Vec<u16> {
        self.threads.iter().map(|thread| thread.node).collect()
    }

    fn home(&self, page: u64) -> NodeId {
        let class = &self.classes[(page >> CLASS_SHIFT) as usize];
        let (place, nodes) = (page & ((1 << CLASS_SHIFT) - 1), u64::from(self.nodes));
        let group = place / class.span;
        let (first, size) = (group * class.group, class.size(group, nodes));
        let node = if Rng::new(page).part() < class.mix.at_home {
            first + place % size
        } else {
            first + size + place
        };
        NodeId((node % nodes) as u16)
    }

    /// What nodes share was made before; what is one's own is taken into use.
    fn holder(&self, page: u64) -> Option<NodeId> {
        (self.class(page) != Pattern::Private).then(|| self.home(page))
    }

    fn class(&self, page: u64) -> Pattern {
        self.classes[(page >> CLASS_SHIFT) as usize].mix.pattern
    }

    fn free(&mut self, thread: usize, now: u64, issues: &mut Vec<Issue>) {
        let think_ns = self.think_ns;
        let state = &mut self.threads[thread];
        if state.left == 0 {
            return;
        }
        state.left -= 1;
        let at = now + state.rng.around(think_ns);
        let (page, access) = self.choose(thread);
        issues.push(Issue::new(thread, at, page, access));
    }

    fn left(&self) -> u64 {
        self.threads.iter().map(|thread| thread.left).sum()
    }
}
