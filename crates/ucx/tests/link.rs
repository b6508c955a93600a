//! Links between nodes of this process, and to processes that die or stop. `UCX_TLS` says over what; `make test-ucx` runs them
//! over TCP and over shared memory.
#![cfg(feature = "libucx")]

use lev_ucx::{Ear, Link, UcxError};
use lev_wire::frame::{Header, MAX_PAYLOAD};
use lev_wire::NodeId;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);
/// What a lost peer may cost.
const NOTICE: Duration = Duration::from_secs(5);

enum Heard {
    Frame(NodeId, Header, Vec<u8>),
    Met(NodeId),
    Lost(NodeId, UcxError),
}

/// Passes on what it hears.
struct Recorder(Mutex<Sender<Heard>>);

impl Ear for Recorder {
    fn frame(&self, from: NodeId, header: Header, payload: &[u8]) {
        let frame = Heard::Frame(from, header, payload.to_vec());
        let _ = self.0.lock().unwrap().send(frame);
    }

    fn met(&self, node: NodeId) {
        let _ = self.0.lock().unwrap().send(Heard::Met(node));
    }

    fn lost(&self, node: NodeId, why: UcxError) {
        let _ = self.0.lock().unwrap().send(Heard::Lost(node, why));
    }
}

fn link(me: u16, nodes: u16) -> (Link, Receiver<Heard>) {
    let (tell, told) = channel();
    let ear = Arc::new(Recorder(Mutex::new(tell)));
    (Link::start(NodeId(me), nodes, ear).unwrap(), told)
}

/// Links that know each other.
fn links(nodes: u16) -> Vec<(Link, Receiver<Heard>)> {
    let all: Vec<_> = (0..nodes).map(|me| link(me, nodes)).collect();
    for (me, (mine, _)) in all.iter().enumerate() {
        for (other, (theirs, _)) in all.iter().enumerate() {
            if me != other {
                let words = theirs.introduction(NodeId(me as u16));
                mine.connect(NodeId(other as u16), &words).unwrap();
            }
        }
    }
    all
}

fn header(len: usize, arg: u64) -> Header {
    Header {
        kind: 7,
        tag: arg as u16,
        len: len as u32,
        arg,
    }
}

fn frame(told: &Receiver<Heard>) -> (NodeId, Header, Vec<u8>) {
    loop {
        match told.recv_timeout(LIMIT).expect("a frame in time") {
            Heard::Frame(from, header, payload) => return (from, header, payload),
            Heard::Met(_) => {}
            Heard::Lost(node, why) => panic!("{node} is lost: {why}"),
        }
    }
}

fn loss(told: &Receiver<Heard>, limit: Duration) -> (NodeId, UcxError) {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if let Heard::Lost(node, why) = told.recv_timeout(left).expect("a loss in time") {
            return (node, why);
        }
    }
}

#[test]
fn frames_of_every_size_arrive_whole_and_in_order() {
    const FRAMES: u64 = 400;
    const NODES: u16 = 3;
    // Small, page-sized, and such that need several fragments, mixed so that a small one could overtake.
    let len = |number: u64| match number % 8 {
        0 => 0,
        1 => MAX_PAYLOAD >> (number % 3),
        2 => 70_000,
        3 => 9_000,
        other => 4096 - other as usize,
    };
    let all = links(NODES);
    let exchange = |me: usize, link: &Link, told: Receiver<Heard>| {
        for number in 0..FRAMES {
            for to in (0..NODES).filter(|to| usize::from(*to) != me) {
                let byte = (number as u8).wrapping_mul(3) ^ me as u8;
                let bytes = vec![byte; len(number)];
                let (a, b) = bytes.split_at(bytes.len() / 3);
                link.send(NodeId(to), header(bytes.len(), number), &[a, b]);
            }
        }
        let mut next = [0; NODES as usize];
        for _ in 0..FRAMES * u64::from(NODES - 1) {
            let (from, header, payload) = frame(&told);
            let number = &mut next[from.index()];
            assert_eq!(header.arg, *number, "{from} to {me}");
            assert_eq!(payload.len(), len(*number));
            let byte = (*number as u8).wrapping_mul(3) ^ from.0 as u8;
            assert!(payload.iter().all(|found| *found == byte));
            *number += 1;
        }
    };
    std::thread::scope(|scope| {
        let exchange = &exchange;
        let run = |(me, (link, told))| {
            scope.spawn(move || {
                exchange(me, &link, told);
                link
            })
        };
        let ends: Vec<_> = all.into_iter().enumerate().map(run).collect();
        // Who closes is lost to those that still wait for a third one's frames: first all must have got theirs.
        let links: Vec<Link> = ends.into_iter().map(|end| end.join().unwrap()).collect();
        for link in links {
            link.close(LIMIT).unwrap();
        }
    });
}

#[test]
fn frames_sent_before_the_peer_is_known_are_kept() {
    let ((one, _), (two, told)) = (link(0, 2), link(1, 2));
    (0..10).for_each(|number| one.send(NodeId(1), header(0, number), &[]));
    one.connect(NodeId(1), &two.introduction(NodeId(0)))
        .unwrap();
    one.send(NodeId(1), header(0, 10), &[]);
    for number in 0..=10 {
        assert_eq!(frame(&told).1.arg, number);
    }
}

#[test]
fn who_cannot_prove_itself_is_not_heard() {
    let (known, told) = link(0, 3);
    let (friend, _friend_told) = link(1, 3);
    let (stranger, _stranger_told) = link(2, 3);
    friend
        .connect(NodeId(0), &known.introduction(NodeId(1)))
        .unwrap();
    // It knows the address, and node 1's token, but calls itself node 2.
    stranger
        .connect(NodeId(0), &known.introduction(NodeId(1)))
        .unwrap();
    stranger.send(NodeId(0), header(0, 66), &[]);
    let start = Instant::now();
    while known.strange() == 0 {
        assert!(start.elapsed() < LIMIT, "the stranger was not noticed");
        std::thread::sleep(Duration::from_millis(1));
    }
    friend.send(NodeId(0), header(0, 1), &[]);
    let (from, header, _) = frame(&told);
    assert_eq!((from, header.arg), (NodeId(1), 1));
}

#[test]
fn an_introduction_that_is_none_is_refused() {
    let (one, _told) = link(0, 2);
    for words in [vec![], vec![1; 16], vec![1; 1 << 20]] {
        let error = one.connect(NodeId(1), &words).unwrap_err();
        let len = words.len();
        assert_eq!(error, UcxError::Introduction { len });
    }
}

#[test]
fn the_end_of_a_link_is_noticed() {
    let mut all = links(3);
    let (two, _) = all.pop().unwrap();
    for (_, told) in &all {
        let mut met = [false; 3];
        for _ in 0..2 {
            match told.recv_timeout(LIMIT) {
                Ok(Heard::Met(node)) => assert!(!std::mem::replace(&mut met[node.index()], true)),
                _ => panic!("not met"),
            }
        }
    }
    two.close(Duration::ZERO).unwrap();
    for (link, told) in &all {
        assert_eq!(loss(told, NOTICE).0, NodeId(2));
        link.send(NodeId(2), header(0, 2), &[]); // no more than lost
    }
    all[0].0.send(NodeId(1), header(0, 9), &[]);
    assert_eq!(frame(&all[1].1).1.arg, 9, "the others go on");
}

/// UCX ends the process if it must give up an endpoint whose connection is still being made.
#[test]
fn links_may_close_as_soon_as_they_have_begun() {
    for round in 0..40 {
        let mut all = links(4);
        // In one process one after the other, or all at once; some have something to say.
        if round % 2 == 0 {
            all[3].0.send(NodeId(0), header(0, 1), &[]);
        }
        if round % 3 == 0 {
            std::thread::scope(|scope| {
                all.drain(..).for_each(|end| {
                    scope.spawn(|| drop(end));
                });
            });
        }
        drop(all);
    }
}

#[test]
fn closing_does_not_wait_for_ever_for_a_peer_that_does_not_answer() {
    let ((one, _told), (two, _)) = (link(0, 2), link(1, 2));
    one.connect(NodeId(1), &two.introduction(NodeId(0)))
        .unwrap();
    let start = Instant::now();
    one.close(Duration::ZERO).unwrap();
    assert!(start.elapsed() < NOTICE, "{:?}", start.elapsed());
}

/// Owns a link and lets go of it when it hears something.
#[derive(Default)]
struct Owner(Mutex<Option<Link>>);

impl Ear for Owner {
    fn frame(&self, _from: NodeId, _header: Header, _payload: &[u8]) {
        drop(self.0.lock().unwrap().take());
    }

    fn met(&self, _node: NodeId) {}

    fn lost(&self, _node: NodeId, _why: UcxError) {}
}

#[test]
fn a_link_may_be_dropped_by_its_own_ear() {
    let owner = Arc::new(Owner::default());
    let one = Link::start(NodeId(0), 2, Arc::clone(&owner) as Arc<dyn Ear>).unwrap();
    let (two, told) = link(1, 2);
    one.connect(NodeId(1), &two.introduction(NodeId(0)))
        .unwrap();
    two.connect(NodeId(0), &one.introduction(NodeId(1)))
        .unwrap();
    *owner.0.lock().unwrap() = Some(one);
    two.send(NodeId(0), header(0, 1), &[]);
    assert_eq!(loss(&told, NOTICE).0, NodeId(0));
}

/// Runs the test `child` of this program in a process of its own, as node 1 of 2; the pipes to it.
fn child(link: &Link) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_other_process", "--nocapture", "--ignored"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut from = BufReader::new(process.stdout.take().unwrap());
    let words = hex(&link.introduction(NodeId(1)));
    writeln!(process.stdin.as_mut().unwrap(), "{words}").unwrap();
    let mut line = String::new();
    while !line.starts_with("introduction ") {
        line.clear();
        assert!(from.read_line(&mut line).unwrap() > 0, "the child ended");
    }
    let words = line.trim().split_once(' ').unwrap().1;
    link.connect(NodeId(1), &unhex(words)).unwrap();
    (process, from)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digits).collect()
}

#[test]
#[ignore = "the body of a process that other tests start"]
fn the_other_process() {
    let (link, told) = link(1, 2);
    println!("\nintroduction {}", hex(&link.introduction(NodeId(0))));
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    link.connect(NodeId(0), &unhex(line.trim())).unwrap();
    loop {
        match told.recv() {
            Ok(Heard::Frame(from, header, payload)) => link.send(from, header, &[&payload]),
            Ok(Heard::Met(_)) => {}
            _ => return,
        }
    }
}

#[test]
fn a_process_that_is_killed_is_noticed() {
    for _ in 0..3 {
        let (link, told) = link(0, 2);
        let (mut process, _pipe) = child(&link);
        link.send(NodeId(1), header(3, 5), &[b"abc"]);
        let (from, header, payload) = frame(&told);
        assert_eq!(
            (from, header.arg, &payload[..]),
            (NodeId(1), 5, &b"abc"[..])
        );
        process.kill().unwrap();
        process.wait().unwrap();
        assert_eq!(loss(&told, NOTICE).0, NodeId(1));
        link.close(Duration::from_secs(1)).unwrap();
    }
}

fn signal(process: &Child, number: i32) {
    // SAFETY: a child of ours that was not waited for.
    unsafe { libc::kill(process.id() as i32, number) };
}

/// Stops all threads of the process: the signal does so only when each of them has seen it.
fn stop(process: &Child) {
    signal(process, libc::SIGSTOP);
    let start = Instant::now();
    let runs = |task: std::io::Result<std::fs::DirEntry>| {
        let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
        let state = stat.rsplit(')').next().unwrap().trim_start();
        !state.starts_with('T')
    };
    let tasks = format!("/proc/{}/task", process.id());
    while std::fs::read_dir(&tasks).unwrap().any(runs) {
        assert!(start.elapsed() < NOTICE, "the process does not stop");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A link to a process that has stopped after its first frame, and to which `pages` of the largest frames were sent since.
fn stopped_reader(
    pages: usize,
) -> (
    Link,
    Receiver<Heard>,
    Child,
    BufReader<std::process::ChildStdout>,
) {
    let (link, told) = link(0, 2);
    let (process, pipe) = child(&link);
    link.send(NodeId(1), header(0, 5), &[]);
    frame(&told);
    stop(&process);
    let page = vec![5; MAX_PAYLOAD];
    (0..pages).for_each(|_| link.send(NodeId(1), header(page.len(), 6), &[&page]));
    (link, told, process, pipe)
}

#[test]
fn who_does_not_read_is_given_up_and_closing_ends() {
    let (link, _told, mut process, _pipe) = stopped_reader(30);
    let start = Instant::now();
    let patience = Duration::from_millis(300);
    let error = link.close(patience).unwrap_err();
    assert!(start.elapsed() < NOTICE, "{:?}", start.elapsed());
    assert!(error.to_string().contains("node1 within 300 ms"), "{error}");
    let _ = process.kill();
    process.wait().unwrap();
}

#[test]
fn a_full_queue_is_a_loss() {
    let (_link, told, mut process, _pipe) = stopped_reader(80);
    let (node, why) = loss(&told, NOTICE);
    assert_eq!(node, NodeId(1));
    assert!(matches!(why, UcxError::QueueFull { .. }), "{why}");
    let _ = process.kill();
    process.wait().unwrap();
}

/// A thread of the test that is scheduled first must not keep UCX from doing its work.
#[test]
fn a_busy_thread_that_goes_first_starves_nobody() {
    let all = links(2);
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let busy = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            let parameters = libc::sched_param { sched_priority: 1 };
            // SAFETY: the calling thread, a valid policy and priority.
            unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameters) };
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        })
    };
    for number in 0..100 {
        all[0].0.send(NodeId(1), header(0, number), &[]);
        assert_eq!(frame(&all[1].1).1.arg, number);
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    busy.join().unwrap();
}
