//! Threads that send, a reader that is slow, and an end that comes at any time.

use crate::explore::{fails, holds};
use crate::socket::{join_spawned, open};
use crate::TransportError;
use lev_wire::frame::{Header, HEADER_LEN};
use shuttle::thread;

/// Frames of a stream, as (sender, number), and whether it ended with a whole one.
fn frames(mut bytes: &[u8]) -> (Vec<(u16, u64)>, bool) {
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<HEADER_LEN>() {
        let header = Header::decode(head).expect("a header where one must be");
        let Some((payload, rest)) = rest.split_at_checked(header.len as usize) else {
            break;
        };
        assert_eq!(payload, [header.kind as u8; 3], "a frame in parts");
        frames.push((header.kind, header.arg));
        bytes = rest;
    }
    (frames, bytes.is_empty())
}

fn assert_in_order(frames: &[(u16, u64)]) {
    for sender in [1, 2] {
        let numbers = frames.iter().filter(|(kind, _)| *kind == sender);
        let numbers: Vec<_> = numbers.map(|(_, number)| *number).collect();
        assert!(numbers.is_sorted(), "sender {sender}: {numbers:?}");
    }
}

macro_rules! sender_models {
    ($module:ident: $sent:ident, $cut:ident) => {
        /// Two threads send; everything arrives, and the flusher ends when they are gone.
        fn $sent() {
            let (fd, socket) = open();
            let sender = crate::$module::Sender::new(fd, None);
            let threads: Vec<_> = [(1u16, 2u64), (2, 1)]
                .into_iter()
                .map(|(kind, count)| {
                    let sender = sender.clone();
                    thread::spawn(move || {
                        (0..count).for_each(|number| {
                            sender.send(kind, 0, number, &[&[kind as u8; 3]]).unwrap();
                        });
                    })
                })
                .collect();
            let mut bytes = Vec::new();
            while bytes.len() < 3 * (HEADER_LEN + 3) {
                bytes.extend(socket.read().expect("nobody ends the channel"));
            }
            threads
                .into_iter()
                .for_each(|thread| thread.join().unwrap());
            drop(sender);
            join_spawned();
            let (frames, whole) = frames(&bytes);
            assert!(whole && frames.len() == 3, "{frames:?}");
            assert_in_order(&frames);
        }

        /// Somebody ends the channel meanwhile: nobody waits for ever, and nobody sends afterwards.
        fn $cut() {
            let (fd, socket) = open();
            let sender = crate::$module::Sender::new(fd, None);
            let other = {
                let sender = sender.clone();
                thread::spawn(move || {
                    (0..3).all(|number| sender.send(1, 0, number, &[&[1; 3]]).is_ok())
                })
            };
            let reader = thread::spawn(move || {
                let mut bytes = Vec::new();
                while let Some(more) = socket.read() {
                    bytes.extend(more);
                }
                assert_in_order(&frames(&bytes).0);
            });
            let ends = {
                let sender = sender.clone();
                thread::spawn(move || sender.shutdown())
            };
            ends.join().unwrap();
            assert_eq!(sender.send(2, 0, 0, &[]), Err(TransportError::Closed));
            assert_eq!(sender.queued(), 0);
            other.join().unwrap();
            reader.join().unwrap();
            // The flusher ends although a sender is still there.
            join_spawned();
            drop(sender);
        }
    };
}

sender_models!(sender: sent, cut);
sender_models!(sender_keeps_silent: sent_silently, cut_silently);
sender_models!(sender_overtakes: sent_overtaking, cut_overtaking);
sender_models!(sender_leaves_silently: sent_and_left, cut_and_left);
sender_models!(sender_fails_silently: sent_unfailing, cut_failing_silently);

#[test]
fn frames_arrive_whole_and_in_order() {
    holds(sent);
    fails(sent_silently);
    fails(sent_overtaking);
    fails(sent_and_left);
}

#[test]
fn an_end_wakes_everybody() {
    holds(cut);
    fails(cut_failing_silently);
}
