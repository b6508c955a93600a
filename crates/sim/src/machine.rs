//! The simulation: events in order of their time.

use crate::node::{Node, Thread, Work};
use crate::outcome::{Outcome, Tally};
use crate::pattern::Synthetic;
use crate::slots::Slots;
use crate::work::{Issue, Workload};
use crate::{Costs, Pool, Scenario};
use lev_coherence::{
    Access, Action, HomePage, Message, NodeState, Page, Rules, Slot, Surroundings,
};
use lev_wire::frame::HEADER_LEN;
use lev_wire::{NodeId, PAGE_SIZE};
use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap, HashSet};

/// Runs a scenario to its end.
///
/// # Errors
/// The scenario cannot be simulated, or the protocol refused one of its own messages.
pub fn simulate(scenario: &Scenario) -> Result<Outcome, String> {
    scenario.check()?;
    let setting = Setting {
        nodes: scenario.nodes,
        costs: scenario.costs,
        hold_ns: scenario.hold_ns,
        promote_after: scenario.promote_after,
        pool: scenario.pool,
    };
    Machine::new(setting, Synthetic::new(scenario)).run()
}

/// A home looks for pages that should leave the pool so often, while others find no slot: as the engine does.
const LOOK_NS: u64 = 5_000_000;

/// What is the same for a whole run, beside its work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) nodes: u16,
    pub(crate) costs: Costs,
    pub(crate) hold_ns: u64,
    pub(crate) promote_after: u32,
    pub(crate) pool: Pool,
}

enum Event {
    /// Something for the node's engine.
    Arrive(u16, Work),
    /// The node's engine is free again.
    Finish(u16),
    /// The thread goes on.
    Run(usize),
    /// A home looks for pages that should leave the pool.
    Look(u16),
}

struct Entry {
    at: u64,
    /// Events of the same time happen in the order in which they were planned.
    number: u64,
    event: Event,
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Entry {}

pub(crate) struct Machine<W> {
    setting: Setting,
    work: W,
    nodes: Vec<Node>,
    threads: Vec<Thread>,
    queue: BinaryHeap<Reverse<Entry>>,
    planned: u64,
    now: u64,
    /// Pages that somebody has used.
    used: HashSet<u64>,
    /// Which write every page's contents are.
    latest: HashMap<u64, u64>,
    tally: Tally,
}

/// What the protocol may ask.
struct Ask<'a> {
    held: bool,
    slots: &'a mut Slots,
    pool: Pool,
    page: u64,
    now: u64,
}

impl Surroundings for Ask<'_> {
    fn held(&mut self) -> bool {
        self.held
    }

    fn take_slot(&mut self) -> Option<Slot> {
        self.slots.take(self.pool, self.page, self.now)
    }

    // Memory is not scarce here, and nobody is lost.
    fn keeper(&mut self, _: NodeId) -> Option<NodeId> {
        None
    }

    fn is_lost(&self, _: NodeId) -> bool {
        false
    }
}

impl<W: Workload> Machine<W> {
    pub(crate) fn new(setting: Setting, work: W) -> Self {
        let thread = |node| Thread {
            node,
            waits: None,
            next: None,
        };
        Self {
            setting,
            nodes: (0..setting.nodes)
                .map(|_| Node::new(setting.pool))
                .collect(),
            threads: work.threads().into_iter().map(thread).collect(),
            work,
            queue: BinaryHeap::new(),
            planned: 0,
            now: 0,
            used: HashSet::new(),
            latest: HashMap::new(),
            tally: Tally::default(),
        }
    }

    /// Runs to the end.
    pub(crate) fn run(mut self) -> Result<Outcome, String> {
        for thread in 0..self.threads.len() {
            self.free(thread);
        }
        while let Some(Reverse(entry)) = self.queue.pop() {
            self.now = entry.at;
            match entry.event {
                Event::Arrive(node, work) => {
                    self.nodes[usize::from(node)].inbox.push_back(work);
                    self.work(node)?;
                }
                Event::Finish(node) => {
                    self.nodes[usize::from(node)].busy = false;
                    self.work(node)?;
                }
                Event::Run(thread) => self.run_thread(thread),
                Event::Look(node) => self.look(node)?,
            }
        }
        self.finish()
    }

    fn plan(&mut self, at: u64, event: Event) {
        self.planned += 1;
        let number = self.planned;
        self.queue.push(Reverse(Entry { at, number, event }));
    }

    /// A thread has nothing to do: whoever may go on now does.
    fn free(&mut self, thread: usize) {
        let mut issues: Vec<Issue> = Vec::new();
        self.work.free(thread, self.now, &mut issues);
        for issue in issues {
            self.threads[issue.thread].next = issue.access;
            self.plan(issue.at, Event::Run(issue.thread));
        }
    }

    /// Before a page is used for the first time: it lies where it was.
    fn lay(&mut self, page: u64) {
        let holder = match self.used.insert(page) {
            true => self.work.holder(page),
            false => None,
        };
        if let Some(holder) = holder {
            let home = self.work.home(page).index();
            let copy = self.nodes[holder.index()].copies.entry(page).or_default();
            copy.page.state = NodeState::Exclusive;
            self.nodes[home]
                .entries
                .insert(page, HomePage::owned_by(holder));
        }
    }

    /// The thread makes an access, for the first time or again.
    fn run_thread(&mut self, at: usize) {
        if let Some((page, _)) = self.threads[at].next {
            self.lay(page);
        }
        let thread = &mut self.threads[at];
        let (page, access, since) = match (thread.waits, thread.next.take()) {
            (Some(waits), _) => waits,
            (None, Some((page, access))) => {
                self.tally.began(at, page, access);
                (page, access, self.now)
            }
            (None, None) => return,
        };
        let number = thread.node;
        let node = &mut self.nodes[usize::from(number)];
        if !node.allows(page, access) {
            thread.waits = Some((page, access, since));
            node.waiting.push(at);
            let fault = Event::Arrive(number, Work::Fault { page, access });
            self.plan(self.now + self.setting.costs.fault_ns, fault);
            return;
        }
        if thread.waits.take().is_some() {
            let class = self.work.class(page);
            self.tally.waited(class, self.now - since);
        }
        self.tally.accesses += 1;
        self.touch(number, page, access);
        self.free(at);
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
        let setting = self.setting;
        let (page, received) = match &work {
            Work::Message { page, version, .. } => (*page, *version),
            Work::Fault { page, .. } | Work::Resume { page, .. } | Work::Demote { page } => {
                (*page, 0)
            }
        };
        let home = self.work.home(page);
        let rules = Rules::new(NodeId(at), setting.promote_after);
        let node = &mut self.nodes[usize::from(at)];
        let copy = node.copies.entry(page).or_default();
        // At home the answer to its own request and the next demand come out of one event, as in the engine.
        let answers = matches!(&work, Work::Message { message, .. }
            if matches!(message, Message::Contents { .. } | Message::Dropped));
        let fresh = answers && copy.page.pending.is_some() && setting.hold_ns > 0;
        let old = |granted| self.now >= granted + setting.hold_ns;
        let mut ask = Ask {
            held: fresh || !copy.granted.is_none_or(old),
            slots: &mut node.slots,
            pool: setting.pool,
            page,
            now: self.now,
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
            Work::Demote { page } => {
                here.demote(&mut ask, &mut actions)
                    .map(|started| match started {
                        true => {}
                        false => ask.slots.busy(page, self.now),
                    })
            }
        }
        .map_err(|illegal| format!("node{at}, page {page}: {illegal}"))?;
        let waiting = here
            .entry
            .as_ref()
            .map_or(0, |entry| entry.waiting() as u64);
        self.tally.queue_max = self.tally.queue_max.max(waiting);
        self.watch(at);
        let mut took = setting.costs.event_ns;
        for action in actions {
            took = self.act(at, page, action, received, took);
        }
        Ok(took)
    }

    /// One action, begun `after` the start of the event; when it is over.
    fn act(&mut self, at: u16, page: u64, action: Action, received: u64, after: u64) -> u64 {
        let costs = self.setting.costs;
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
                let due = copy.granted.unwrap_or(0) + self.setting.hold_ns;
                self.plan(
                    due.max(self.now),
                    Event::Arrive(at, Work::Resume { page, demand }),
                );
                after
            }
            Action::Promoted(_) => {
                self.tally.promotions += 1;
                self.nodes[usize::from(at)].slots.promoted(page, self.now);
                after
            }
            Action::Demoted(_) => {
                self.tally.demotions += 1;
                after
            }
            Action::UnmapSlot(_) => after + costs.drop_ns,
            Action::InstallSlot(_) => {
                let end = after + costs.copy_ns + costs.install_ns;
                copy.version = self.latest.get(&page).copied().unwrap_or(0); // the memory itself was shared
                copy.granted = Some(self.now + end);
                self.wake(at, page, end)
            }
            Action::FreeSlot(slot) => {
                self.nodes[usize::from(at)].slots.free(slot);
                after
            }
            Action::DiscardDone | Action::Zeroed | Action::Queued | Action::LentToWrite => after,
            // Pages do not go to make room here, and no node is lost.
            Action::SendKeep(_) | Action::Fail => after,
        }
    }

    /// Plans a look at the pages of a home in the pool, if others find no slot and none is planned.
    fn watch(&mut self, at: u16) {
        let slots = &mut self.nodes[usize::from(at)].slots;
        if slots.are_short() && !std::mem::replace(&mut slots.watched, true) {
            self.plan(self.now + LOOK_NS, Event::Look(at));
        }
    }

    /// Pages of this home that should leave the pool do so.
    fn look(&mut self, at: u16) -> Result<(), String> {
        let node = &mut self.nodes[usize::from(at)];
        node.slots.watched = false;
        while let Some(page) = node.slots.next(self.now) {
            node.inbox.push_back(Work::Demote { page });
        }
        self.watch(at);
        self.work(at)
    }

    /// The threads of this node that wait for this page go on.
    fn wake(&mut self, at: u16, page: u64, after: u64) -> u64 {
        let threads = &self.threads;
        let waits_here = |thread: &usize| {
            let waits = &threads[*thread].waits;
            waits.is_some_and(|(waits_for, ..)| waits_for == page)
        };
        let waiting = &mut self.nodes[usize::from(at)].waiting;
        let awake: Vec<usize> = waiting.iter().copied().filter(waits_here).collect();
        waiting.retain(|thread| !waits_here(thread));
        for thread in awake {
            self.plan(self.now + after, Event::Run(thread));
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
        self.tally.sent(self.work.class(page), bytes);
        let costs = self.setting.costs;
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
        let stuck = self.threads.iter().find(|thread| thread.waits.is_some());
        if let Some(thread) = stuck {
            return Err(format!(
                "node{} waits for ever: {:?}",
                thread.node, thread.waits
            ));
        }
        if self.work.left() > 0 {
            return Err(format!("{} accesses were never made", self.work.left()));
        }
        let busiest = self
            .nodes
            .iter()
            .map(|node| node.busy_ns)
            .max()
            .unwrap_or(0);
        Ok(self.tally.outcome(self.setting.nodes, self.now, busiest))
    }
}
