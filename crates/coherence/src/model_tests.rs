//! Exhaustive exploration of the protocol, and proof that the exploration can fail.
//!
//! Tests marked `ignore` are the large ones: `make prove` runs everything in a release build and shows the counts.

use crate::model::{explore, Cluster, Keeper, ALWAYS};
use crate::mutation::Mutation;
use stateright::{Checker, HasDiscoveries, Model};
use std::time::{Duration, Instant};

/// Nothing explored here takes so long.
const LIMIT: Duration = Duration::from_secs(3600);
const ALL: [Keeper; 3] = [Keeper::Nobody, Keeper::Home, Keeper::Other];

/// Explores everything; fails if a property is broken, a target is never reached, or time ran out.
fn prove(name: &str, cluster: Cluster) {
    let start = Instant::now();
    let checker = cluster
        .clone()
        .checker()
        .threads(2)
        .timeout(LIMIT)
        .spawn_bfs()
        .join();
    println!(
        "proved {name}: {} states, {} steps, {:.1} s",
        checker.unique_state_count(),
        checker.state_count(),
        start.elapsed().as_secs_f64()
    );
    assert!(
        checker.is_done() && start.elapsed() < LIMIT,
        "not explored to the end within {LIMIT:?}"
    );
    checker.assert_properties();
}

/// Everything that is explored, the small ones first, and whether a test build does it, too.
fn all() -> Vec<(&'static str, bool, Cluster)> {
    let one = Cluster::new;
    let returns = |cluster| Cluster {
        returns: true,
        keepers: ALL.to_vec(),
        ..cluster
    };
    let pool = |promote_after, cluster| Cluster {
        promote_after,
        demotes: true,
        ..cluster
    };
    let losses = |losses: &[usize], cluster| Cluster {
        losses: losses.to_vec(),
        ..cluster
    };
    let discards = |discards, cluster| Cluster {
        discards,
        ..cluster
    };
    let unasked = |cluster| Cluster {
        unasked: true,
        ..cluster
    };
    let calm = |cluster| Cluster {
        holds: false,
        ..cluster
    };
    let two_pages = |cluster| Cluster {
        homes: vec![0, 1],
        ..cluster
    };
    let migratory = |cluster| Cluster {
        migratory: true,
        ..cluster
    };
    let everything = |cluster| {
        let cluster = unasked(discards(1, returns(pool(2, cluster))));
        losses(&[0, 1], cluster)
    };
    vec![
        ("2 nodes", true, one(2)),
        (
            "2 nodes, contents on the other",
            true,
            Cluster {
                populated_on: Some(1),
                ..one(2)
            },
        ),
        ("2 nodes, pool", true, pool(2, one(2))),
        ("2 nodes, returns", true, returns(one(2))),
        ("2 nodes, loss", true, losses(&[0, 1], one(2))),
        ("2 nodes, everything", true, everything(one(2))),
        ("2 nodes, migratory", true, migratory(one(2))),
        (
            "2 nodes, migratory, returns, loss",
            true,
            migratory(losses(&[0, 1], returns(one(2)))),
        ),
        (
            "2 nodes, migratory, everything",
            false,
            migratory(everything(one(2))),
        ),
        ("3 nodes, migratory", true, migratory(one(3))),
        (
            "3 nodes, migratory, loss",
            false,
            migratory(losses(&[0, 1, 2], one(3))),
        ),
        (
            "3 nodes, migratory, pool, unasked",
            false,
            migratory(unasked(pool(3, one(3)))),
        ),
        (
            "2 nodes, 2 pages, migratory",
            false,
            migratory(two_pages(one(2))),
        ),
        (
            "2 nodes, unasked, discards, returns",
            false,
            unasked(discards(2, returns(one(2)))),
        ),
        ("3 nodes", true, one(3)),
        ("3 nodes, pool", true, pool(3, one(3))),
        ("3 nodes, unasked", true, unasked(one(3))),
        ("3 nodes, loss", true, losses(&[0, 1, 2], one(3))),
        (
            "3 nodes, loss, pool",
            false,
            losses(&[0, 1, 2], pool(2, one(3))),
        ),
        (
            "3 nodes, migratory, loss, pool",
            false,
            migratory(losses(&[0, 1, 2], pool(2, one(3)))),
        ),
        (
            "3 nodes, discards, pool",
            false,
            discards(1, pool(2, one(3))),
        ),
        ("3 nodes, unasked, pool", false, unasked(pool(2, one(3)))),
        (
            "3 nodes, unasked, discards",
            false,
            unasked(discards(1, one(3))),
        ),
        ("3 nodes, returns, calm", false, calm(returns(one(3)))),
        ("3 nodes, returns", false, returns(one(3))),
        (
            "3 nodes, returns, loss, calm",
            false,
            calm(losses(&[0, 1, 2], returns(one(3)))),
        ),
        (
            "3 nodes, returns, pool, calm",
            false,
            calm(returns(pool(2, one(3)))),
        ),
        ("4 nodes", false, one(4)),
        ("2 nodes, 2 pages", true, two_pages(one(2))),
        ("2 nodes, 2 pages, pool", false, two_pages(pool(2, one(2)))),
        (
            "2 nodes, 2 pages, loss",
            false,
            losses(&[0, 1], two_pages(one(2))),
        ),
    ]
}

#[test]
fn small_clusters_are_proved() {
    for (name, quick, cluster) in all() {
        if quick {
            prove(name, cluster);
        }
    }
}

/// `make prove`. `LEV_PROVE=NAME` picks one.
#[test]
#[ignore = "takes minutes: make prove"]
fn everything_is_proved() {
    let wanted = std::env::var("LEV_PROVE").ok();
    for (name, _, cluster) in all() {
        if wanted.as_deref().is_none_or(|wanted| wanted == name) {
            prove(name, cluster);
        }
    }
}

/// A cluster in which the mistake matters.
fn cluster_for(mutation: Mutation) -> Cluster {
    use Mutation::*;
    let pool = |nodes| Cluster {
        promote_after: 2,
        demotes: true,
        ..Cluster::new(nodes)
    };
    let cluster = match mutation {
        GrantBeforeDrops | StaleEventUpgrades | OwnerKeepsCopy | OwnerKeepsWriting
        | SendBeforeProtect | DropBeforeRead | SendBeforeDrop | DropClaimed | ForgetQueued
        | ForgetReader | GrantUnrecorded | NeedlessReceipt | OrderNotKept => Cluster::new(2),
        SkipAcknowledgement | TrustOldCopy | IdleBeforeInstalled | SettledBeforeSent
        | ReceiptForgotten => Cluster::new(3),
        AheadWhileBusy | UnaskedAnswers | AheadForgetsSharer | AheadKeepsWriting => Cluster {
            unasked: true,
            ..Cluster::new(2)
        },
        CleanAfterRead | LentUnrecorded => Cluster {
            migratory: true,
            ..Cluster::new(3)
        },
        CleanDenied => Cluster {
            migratory: true,
            losses: vec![0, 1, 2],
            ..Cluster::new(3)
        },
        PromoteKeepsSharers | SupplierMapsAtOnce => pool(3),
        PoolForgetsUser | DemoteBeforeUnmapped | SlotFreedEarly => pool(2),
        ReturnSilently | LastCopyDropped | ReturnKeepsSharer | EvictWithoutAnswer
        | EvictKeepsCopy | KeepBeforeDrop | NoRoomNoAnswer => Cluster {
            returns: true,
            keepers: ALL.to_vec(),
            ..Cluster::new(2)
        },
        LostStillAwaited | LostRequesterAwaited | LostOwnerIsZero | LostStaysSharer
        | LostUnasked | LostHomeAwaited | LostDemandServed | LossNotTold => Cluster {
            losses: vec![0, 1, 2],
            ..Cluster::new(3)
        },
    };
    Cluster {
        mutation: Some(mutation),
        ..cluster
    }
}

#[test]
fn every_mistake_is_caught() {
    for mutation in Mutation::ALL {
        let checker = cluster_for(*mutation)
            .checker()
            .finish_when(HasDiscoveries::AnyOf(ALWAYS.into_iter().collect()))
            .spawn_bfs()
            .join();
        let caught = ALWAYS
            .into_iter()
            .find(|name| checker.discovery(name).is_some());
        println!(
            "caught {mutation:?}: by \"{}\" after {} states",
            caught.unwrap_or("nothing"),
            checker.unique_state_count()
        );
        assert!(caught.is_some(), "{mutation:?} was not caught");
    }
}

#[test]
fn nobody_waits_for_ever() {
    for (name, _, cluster) in all().into_iter().filter(|(_, quick, _)| *quick) {
        let start = Instant::now();
        let states = explore::always_ends(&cluster).unwrap();
        println!(
            "always ends, {name}: {states} states, {:.1} s",
            start.elapsed().as_secs_f64()
        );
    }
}

#[test]
fn who_waits_at_the_home_is_passed_by_nobody() {
    for (name, cluster, others) in [
        ("2 nodes", Cluster::new(2), 1),
        ("3 nodes", Cluster::new(3), 2),
        (
            "2 nodes, returns",
            Cluster {
                returns: true,
                keepers: ALL.to_vec(),
                ..Cluster::new(2)
            },
            1,
        ),
    ] {
        for node in 0..cluster.nodes {
            let (states, most) = explore::most_served_before(&cluster, node);
            println!(
                "{name}: before node {node} at most {most} others are served; {states} states"
            );
            assert!(
                most <= others,
                "{most} others were served before node {node}"
            );
        }
    }
}

#[test]
fn two_nodes_that_need_the_same_two_pages_both_progress() {
    let cluster = Cluster {
        homes: vec![0, 1],
        ..Cluster::new(2)
    };
    for node in 0..2 {
        let (states, stuck) = explore::can_always_have_all(&cluster, node);
        println!("duel for two pages: {states} states, in {stuck} of them node {node} is shut out");
        assert_eq!(stuck, 0);
    }
}
