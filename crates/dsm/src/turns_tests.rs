//! Several nodes, channels that keep order per pair and nothing else, a clock that only this test moves.

use super::*;
use std::collections::HashMap;

const QUANTUM_US: u64 = 10_000;
const DELAY_US: u64 = 50;

struct World {
    now_us: u64,
    nodes: Vec<Turns>,
    /// When it arrives, who sent it, to whom; in order per pair because the delay is the same for all.
    flying: VecDeque<(u64, NodeId, NodeId, Word)>,
    alarms: Vec<Option<u64>>,
    idle: Vec<bool>,
    /// Nodes that only wait for others, awake.
    spins: Vec<bool>,
    called_us: Vec<u64>,
    /// Nodes that neither hear nor say anything.
    lost: Vec<bool>,
    /// Since when a page waits at a node.
    waiting: HashMap<(usize, PageNumber), u64>,
    longest_wait_us: u64,
}

impl World {
    fn new(count: u16) -> Self {
        let nodes = (0..count).map(|id| Turns::new(NodeId(id))).collect();
        Self {
            now_us: CALL_US,
            nodes,
            flying: VecDeque::new(),
            alarms: vec![None; count.into()],
            idle: vec![false; count.into()],
            spins: vec![false; count.into()],
            called_us: vec![0; count.into()],
            lost: vec![false; count.into()],
            waiting: HashMap::new(),
            longest_wait_us: 0,
        }
    }

    /// What the engine does after each event of a node.
    fn settle(&mut self, node: usize, mut effects: Effects) {
        let now = self.now_us;
        let activity = Activity {
            asleep: self.idle[node],
            since_call: Duration::from_micros(now - self.called_us[node]),
            waits: self.spins[node],
        };
        self.alarms[node] = self.nodes[node].tick(now, QUANTUM_US, activity, &mut effects);
        for (to, word) in effects.send {
            let from = NodeId(node as u16);
            self.flying.push_back((now + DELAY_US, from, to, word));
        }
        if effects.go {
            for (page, _) in self.nodes[node].take_parked() {
                if let Some(since) = self.waiting.remove(&(node, page)) {
                    self.longest_wait_us = self.longest_wait_us.max(now - since);
                }
            }
        }
    }

    fn fault(&mut self, node: usize, page: PageNumber) -> bool {
        let mut effects = Effects::default();
        let now = self.now_us;
        let admitted = self.nodes[node].admit(page, Access::Write, now, QUANTUM_US, &mut effects);
        if !admitted {
            self.waiting.entry((node, page)).or_insert(now);
        }
        self.settle(node, effects);
        admitted
    }

    /// Lets so much time pass.
    fn run(&mut self, us: u64) {
        let end = self.now_us + us;
        loop {
            let arrival = self.flying.front().map(|(at, ..)| *at);
            let alarm = self.alarms.iter().flatten().min().copied();
            let Some(next) = [arrival, alarm].into_iter().flatten().min() else {
                break;
            };
            if next > end {
                break;
            }
            self.now_us = self.now_us.max(next);
            if arrival == Some(next) {
                if let Some((_, from, to, word)) = self.flying.pop_front() {
                    if !self.lost[from.index()] && !self.lost[to.index()] {
                        let mut effects = Effects::default();
                        let now = self.now_us;
                        self.nodes[to.index()].hear(from, word, now, QUANTUM_US, &mut effects);
                        self.settle(to.index(), effects);
                    }
                }
            } else {
                for node in 0..self.nodes.len() {
                    if self.alarms[node].is_some_and(|at| at <= self.now_us) {
                        self.alarms[node] = None;
                        if !self.lost[node] {
                            self.settle(node, Effects::default());
                        }
                    }
                }
            }
            let holders = (0..self.nodes.len())
                .filter(|node| !self.lost[*node] && self.nodes[*node].is_mine())
                .count();
            assert!(holders <= 1, "{holders} nodes have the turn");
        }
        self.now_us = end;
    }
}

/// A stream of numbers for [`World`]: a linear congruential generator, high bits.
fn numbers(mut seed: u64) -> impl FnMut(u64) -> u64 {
    move |below| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    }
}

#[test]
fn every_fault_is_served_within_one_turn_of_each_other_node() {
    for seed in 0..200 {
        let mut number = numbers(seed);
        let count = 2 + number(4) as u16;
        let mut world = World::new(count);
        for _ in 0..500 {
            let node = number(count.into()) as usize;
            match number(8) {
                0 => world.idle[node] = true,
                1 => world.idle[node] = false,
                _ => {
                    world.idle[node] = false;
                    world.fault(node, number(20));
                }
            }
            let pause = number(3 * QUANTUM_US / 2);
            world.run(pause);
        }
        world.run(20 * QUANTUM_US);
        assert!(world.waiting.is_empty(), "seed {seed}: {:?}", world.waiting);
        let bound = u64::from(count) * (QUANTUM_US + LOOK_US + 4 * DELAY_US);
        assert!(
            world.longest_wait_us <= bound,
            "seed {seed}: {} us with {count} nodes",
            world.longest_wait_us
        );
    }
}

#[test]
fn two_nodes_that_want_it_all_the_time_share_it() {
    let mut world = World::new(2);
    let mut admitted = [0u32; 2];
    for _ in 0..10_000 {
        for (node, times) in admitted.iter_mut().enumerate() {
            *times += u32::from(world.fault(node, 7));
        }
        world.run(100);
    }
    let [one, other] = admitted.map(f64::from);
    assert!((0.8..1.25).contains(&(one / other)), "{admitted:?}");
    assert!(one + other > 9000.0, "the turn is idle: {admitted:?}");
}

#[test]
fn a_node_with_nothing_to_do_gives_its_turn_up() {
    let mut world = World::new(2);
    assert!(world.fault(0, 1));
    assert!(!world.fault(1, 1));
    world.run(DELAY_US); // recalled
    world.idle[0] = true;
    world.run(LOOK_US + 2 * DELAY_US);
    assert!(world.waiting.is_empty());
    assert!(world.longest_wait_us < 2 * LOOK_US);
}

#[test]
fn a_node_that_only_waits_gives_its_turn_up() {
    let mut world = World::new(2);
    assert!(world.fault(0, 1));
    world.spins[0] = true;
    world.run(QUANTUM_US / 2);
    assert!(world.nodes[0].is_mine(), "nobody else wants it");
    assert!(!world.fault(1, 1));
    world.run(LOOK_US + 4 * DELAY_US);
    assert!(world.waiting.is_empty());
}

#[test]
fn a_page_that_bounces_alone_leaves_the_set() {
    let mut turns = Turns::new(NodeId::HEAD);
    let mut effects = Effects::default();
    for page in [5, 6] {
        assert!(turns.admit(page, Access::Write, 1, QUANTUM_US, &mut effects));
    }
    turns.forget(5);
    assert!(!turns.is_in_set(5) && turns.is_in_set(6));
}

#[test]
fn a_node_that_calls_another_one_lets_it_answer() {
    let mut world = World::new(2);
    world.now_us = 2 * CALL_US;
    assert!(world.fault(0, 1));
    world.run(DELAY_US);
    world.called_us[0] = world.now_us;
    assert!(!world.fault(1, 1));
    world.run(GRACE_US + LOOK_US + 2 * DELAY_US);
    assert!(world.waiting.is_empty());
}

#[test]
fn nobody_else_wants_it_so_it_goes_on() {
    let mut world = World::new(2);
    assert!(!world.fault(1, 1));
    world.run(2 * DELAY_US);
    for _ in 0..100 {
        world.run(QUANTUM_US / 3);
        assert!(world.fault(1, 1));
    }
    assert_eq!(world.waiting.len(), 0);
}

#[test]
fn who_holds_the_turn_and_is_lost_stops_nobody() {
    let mut world = World::new(3);
    assert!(!world.fault(2, 1));
    world.run(2 * DELAY_US);
    assert!(world.nodes[2].is_mine());
    world.lost[2] = true;
    assert!(!world.fault(0, 1) && !world.fault(1, 1));
    world.run(SILENCE_US + 3 * QUANTUM_US);
    assert!(world.waiting.is_empty(), "{:?}", world.waiting);
}

#[test]
fn without_node_0_what_waits_goes_on() {
    let mut world = World::new(2);
    world.lost[0] = true;
    assert!(!world.fault(1, 1));
    world.run(PATIENCE_US + 1);
    assert!(world.waiting.is_empty());
}

#[test]
fn the_set_forgets_what_no_thread_needs_any_more() {
    let mut turns = Turns::new(NodeId::HEAD);
    let mut effects = Effects::default();
    for page in 0..2 * SET as u64 {
        assert!(turns.admit(page, Access::Read, 1, QUANTUM_US, &mut effects));
    }
    assert_eq!(turns.take_parked().len(), SET);
    for turn in 0..FRESH {
        turns.admit(5, Access::Read, 1, QUANTUM_US, &mut effects);
        turns.admit(5, Access::Write, 1, QUANTUM_US, &mut effects);
        let pages = turns.take_parked();
        assert!(pages.contains(&(5, Access::Write)));
        assert_eq!(pages.len() > 1, turn + 1 < FRESH, "turn {turn}");
    }
}
