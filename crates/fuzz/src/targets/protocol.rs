//! The transition function of one page against peers that may say anything at any time, beside real faults and discards
//! of this node: a message is handled or refused, and what comes out of it keeps the promises of [`Action`].

use super::target;
use crate::{Seed, Target};
use lev_coherence::{
    Access, Action, Demand, HomePage, Message, NodePage, Page, Rules, Slot, Surroundings,
};
use lev_wire::NodeId;

pub(super) fn all() -> Vec<Target> {
    vec![Target {
        rounds: 30_000,
        ..target("protocol", events, histories)
    }]
}

const NODES: u16 = 4;
/// Bytes of an event: what, from whom, operand.
const EVENT: usize = 3;

struct Around {
    held: bool,
    slots: Slot,
    keeper: Option<NodeId>,
    lost: Option<NodeId>,
}

impl Surroundings for Around {
    fn held(&mut self) -> bool {
        self.held
    }

    fn take_slot(&mut self) -> Option<Slot> {
        self.slots = self.slots.checked_sub(1)?;
        Some(self.slots)
    }

    fn keeper(&mut self, holder: NodeId) -> Option<NodeId> {
        let lost = self.lost;
        self.keeper
            .filter(|node| *node != holder && Some(*node) != lost)
    }

    fn is_lost(&self, node: NodeId) -> bool {
        self.lost == Some(node)
    }
}

fn message(what: u8, operand: u8) -> Message {
    let access = if operand & 1 == 0 {
        Access::Read
    } else {
        Access::Write
    };
    let zero = operand & 2 != 0;
    match what % 23 {
        0 => Message::Get(access),
        1 => Message::Discard,
        2 => Message::Installed,
        3 => Message::Dropped,
        4 => Message::Demand(Demand::Drop),
        5 => Message::Demand(Demand::Fetch {
            to: NodeId(u16::from(operand >> 1) % NODES),
            access,
        }),
        6 => Message::Demand(Demand::Collect(operand.into())),
        7 => Message::Grant(access),
        8 => Message::GrantZero,
        9 => Message::GiveZero,
        10 => Message::ReadAhead { zero },
        11 => Message::UsePool(operand.into()),
        12 => Message::Discarded,
        13 => Message::Return,
        14 => Message::Have((operand & 2 != 0).then_some(access)),
        15 => Message::Demand(Demand::Leave(operand.into())),
        16 => Message::Demand(Demand::Evict {
            to: NodeId(u16::from(operand >> 1) % NODES),
        }),
        17 => Message::Stay,
        18 => Message::KeepSlot(operand.into()),
        19 => Message::Keep { zero },
        // `Ask` comes with the loss itself, below.
        20 => Message::Failed,
        21 => Message::Unwritten,
        _ => Message::Contents { access, zero },
    }
}

/// The first byte: bit 0, this node is the home; bit 1, pages may move into the pool.
fn events(bytes: &[u8]) {
    let Some((shape, events)) = bytes.split_first() else {
        return;
    };
    let me = NodeId(1);
    let home = if shape & 1 == 0 { me } else { NodeId(0) };
    let rules = Rules::new(me, if shape & 2 == 0 { 0 } else { 2 });
    let mut node = NodePage::default();
    let mut entry = (home == me).then(HomePage::default);
    let mut around = Around {
        held: false,
        slots: 2,
        keeper: None,
        lost: None,
    };
    let mut deferred: Vec<Demand> = Vec::new();
    let mut actions = Vec::new();
    for event in events.chunks_exact(EVENT) {
        actions.clear();
        let (what, from, operand) = (event[0], u16::from(event[1]) % NODES, event[2]);
        around.held = event[1] & 0x80 != 0;
        around.keeper = (event[1] & 0x40 != 0).then_some(NodeId(u16::from(operand) % NODES));
        if around.is_lost(NodeId(from)) {
            continue; // nothing is taken from it any more
        }
        let mut page = Page {
            rules: &rules,
            home,
            node: &mut node,
            entry: entry.as_mut(),
        };
        let result = match what {
            0xE8..=0xEB => page.give_back(&mut around, &mut actions).map(|_| ()),
            0xEC..=0xED => page.demote(&mut around, &mut actions).map(|_| ()),
            0xEE..=0xEF if around.lost.is_none() && from != me.0 => {
                around.lost = Some(NodeId(from));
                page.lost(NodeId(from), &mut around, &mut actions)
            }
            0xF0..=0xF7 => page.fault(access(operand), &mut around, &mut actions),
            0xF8..=0xFB => page.discard(&mut around, &mut actions),
            0xFC..=0xFD => {
                let to = NodeId(if from == me.0 { 2 } else { from });
                page.read_ahead(to, &mut around, &mut actions);
                Ok(())
            }
            0xFE.. => match deferred.pop() {
                Some(demand) => page.resume(demand, &mut around, &mut actions),
                None => Ok(()),
            },
            _ if from == me.0 => continue,
            what => page.receive(
                NodeId(from),
                message(what, operand),
                &mut around,
                &mut actions,
            ),
        };
        if result.is_err() {
            return; // the peer is dropped
        }
        for action in &actions {
            match action {
                Action::Send(to, _) => assert!(*to != me && to.0 < NODES, "{action:?}"),
                Action::Defer(demand) => deferred.push(*demand),
                _ => {}
            }
        }
        // What one event sets off does not grow with what peers said before, but for the requests that waited.
        assert!(
            actions.len() <= 16 + events.len() / EVENT * 4,
            "{} actions",
            actions.len()
        );
    }
}

fn access(operand: u8) -> Access {
    if operand & 1 == 0 {
        Access::Read
    } else {
        Access::Write
    }
}

/// Whole transactions: a page that is asked for, sent, taken back, discarded, promoted.
fn histories() -> Vec<Seed> {
    let history = |shape: u8, events: &[[u8; 3]]| [&[shape][..], &events.concat()].concat();
    vec![
        (
            "home-grants-zero".into(),
            history(0, &[[0, 2, 1], [0, 3, 0], [2, 3, 0], [0, 3, 1], [3, 2, 0]]),
        ),
        (
            "home-faults".into(),
            history(
                0,
                &[
                    [0xF0, 0, 1],
                    [0, 2, 0],
                    [0xF0, 0, 1],
                    [3, 2, 0],
                    [0xF8, 0, 0],
                ],
            ),
        ),
        (
            "node-asks".into(),
            history(
                1,
                &[
                    [0xF0, 0, 1],
                    [8, 0, 0],
                    [5, 0, 5],
                    [0xF0, 0, 0],
                    [13, 2, 0],
                    [4, 0, 0],
                ],
            ),
        ),
        (
            "node-holds".into(),
            history(
                1,
                &[
                    [9, 0, 0],
                    [4, 0x80, 0],
                    [0xFE, 0, 0],
                    [10, 0, 2],
                    [6, 0, 1],
                    [11, 0, 1],
                ],
            ),
        ),
        (
            "promotion".into(),
            history(
                2,
                &[
                    [0, 2, 1],
                    [0, 3, 1],
                    [2, 3, 0],
                    [0, 2, 1],
                    [3, 3, 0],
                    [0, 3, 0],
                ],
            ),
        ),
        (
            "queue".into(),
            history(0, &[[0, 2, 1], [0, 3, 1], [1, 3, 0], [0, 0, 0], [2, 3, 0]]),
        ),
    ]
}
