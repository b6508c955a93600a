//! Signals while receiving, and a peer that is killed.

mod node;

use lev_transport::{connect, Encrypt, Listener, NodeId, Purpose, TransportError};
use node::{credentials, pair, PATIENCE};
use std::os::unix::thread::JoinHandleExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

static HANDLED: AtomicU32 = AtomicU32::new(0);

extern "C" fn handler(_: libc::c_int) {
    HANDLED.fetch_add(1, Ordering::SeqCst);
}

/// A handler for SIGUSR1; the signal is blocked in this thread but open in the mask that is returned.
fn kickable() -> libc::sigset_t {
    // SAFETY: plain C structures of our own, filled in by the calls; the handler only touches an atomic.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        assert_eq!(
            libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()),
            0
        );
        let (mut usr1, mut open) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigemptyset(&mut usr1);
        libc::sigaddset(&mut usr1, libc::SIGUSR1);
        assert_eq!(libc::pthread_sigmask(libc::SIG_BLOCK, &usr1, &mut open), 0);
        libc::sigdelset(&mut open, libc::SIGUSR1);
        open
    }
}

/// Sends SIGUSR1 to a thread that is not joined yet.
fn kick(thread: libc::pthread_t) {
    // SAFETY: the caller holds the thread's join handle.
    assert_eq!(unsafe { libc::pthread_kill(thread, libc::SIGUSR1) }, 0);
}

#[test]
fn a_signal_ends_the_wait_and_is_never_lost() {
    for encrypt in [Encrypt::Off, Encrypt::On] {
        let (head, worker) = pair(encrypt);
        let (sender, _keep) = head.split();
        let (_keep_too, mut receiver) = worker.split();
        let (tell, told) = mpsc::channel();
        let (go, wait) = mpsc::channel::<()>();
        let waiting = std::thread::spawn(move || {
            let open = kickable();
            // Kicked while the signal is blocked, before the wait: the wait must end at once.
            tell.send(HANDLED.load(Ordering::SeqCst)).unwrap();
            wait.recv().unwrap();
            let before = HANDLED.load(Ordering::SeqCst);
            assert_eq!(
                receiver
                    .recv_interruptible(Some(&open), Some(PATIENCE))
                    .unwrap(),
                None
            );
            assert_eq!(HANDLED.load(Ordering::SeqCst), before + 1);
            // Kicked in the middle of the wait.
            tell.send(before + 1).unwrap();
            assert_eq!(
                receiver.recv_interruptible(Some(&open), None).unwrap(),
                None
            );
            assert_eq!(HANDLED.load(Ordering::SeqCst), before + 2);
            // A frame, then nothing: the channel is as it was.
            tell.send(before + 2).unwrap();
            let (header, payload) = receiver
                .recv_interruptible(Some(&open), Some(PATIENCE))
                .unwrap()
                .unwrap();
            assert_eq!((header.kind, payload), (4, &b"after"[..]));
            let start = Instant::now();
            let limit = Duration::from_millis(30);
            assert_eq!(
                receiver
                    .recv_interruptible(Some(&open), Some(limit))
                    .unwrap(),
                None
            );
            assert!(start.elapsed() >= limit);
        });
        let thread = waiting.as_pthread_t();
        told.recv().unwrap();
        kick(thread);
        go.send(()).unwrap();
        told.recv().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        kick(thread);
        told.recv().unwrap();
        sender.send(4, 0, 0, &[b"after"]).unwrap();
        waiting.join().unwrap();
    }
}

/// Not a test of its own: the process that `a_killed_peer_ends_the_channel_at_once` kills.
#[test]
#[ignore = "run by another test as a second process"]
fn second_process() {
    let Ok(address) = std::env::var("LEV_TEST_ADDRESS") else {
        return;
    };
    let channel = connect(
        &address,
        NodeId(1),
        Purpose::Page,
        &credentials(0, Encrypt::On),
        PATIENCE,
    )
    .unwrap();
    let (sender, mut receiver) = channel.split();
    let payload = vec![3; 500_000];
    // Frames that the socket cannot hold: the process dies in the middle of one.
    for i in 0..40 {
        sender.send(1, 0, i, &[&payload]).unwrap();
    }
    let _ = receiver.recv();
}

#[test]
fn a_killed_peer_ends_the_channel_at_once() {
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "second_process", "--ignored"])
        .env("LEV_TEST_ADDRESS", listener.local_address().to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let accepted = listener
        .accept(&credentials(1, Encrypt::On), PATIENCE)
        .unwrap();
    let (sender, mut receiver) = accepted.channel.split();
    assert_eq!(receiver.recv().unwrap().0.arg, 0);
    std::thread::sleep(Duration::from_millis(300));
    child.kill().unwrap();
    child.wait().unwrap();
    let start = Instant::now();
    let mut frames = 1;
    let error = loop {
        match receiver.recv() {
            Ok(_) => frames += 1,
            Err(error) => break error,
        }
    };
    assert!(
        frames < 40,
        "nothing was left in the killed process: the test shows nothing"
    );
    let reset = TransportError::Io {
        what: "receive",
        errno: libc::ECONNRESET,
    };
    assert!(
        matches!(error, TransportError::Truncated { .. }) || error == reset,
        "{error}"
    );
    assert!(start.elapsed() < Duration::from_secs(15));
    // The sending half notices by itself.
    let failed = (0..100).find_map(|_| {
        std::thread::sleep(Duration::from_millis(10));
        sender.send(1, 0, 0, &[]).err()
    });
    assert!(failed.is_some());
}
