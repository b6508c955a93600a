//! Exhaustive exploration of the protocol, and proof that the exploration can fail.

use crate::model::Cluster;
use crate::Mutation;
use stateright::{Checker, Model};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(50);

fn cluster(nodes: usize, promote_after: u32) -> Cluster {
    Cluster {
        nodes,
        promote_after,
        discards: 0,
        holds: true,
        unasked: false,
        populated_on: None,
        mutation: None,
    }
}

/// Explores everything; fails if a property is broken, a target is never reached, or time ran out.
fn prove(cluster: Cluster) {
    let start = Instant::now();
    let checker = cluster
        .clone()
        .checker()
        .threads(2)
        .timeout(LIMIT)
        .spawn_bfs()
        .join();
    println!(
        "{cluster:?}: {} states, {} generated",
        checker.unique_state_count(),
        checker.state_count()
    );
    assert!(
        checker.is_done() && start.elapsed() < LIMIT,
        "not explored to the end within {LIMIT:?}"
    );
    checker.assert_properties();
}

/// Explores until the deliberate mistake breaks a property.
fn catch(mutation: Mutation, nodes: usize, promote_after: u32) {
    let cluster = Cluster {
        mutation: Some(mutation),
        unasked: matches!(
            mutation,
            Mutation::GiveWhileBusy
                | Mutation::UnaskedAnswers
                | Mutation::AheadForgetsSharer
                | Mutation::AheadKeepsWriting
        ),
        ..cluster(nodes, promote_after)
    };
    let properties = [
        "one writer or any number of readers",
        "a read returns the last write",
        "no message is illegal",
        "every request is answered",
    ];
    let checker = cluster
        .checker()
        .threads(2)
        .timeout(LIMIT)
        .spawn_bfs()
        .join();
    let caught = properties
        .into_iter()
        .find(|name| checker.discovery(name).is_some());
    println!(
        "{mutation:?}: caught by {caught:?} after {} states",
        checker.unique_state_count()
    );
    assert!(caught.is_some(), "{mutation:?} was not caught");
}

#[test]
fn two_nodes() {
    prove(cluster(2, 0));
}

#[test]
fn two_nodes_with_pool() {
    prove(cluster(2, 2));
}

#[test]
fn two_nodes_with_discard_and_pool() {
    prove(Cluster {
        discards: 2,
        ..cluster(2, 2)
    });
}

#[test]
fn two_nodes_with_contents_on_the_other() {
    prove(Cluster {
        populated_on: Some(1),
        ..cluster(2, 0)
    });
}

#[test]
fn three_nodes() {
    prove(cluster(3, 0));
}

#[test]
fn three_nodes_with_pool() {
    prove(cluster(3, 3));
}

#[test]
fn three_nodes_with_discard_and_pool() {
    prove(Cluster {
        discards: 1,
        ..cluster(3, 2)
    });
}

#[test]
fn four_nodes() {
    prove(cluster(4, 0));
}

#[test]
fn two_nodes_with_unasked_copies() {
    prove(Cluster {
        unasked: true,
        discards: 2,
        ..cluster(2, 2)
    });
}

#[test]
fn three_nodes_with_unasked_copies() {
    prove(Cluster {
        unasked: true,
        ..cluster(3, 0)
    });
}

#[test]
fn three_nodes_with_unasked_copies_and_pool() {
    prove(Cluster {
        unasked: true,
        ..cluster(3, 2)
    });
}

#[test]
#[cfg_attr(debug_assertions, ignore = "takes long in a debug build")]
fn three_nodes_with_unasked_copies_and_discard() {
    prove(Cluster {
        unasked: true,
        discards: 1,
        ..cluster(3, 0)
    });
}

#[test]
#[cfg_attr(debug_assertions, ignore = "takes long in a debug build")]
fn three_nodes_with_unasked_copies_discard_and_pool() {
    prove(Cluster {
        unasked: true,
        discards: 1,
        ..cluster(3, 2)
    });
}

#[test]
fn mistakes_are_caught() {
    catch(Mutation::GrantBeforeDrops, 2, 0);
    catch(Mutation::IdleBeforeInstalled, 2, 0);
    catch(Mutation::TrustOldCopy, 3, 0);
    catch(Mutation::OwnerKeepsCopy, 2, 0);
    catch(Mutation::OwnerKeepsWriting, 2, 0);
    catch(Mutation::ForgetQueued, 2, 0);
    catch(Mutation::PromoteKeepsSharers, 3, 2);
    catch(Mutation::SupplierMapsAtOnce, 3, 2);
    catch(Mutation::GiveWhileBusy, 2, 0);
    catch(Mutation::UnaskedAnswers, 2, 0);
    catch(Mutation::AheadForgetsSharer, 2, 0);
    catch(Mutation::AheadKeepsWriting, 2, 0);
}
