//! What a node tells of its room, and in which order copies go.

use super::*;

const ME: NodeId = NodeId(0);

#[test]
fn room_that_stays_is_told_again_and_none_is_told_once() {
    let room = Room::new(1024, 2);
    assert_eq!(room.news(1), Some(992));
    assert_eq!(room.news(2), None);
    room.came(1);
    assert_eq!(room.news(3), None); // hardly less
    room.came(100);
    assert_eq!(room.news(4), Some(891));
    assert_eq!(room.news(4 + TELL_AGAIN_US), Some(891));
    room.came(900);
    assert_eq!(room.news(5 + TELL_AGAIN_US), Some(0));
    assert_eq!(room.news(6 + 3 * TELL_AGAIN_US), None);
}

#[test]
fn what_the_others_may_fill_is_no_more_than_there_is() {
    let room = Room::new(1024, 5);
    let told: Vec<u64> = [0, 892, 90, 9]
        .into_iter()
        .filter_map(|pages| {
            room.came(pages);
            room.news(1)
        })
        .collect();
    // Of 992, 100, 10 (not told: hardly less) and 1 that are free.
    assert_eq!(told, [248, 25, 3]);
    // And before anything is told: a quarter of it, of which half is used at once.
    let at_first = |pages| Room::new(1024, 5).peer_has_room(ME, pages);
    assert!(at_first(123) && !at_first(124));
}

#[test]
fn a_page_goes_home_while_there_is_room_and_then_to_the_emptiest() {
    let room = Room::new(1024, 4);
    let keeper = |holder| room.keeper(ME, NodeId(holder), |node| node == NodeId(3));
    assert_eq!(keeper(1), Some(ME));
    room.came(1000);
    assert!(!room.peer_has_room(NodeId(1), 512) && room.peer_has_room(NodeId(1), 16));
    room.note_peer(NodeId(1), 5);
    room.note_peer(NodeId(2), 2);
    assert_eq!(keeper(1), Some(NodeId(2))); // never back to the holder, never to one that is lost
    assert_eq!(keeper(0), Some(NodeId(1)));
    assert_eq!(keeper(1), Some(NodeId(2)));
    assert_eq!(keeper(1), None); // its two pages are promised
    room.note_peer(NodeId(2), UNLIMITED);
    assert_eq!([1, 1, 1].map(keeper), [Some(NodeId(2)); 3]);
}

#[test]
fn what_is_on_its_way_here_is_not_free() {
    let room = Room::new(1024, 2);
    room.came(990);
    for _ in 0..2 {
        assert_eq!(room.keeper(ME, NodeId(1), |_| true), Some(ME));
        room.on_its_way(false, true);
    }
    assert_eq!(room.keeper(ME, NodeId(1), |_| true), None);
    room.on_its_way(true, true);
    room.on_its_way(true, false); // another node was faster
    assert_eq!(room.keeper(ME, NodeId(1), |_| true), Some(ME));
}

#[test]
fn faults_wait_at_the_limit_only() {
    let room = Room::new(256, 2);
    room.came(255);
    assert!(!room.park(0x1000));
    room.came(1);
    assert!(room.park(0x1000) && room.park(0x2000));
    assert!(room.released().is_empty());
    room.went();
    assert_eq!(room.released(), [0x1000, 0x2000]);
    assert!(room.released().is_empty() && room.waiting() == 0);
}
