//! What must hold for every pattern and any number of nodes, and what the model says about a few.

use lev_sim::{simulate, Costs, Outcome, Pattern, Scenario};

fn run(nodes: u16, pattern: Pattern, accesses: u64) -> Outcome {
    simulate(&Scenario::new(nodes, pattern, accesses)).unwrap()
}

#[test]
fn no_pattern_reads_old_data_or_waits_for_ever() {
    for pattern in Pattern::ALL {
        for nodes in [1, 2, 3, 16, 17, 65, 130] {
            let outcome = run(nodes, pattern, 40);
            assert_eq!(outcome.stale_reads, 0, "{pattern:?} on {nodes}");
            assert_eq!(
                outcome.accesses,
                40 * u64::from(nodes),
                "{pattern:?} on {nodes}"
            );
        }
    }
}

#[test]
fn a_thousand_nodes_share_a_page() {
    let outcome = run(1024, Pattern::ReadMostly, 10);
    assert_eq!(outcome.stale_reads, 0);
    assert!(outcome.faults > 1024, "{outcome:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let scenario = Scenario::new(9, Pattern::Migratory, 50);
    assert_eq!(simulate(&scenario), simulate(&scenario));
    let other = Scenario {
        seed: 1,
        ..scenario
    };
    assert_ne!(simulate(&scenario), simulate(&other));
}

#[test]
fn private_pages_cost_the_same_on_any_number_of_nodes() {
    let (few, many) = (run(4, Pattern::Private, 50), run(512, Pattern::Private, 50));
    assert!(few.faults > 0);
    assert!(many.p50_us < few.p50_us * 1.2, "{few:?} {many:?}");
    assert!(many.frames_per_fault <= 4.0, "{many:?}");
}

#[test]
fn a_first_touch_is_one_round_trip() {
    let costs = Costs::default();
    let mut scenario = Scenario::new(2, Pattern::Private, 1);
    scenario.think_ns = 1_000_000; // alone
    let outcome = simulate(&scenario).unwrap();
    // fault; request out; handled, granted; frame back; in place.
    let frame = 16 * 8_000_000_000 / costs.bits_per_second;
    let expected = costs.fault_ns
        + 2 * (costs.event_ns + costs.send_ns + frame + costs.latency_ns)
        + costs.event_ns
        + costs.install_ns;
    assert_eq!((outcome.p50_us * 1000.0).round() as u64, expected);
}

#[test]
fn a_hot_word_gets_slower_with_every_node_and_the_pool_ends_that() {
    let (few, many) = (
        run(4, Pattern::HotCounter, 20),
        run(64, Pattern::HotCounter, 20),
    );
    assert!(many.mean_us > 4.0 * few.mean_us, "{few:?} {many:?}");
    assert!(many.queue_max > 32, "{many:?}");
    let mut scenario = Scenario::new(64, Pattern::HotCounter, 200);
    scenario.promote_after = 2;
    let pooled = simulate(&scenario).unwrap();
    assert_eq!((pooled.promotions, pooled.stale_reads), (1, 0));
    assert!(pooled.faults < 64 * 3, "{pooled:?}");
}

#[test]
fn what_cannot_be_is_refused_with_its_field() {
    let good = Scenario::new(2, Pattern::Private, 1);
    let bad = |change: fn(&mut Scenario)| {
        let mut scenario = good;
        change(&mut scenario);
        simulate(&scenario).unwrap_err()
    };
    assert!(bad(|scenario| scenario.nodes = 0).contains("nodes"));
    assert!(bad(|scenario| scenario.nodes = 1025).contains("nodes"));
    assert!(bad(|scenario| scenario.accesses = 0).contains("accesses"));
    assert!(bad(|scenario| scenario.costs.bits_per_second = 0).contains("bits_per_second"));
    assert!(bad(|scenario| scenario.hold_ns = u64::MAX).contains("times"));
}

#[test]
fn a_home_gets_its_turn_like_all_others() {
    // Before a home held what it granted itself, it waited until all others had done all of their work.
    let outcome = run(4, Pattern::HotCounter, 50);
    assert!(outcome.p99_us < 10.0 * outcome.p50_us, "{outcome:?}");
}
