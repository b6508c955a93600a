//! The simulation: events in order of their time.

use crate::node::{Node, Work};
use crate::outcome::{Outcome, Tally};
use crate::rng::Rng;
use crate::Scenario;
use lev_coherence::{Access, Action, Message, NodeState, Page, Rules, Slot, Surroundings};
use lev_wire::frame::HEADER_LEN;
use lev_wire::{NodeId, PAGE_SIZE};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Runs a scenario to its end.
///
/// # Errors
/// The scenario cannot be simulated, or the protocol refused one of its own messages.
pub fn simulate(scenario: &Scenario) -> Result<Outcome, String> {
    scenario.check()?;
    let mut machine = Machine::new(scenario);
    for node in 0..scenario.nodes {
        machine.think(node);
    }
    while let Some(Reverse(entry)) = machine.queue.pop() {
        machine.now = entry.at;
        match machine.events.remove(&entry.number) {
            Some(Event::Arrive(node, work)) => {
                machine.nodes[usize::from(node)].inbox.push_back(work);
                machine.work(node)?;
            }
            Some(Event::Finish(node)) => {
                machine.nodes[usize::from(node)].busy = false;
                machine.work(node)?;
            }
            Some(Event::Run(node)) => machine.run_thread(node),
            None => {}
        }
    }
    machine.finish()
}

enum Event {
    /// Something for the node's engine.
    Arrive(u16, Work),
    /// The node's engine is free again.
    Finish(u16),
    /// The node's thread goes on.
    Run(u16),
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    at: u64,
    /// Events of the same time happen in the order in which they were planned.
    number: u64,
}

struct Machine<'a> {
    scenario: &'a Scenario,
    nodes: Vec<Node>,
    queue: BinaryHeap<Reverse<Entry>>,
    events: HashMap<u64, Event>,
    planned: u64,
    now: u64,
    /// Which write every page's contents are.
    latest: HashMap<u64, u64>,
    slots: Slot,
    tally: Tally,
}

/// What the protocol may ask.
struct Ask<'a> {
    held: bool,
    slots: Option<&'a mut Slot>,
}

impl Surroundings for Ask<'_> {
    fn held(&mut self) -> bool {
        self.held
    }

    fn take_slot(&mut self) -> Option<Slot> {
        let slots = self.slots.as_deref_mut()?;
        *slots += 1;
        Some(*slots)
    }

    // Memory is not scarce here, and nobody is lost.
    fn keeper(&mut self, _: NodeId) -> Option<NodeId> {
        None
    }

    fn is_lost(&self, _: NodeId) -> bool {
        false
    }
}

impl<'a> Machine<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        let mut seeds = Rng::new(scenario.seed);
        Self {
            scenario,
            nodes: (0..scenario.nodes)
                .map(|_| Node::new(seeds.next()))
                .collect(),
            queue: BinaryHeap::new(),
            events: HashMap::new(),
            planned: 0,
            now: 0,
            latest: HashMap::new(),
            slots: 0,
            tally: Tally::default(),
        }
    }

    fn plan(&mut self, at: u64, event: Event) {
        self.planned += 1;
        let number = self.planned;
        self.events.insert(number, event);
        self.queue.push(Reverse(Entry { at, number }));
    }

    /// The thread of `node` works on its own until its next access.
    fn think(&mut self, node: u16) {
        let mean = self.scenario.think_ns;
        let pause = self.nodes[usize::from(node)].thread.rng.around(mean);
        self.plan(self.now + pause, Event::Run(node));
    }

    /// The thread makes an access, for the first time or again.
    fn run_thread(&mut self, at: u16) {
        let scenario = self.scenario;
        let node = &mut self.nodes[usize::from(at)];
        let thread = &mut node.thread;
        let (page, access, since) = match thread.waits {
            Some(waits) => waits,
            None if thread.step == scenario.accesses => return,
            None => {
                let step = thread.step;
                thread.step += 1;
                let choice = scenario
                    .pattern
                    .access(at, scenario.nodes, step, &mut thread.rng);
                (choice.0, choice.1, self.now)
            }
        };
        if !node.allows(page, access) {
            node.thread.waits = Some((page, access, since));
            let delay = scenario.costs.fault_ns;
            self.plan(
                self.now + delay,
                Event::Arrive(at, Work::Fault { page, access }),
            );
            return;
        }
        if node.thread.waits.take().is_some() {
            self.tally.waits_ns.push(self.now - since);
        }
        self.tally.accesses += 1;
        self.touch(at, page, access);
        self.think(at);
    }

    /// An access that is allowed: sees or makes the latest contents.
    fn touch(&mut self, at: u16, page: u64, access: Access) {
        let latest = self.latest.entry(page).or_default();
        let Some(copy) = self.nodes[usize::from(at)].copies.get_mut(&page) else {
            return;
        };
        if copy.page.state == NodeState::Pooled {
            copy.version = *latest; // the memory itself is shared
        }
        if copy.version != *latest {
            self.tally.stale_reads += 1;
        }
        if access == Access::Write {
            *latest += 1;
            copy.version = *latest;
        }
    }

    /// The engine of a node takes its next event, if it is free.
    fn work(&mut self, at: u16) -> Result<(), String> {
        let node = &mut self.nodes[usize::from(at)];
        if node.busy {
            return Ok(());
        }
        let Some(work) = node.inbox.pop_front() else {
            return Ok(());
        };
        node.busy = true;
        let took = self.handle(at, work)?;
        self.nodes[usize::from(at)].busy_ns += took;
        self.plan(self.now + took, Event::Finish(at));
        Ok(())
    }

    /// Runs the protocol for one event and carries out what comes of it; how long that takes.
    fn handle(&mut self, at: u16, work: Work) -> Result<u64, String> {
        let scenario = self.scenario;
        let (page, received) = match &work {
            Work::Message { page, version, .. } => (*page, *version),
            Work::Fault { page, .. } | Work::Resume { page, .. } => (*page, 0),
        };
        let home = scenario.pattern.home(page, scenario.nodes);
        let rules = Rules::new(NodeId(at), scenario.promote_after);
        let node = &mut self.nodes[usize::from(at)];
        let copy = node.copies.entry(page).or_default();
        // At home the answer to its own request and the next demand come out of one event, as in the engine.
        let answers = matches!(&work, Work::Message { message, .. }
            if matches!(message, Message::Contents { .. } | Message::Dropped));
        let fresh = answers && copy.page.pending.is_some() && scenario.hold_ns > 0;
        let old = |granted| self.now >= granted + scenario.hold_ns;
        let mut ask = Ask {
            held: fresh || !copy.granted.is_none_or(old),
            slots: (scenario.promote_after > 0).then_some(&mut self.slots),
        };
        let mut here = Page {
            rules: &rules,
            home,
            node: &mut copy.page,
            entry: (home == NodeId(at)).then(|| node.entries.entry(page).or_default()),
        };
        let mut actions = Vec::new();
        match work {
            Work::Message { from, message, .. } => {
                here.receive(from, message, &mut ask, &mut actions)
            }
            Work::Fault { access, .. } => here.fault(access, &mut ask, &mut actions),
            Work::Resume { demand, .. } => here.resume(demand, &mut ask, &mut actions),
        }
        .map_err(|illegal| format!("node{at}, page {page}: {illegal}"))?;
        let waiting = here
            .entry
            .as_ref()
            .map_or(0, |entry| entry.waiting() as u64);
        self.tally.queue_max = self.tally.queue_max.max(waiting);
        let mut took = scenario.costs.event_ns;
        for action in actions {
            took = self.act(at, page, action, received, took);
        }
        Ok(took)
    }

    /// One action, begun `after` the start of the event; when it is over.
    fn act(&mut self, at: u16, page: u64, action: Action, received: u64, after: u64) -> u64 {
        let costs = &self.scenario.costs;
        let copy = self.nodes[usize::from(at)].copies.entry(page).or_default();
        match action {
            Action::Send(to, message) => {
                let end = after + costs.send_ns;
                self.send(at, to, page, message, 0, end);
                end
            }
            Action::SendPage(to, access) => {
                let (version, end) = (copy.version, after + costs.send_ns);
                let message = Message::Contents {
                    access,
                    zero: false,
                };
                self.send(at, to, page, message, version, end);
                end
            }
            Action::SendAhead(to) => {
                let (version, end) = (copy.version, after + costs.send_ns);
                self.send(
                    at,
                    to,
                    page,
                    Message::ReadAhead { zero: false },
                    version,
                    end,
                );
                end
            }
            Action::Protect => after + costs.protect_ns,
            Action::Unprotect => {
                let end = after + costs.install_ns;
                copy.granted = Some(self.now + end);
                self.wake(at, page, end)
            }
            Action::Drop => after + costs.drop_ns,
            Action::InstallReceived(_) | Action::InstallZero => {
                let end = after + costs.install_ns;
                copy.version = if action == Action::InstallZero {
                    0
                } else {
                    received
                };
                copy.granted = Some(self.now + end);
                self.wake(at, page, end)
            }
            Action::MapSlot(_) => {
                let end = after + costs.install_ns;
                self.wake(at, page, end)
            }
            Action::Read | Action::CopyToSlot(_) | Action::ZeroSlot(_) => after + costs.copy_ns,
            Action::Wake => self.wake(at, page, after),
            Action::Defer(demand) => {
                let due = copy.granted.unwrap_or(0) + self.scenario.hold_ns;
                self.plan(
                    due.max(self.now),
                    Event::Arrive(at, Work::Resume { page, demand }),
                );
                after
            }
            Action::Promoted(_) => {
                self.tally.promotions += 1;
                after
            }
            Action::DiscardDone | Action::Zeroed | Action::Queued => after,
            // Pages neither go to make room nor leave the pool here, and no node is lost.
            Action::SendKeep(_)
            | Action::UnmapSlot(_)
            | Action::InstallSlot(_)
            | Action::FreeSlot(_)
            | Action::Demoted(_)
            | Action::Fail => after,
        }
    }

    /// The thread of this node goes on if it waits for this page.
    fn wake(&mut self, at: u16, page: u64, after: u64) -> u64 {
        let waits = &self.nodes[usize::from(at)].thread.waits;
        if waits.is_some_and(|(waits_for, ..)| waits_for == page) {
            self.plan(self.now + after, Event::Run(at));
        }
        after
    }

    /// Puts a frame on the link `after` the start of the event.
    fn send(&mut self, at: u16, to: NodeId, page: u64, message: Message, version: u64, after: u64) {
        let with_page = matches!(
            message,
            Message::Contents { zero: false, .. } | Message::ReadAhead { zero: false }
        );
        let bytes = (HEADER_LEN + if with_page { PAGE_SIZE } else { 0 }) as u64;
        self.tally.frames += 1;
        self.tally.bytes += bytes;
        let costs = &self.scenario.costs;
        let node = &mut self.nodes[usize::from(at)];
        node.link_free =
            node.link_free.max(self.now + after) + bytes * 8_000_000_000 / costs.bits_per_second;
        let arrives = node.link_free + costs.latency_ns;
        let from = NodeId(at);
        let work = Work::Message {
            from,
            page,
            message,
            version,
        };
        self.plan(arrives, Event::Arrive(to.0, work));
    }

    /// All threads must have come to their end: nobody waits for ever.
    fn finish(self) -> Result<Outcome, String> {
        let stuck = self.nodes.iter().position(|node| {
            node.thread.step < self.scenario.accesses || node.thread.waits.is_some()
        });
        if let Some(node) = stuck {
            return Err(format!(
                "node{node} waits for ever: {:?}",
                self.nodes[node].thread.waits
            ));
        }
        let busiest = self
            .nodes
            .iter()
            .map(|node| node.busy_ns)
            .max()
            .unwrap_or(0);
        Ok(self.tally.outcome(self.scenario.nodes, self.now, busiest))
    }
}
