//! What needs the graph of all states, not only each state for itself: that nobody waits for ever.
//!
//! Three facts together say it. Steps that only finish what is under way never go round in a circle, so that with every
//! message delivered sooner or later all of it ends; where it ends everybody is answered, which is a property of states.
//! New requests do not change that: a request waits at its home for those before it and for no others. And whatever two
//! nodes have done to each other, each of them can still get all of its pages at once.

use super::state::State;
use super::{Cluster, Step};
use crate::NodeState;
use stateright::Model;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash, Hasher};

/// Keys are hashes already.
#[derive(Default)]
pub(super) struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("only for whole words")
    }
    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}

type Build = BuildHasherDefault<Same>;

fn print<T: Hash>(state: &T) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(state)
}

fn successors(
    cluster: &Cluster,
    state: &State,
    which: impl Fn(&Step) -> bool,
) -> Vec<(Step, State)> {
    let mut steps = Vec::new();
    cluster.actions(state, &mut steps);
    let mut next = Vec::new();
    for step in steps.into_iter().filter(which) {
        next.extend(cluster.next_state(state, step).map(|state| (step, state)));
    }
    next
}

/// Visits every state once.
fn for_each_state(cluster: &Cluster, mut visit: impl FnMut(&State)) -> usize {
    let first = State::new(cluster);
    let mut seen: HashSet<u64, Build> = [print(&first)].into_iter().collect();
    let mut open = vec![first];
    while let Some(state) = open.pop() {
        visit(&state);
        for (_, next) in successors(cluster, &state, |_| true) {
            if seen.insert(print(&next)) {
                open.push(next);
            }
        }
    }
    seen.len()
}

/// Whether what is under way always comes to an end if everybody only finishes it. Returns the number of states.
pub(crate) fn always_ends(cluster: &Cluster) -> Result<usize, String> {
    let mut done: HashSet<u64, Build> = HashSet::default();
    let mut circle = None;
    let states = for_each_state(cluster, |state| {
        if circle.is_none() && !done.contains(&print(state)) {
            circle = runs_in_circles(cluster, state, &mut done);
        }
    });
    circle.map_or(Ok(states), Err)
}

/// Depth first over the steps that finish something.
fn runs_in_circles(
    cluster: &Cluster,
    from: &State,
    done: &mut HashSet<u64, Build>,
) -> Option<String> {
    let finishing = |state: &State| successors(cluster, state, Step::finishes);
    let mut path = vec![(print(from), finishing(from))];
    let mut on_path: HashSet<u64, Build> = [print(from)].into_iter().collect();
    while let Some((here, rest)) = path.last_mut() {
        let Some((step, state)) = rest.pop() else {
            done.insert(*here);
            on_path.remove(here);
            path.pop();
            continue;
        };
        let next = print(&state);
        if on_path.contains(&next) {
            return Some(format!("{step:?} closes a circle at {state:?}"));
        }
        if !done.contains(&next) {
            on_path.insert(next);
            path.push((next, finishing(&state)));
        }
    }
    None
}

/// How many requests of others for the right to use the page are served at most while one of `node` waits at the home.
pub(crate) fn most_served_before(cluster: &Cluster, node: usize) -> (usize, u32) {
    let first = (State::new(cluster), 0u32);
    let mut seen: HashSet<u64, Build> = [print(&first)].into_iter().collect();
    let (mut open, mut most) = (vec![first], 0);
    while let Some((state, served)) = open.pop() {
        let waits = |state: &State| state.whole[0].entry.access_waits(node);
        let before = state.whole[0].entry.serves_access();
        for (_, next) in successors(cluster, &state, |_| true) {
            let begun = next.whole[0].entry.serves_access();
            let another = waits(&state) && waits(&next) && begun.is_some() && begun != before;
            let served = if waits(&next) {
                served + u32::from(another)
            } else {
                0
            };
            most = most.max(served);
            if seen.insert(print(&(&next, served))) {
                assert!(served < 100, "others are served for ever");
                open.push((next, served));
            }
        }
    }
    (seen.len(), most)
}

/// Whether from every state on `node` can still get the right to write all pages at the same time. Returns the number
/// of states and of those from which it cannot.
pub(crate) fn can_always_have_all(cluster: &Cluster, node: usize) -> (usize, usize) {
    let has_all = |state: &State| {
        let mine = state.held[node].iter();
        mine.clone()
            .all(|held| held.page.state == NodeState::Exclusive)
    };
    let mut ids: HashMap<u64, u32, Build> = HashMap::default();
    let mut edges: Vec<(u32, u32)> = Vec::new();
    let mut can: Vec<bool> = Vec::new();
    let first = State::new(cluster);
    ids.insert(print(&first), 0);
    can.push(has_all(&first));
    let mut open = vec![(0, first)];
    while let Some((from, state)) = open.pop() {
        for (_, next) in successors(cluster, &state, |_| true) {
            let count = can.len() as u32;
            let to = match ids.entry(print(&next)) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(new) => {
                    can.push(has_all(&next));
                    open.push((count, next));
                    *new.insert(count)
                }
            };
            edges.push((to, from));
        }
    }
    spread(&mut can, edges);
    (can.len(), can.iter().filter(|can| !**can).count())
}

/// Marks everything from which a marked state can be reached; `edges` point backwards.
fn spread(marked: &mut [bool], mut edges: Vec<(u32, u32)>) {
    edges.sort_unstable();
    let mut open: Vec<u32> = (0..marked.len() as u32)
        .filter(|id| marked[*id as usize])
        .collect();
    while let Some(id) = open.pop() {
        let start = edges.partition_point(|(to, _)| *to < id);
        for (_, from) in edges[start..].iter().take_while(|(to, _)| *to == id) {
            if !std::mem::replace(&mut marked[*from as usize], true) {
                open.push(*from);
            }
        }
    }
}
