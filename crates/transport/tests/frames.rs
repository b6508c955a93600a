//! Frames over real sockets: round trips, order, many senders, slow readers, ends.

mod node;

use lev_transport::{Encrypt, Purpose, TransportError, MAX_PAYLOAD, QUEUE_LIMIT};
use node::{pair, PATIENCE};
use std::time::{Duration, Instant};

const BOTH: [Encrypt; 2] = [Encrypt::Off, Encrypt::On];

/// Bytes that differ from place to place.
fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i.wrapping_mul(31).wrapping_add(seed * 17) >> 3) as u8)
        .collect()
}

#[test]
fn frames_of_every_size_go_round() {
    for encrypt in BOTH {
        let (head, worker) = pair(encrypt);
        assert_eq!(
            (head.encrypted(), worker.encrypted()),
            (encrypt == Encrypt::On, encrypt == Encrypt::On)
        );
        assert_eq!(
            (head.peer().0, worker.peer().0, worker.purpose()),
            (1, 0, Purpose::Page)
        );
        let ((to_worker, mut from_worker), (to_head, mut from_head)) =
            (head.split(), worker.split());
        let echo = std::thread::spawn(move || {
            while let Ok((header, payload)) = from_head.recv() {
                let (left, right) = payload.split_at(payload.len() / 3);
                to_head
                    .send(header.kind, header.tag, header.arg, &[left, &[], right])
                    .unwrap();
            }
        });
        // 65503 is the largest frame in one encrypted record, 65504 the smallest in two.
        let sizes = [
            0,
            1,
            8,
            4096,
            65503,
            65504,
            100_000,
            MAX_PAYLOAD - 1,
            MAX_PAYLOAD,
        ];
        for (i, size) in sizes.into_iter().enumerate() {
            let payload = pattern(size, i);
            to_worker
                .send(i as u16, !(i as u16), u64::MAX - i as u64, &[&payload])
                .unwrap();
            let (header, back) = from_worker.recv().unwrap();
            assert_eq!(
                (header.kind, header.tag, header.arg),
                (i as u16, !(i as u16), u64::MAX - i as u64)
            );
            assert!(back == payload, "{size} bytes, {encrypt:?}");
        }
        assert_eq!(to_worker.frames(), sizes.len() as u64);
        assert_eq!(to_worker.bytes(), from_worker.bytes());
        let plain = sizes.iter().map(|size| 16 + size).sum::<usize>() as u64;
        assert!(if encrypt == Encrypt::On {
            to_worker.bytes() > plain
        } else {
            to_worker.bytes() == plain
        });
        to_worker.shutdown();
        echo.join().unwrap();
    }
}

#[test]
fn many_parts_arrive_in_order() {
    for encrypt in BOTH {
        let (head, worker) = pair(encrypt);
        let (sender, _keep) = head.split();
        let (_keep_too, mut receiver) = worker.split();
        for count in [1, 14, 15, 16, 17, 100] {
            let parts: Vec<Vec<u8>> = (0..count).map(|i| pattern(i * 7 % 50, i)).collect();
            let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            sender.send(1, 2, 3, &slices).unwrap();
            assert_eq!(receiver.recv().unwrap().1, parts.concat());
        }
    }
}

#[test]
fn frames_of_many_threads_stay_whole_and_in_order() {
    for encrypt in BOTH {
        let (head, worker) = pair(encrypt);
        let (sender, _keep) = head.split();
        let (_keep_too, mut receiver) = worker.split();
        const THREADS: u16 = 8;
        const FRAMES: u64 = 2000;
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    for i in 0..FRAMES {
                        let payload =
                            pattern((i as usize * 37 + usize::from(thread)) % 6000, i as usize);
                        let half = payload.len() / 2;
                        sender
                            .send(thread, 0, i, &[&payload[..half], &payload[half..]])
                            .unwrap();
                    }
                })
            })
            .collect();
        let mut next = [0u64; THREADS as usize];
        for _ in 0..u64::from(THREADS) * FRAMES {
            let (header, payload) = receiver.recv().unwrap();
            let thread = usize::from(header.kind);
            assert_eq!(header.arg, next[thread]);
            next[thread] += 1;
            let len = (header.arg as usize * 37 + thread) % 6000;
            assert!(payload == pattern(len, header.arg as usize));
        }
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(sender.frames(), u64::from(THREADS) * FRAMES);
    }
}

#[test]
fn a_slow_reader_blocks_nobody_until_the_limit() {
    for encrypt in BOTH {
        let (head, worker) = pair(encrypt);
        let (sender, _keep) = head.split();
        let (_keep_too, mut receiver) = worker.split();
        let payload = pattern(MAX_PAYLOAD, 5);
        let (mut taken, mut slowest) = (0u64, Duration::ZERO);
        let refused = loop {
            let start = Instant::now();
            match sender.send(1, 0, taken, &[&payload]) {
                Ok(()) => taken += 1,
                Err(error) => break error,
            }
            slowest = slowest.max(start.elapsed());
            assert!(taken < 1000, "the queue has no end");
        };
        assert!(
            matches!(
                refused,
                TransportError::QueueFull {
                    limit: QUEUE_LIMIT,
                    ..
                }
            ),
            "{refused}"
        );
        assert!(slowest < Duration::from_secs(1), "a send took {slowest:?}");
        assert!(taken >= 64, "{taken} frames");
        assert!(sender.queued() > QUEUE_LIMIT - 2 * MAX_PAYLOAD);
        // The refused frame is not part of the stream, and what was taken arrives in order.
        for i in 0..taken {
            let (header, got) = receiver.recv().unwrap();
            assert!(header.arg == i && got == payload, "frame {i}");
        }
        sender.send(9, 0, 0, &[]).unwrap();
        assert_eq!(receiver.recv().unwrap().0.kind, 9);
        assert_eq!(sender.queued(), 0);
    }
}

#[test]
fn queued_frames_arrive_after_the_sender_is_dropped() {
    let (head, worker) = pair(Encrypt::On);
    let (sender, keep) = head.split();
    let (_keep_too, mut receiver) = worker.split();
    let payload = pattern(MAX_PAYLOAD, 1);
    for i in 0..60 {
        sender.send(1, 0, i, &[&payload]).unwrap();
    }
    assert!(
        sender.queued() > 0,
        "the socket took everything: the test shows nothing"
    );
    drop((sender, keep));
    for i in 0..60 {
        assert_eq!(receiver.recv().unwrap().0.arg, i);
    }
    assert_eq!(receiver.recv().unwrap_err(), TransportError::Closed);
    assert_eq!(receiver.recv().unwrap_err(), TransportError::Closed);
}

#[test]
fn a_frame_that_is_too_long_is_not_sent() {
    let (head, worker) = pair(Encrypt::Off);
    let (sender, _keep) = head.split();
    let (_keep_too, mut receiver) = worker.split();
    let half = vec![0; MAX_PAYLOAD / 2];
    let error = sender.send(1, 0, 0, &[&half, &half, &[1]]).unwrap_err();
    assert_eq!(
        error,
        TransportError::FrameTooLarge {
            len: MAX_PAYLOAD + 1,
            limit: MAX_PAYLOAD
        }
    );
    sender.send(2, 0, 0, &[b"next"]).unwrap();
    assert_eq!(receiver.recv().unwrap().1, b"next");
}

#[test]
fn shutdown_wakes_both_receivers_and_stops_senders() {
    let (head, worker) = pair(Encrypt::Off);
    let (sender, mut receiver) = head.split();
    let (_keep, mut far) = worker.split();
    let near = std::thread::spawn(move || receiver.recv().map(|_| ()));
    let far = std::thread::spawn(move || far.recv().map(|_| ()));
    std::thread::sleep(Duration::from_millis(50));
    sender.shutdown();
    assert_eq!(near.join().unwrap(), Err(TransportError::Closed));
    assert_eq!(far.join().unwrap(), Err(TransportError::Closed));
    assert_eq!(sender.send(1, 0, 0, &[]), Err(TransportError::Closed));
}

#[test]
fn buffered_frames_are_announced() {
    for encrypt in BOTH {
        let (head, worker) = pair(encrypt);
        let (sender, _keep) = head.split();
        let (_keep_too, mut receiver) = worker.split();
        assert!(!receiver.has_buffered());
        for i in 0..3 {
            sender.send(i, 0, 0, &[b"abc"]).unwrap();
        }
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(receiver.recv().unwrap().0.kind, 0);
        let bytes = receiver.bytes();
        for i in 1..3 {
            assert!(receiver.has_buffered(), "{encrypt:?}");
            let frame = receiver
                .recv_interruptible(None, Some(Duration::ZERO))
                .unwrap();
            assert_eq!(frame.unwrap().0.kind, i);
        }
        assert!(!receiver.has_buffered());
        assert_eq!(receiver.bytes(), bytes, "all frames came in one read");
        assert_eq!(
            receiver
                .recv_interruptible(None, Some(Duration::ZERO))
                .unwrap(),
            None
        );
    }
}

#[test]
fn spinning_finds_frames_too() {
    let (head, worker) = pair(Encrypt::Off);
    let (sender, _keep) = head.split();
    let (_keep_too, mut receiver) = worker.split();
    receiver.set_spin(Duration::from_millis(20));
    sender.send(1, 0, 0, &[]).unwrap();
    assert_eq!(receiver.recv().unwrap().0.kind, 1);
    let later = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(60));
        sender.send(2, 0, 0, &[]).unwrap();
    });
    assert_eq!(
        receiver
            .recv_interruptible(None, Some(PATIENCE))
            .unwrap()
            .unwrap()
            .0
            .kind,
        2
    );
    later.join().unwrap();
}
