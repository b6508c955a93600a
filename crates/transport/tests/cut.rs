//! A peer that is cut off: both ends live on the loopback interface of a network of their own, which is then taken
//! down. Needs the right to make network namespaces; says so and passes without it.

mod node;

use lev_transport::{connect, Encrypt, Listener, NodeId, Purpose, TransportError};
use node::{credentials, PATIENCE};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Moves this thread, and those that it starts, to a network without anything in it; false: no right to.
fn own_network() -> bool {
    // SAFETY: unshare takes no pointers; network namespaces belong to threads.
    unsafe { libc::unshare(libc::CLONE_NEWNET) == 0 }
}

/// Takes the loopback interface of this thread's network up or down.
fn set_loopback(up: bool) {
    let socket = std::net::UdpSocket::bind("[::]:0")
        .or_else(|_| std::net::UdpSocket::bind("0.0.0.0:0"))
        .unwrap();
    // SAFETY: ifreq is plain data; the name is zero-terminated; both calls read and write this structure only.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        assert_eq!(
            libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &mut request),
            0
        );
        if up {
            request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        } else {
            request.ifr_ifru.ifru_flags &= !(libc::IFF_UP as libc::c_short);
        }
        assert_eq!(
            libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &mut request),
            0
        );
    }
}

/// How long a control channel takes to notice that its peer is cut off, and what it says.
fn noticed_after(busy: bool) -> Option<(Duration, TransportError)> {
    if !own_network() {
        return None;
    }
    set_loopback(true);
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_address().to_string();
    let accepting = std::thread::spawn(move || {
        listener
            .accept(&credentials(1, Encrypt::On), PATIENCE)
            .unwrap()
    });
    let channel = connect(
        &address,
        NodeId(1),
        Purpose::Control,
        &credentials(0, Encrypt::On),
        PATIENCE,
    )
    .unwrap();
    let _peer = accepting.join().unwrap().channel.split();
    let (sender, mut receiver) = channel.split();
    set_loopback(false);
    let start = Instant::now();
    if busy {
        sender.send(1, 0, 0, &[b"are you there?"]).unwrap();
    }
    let error = receiver.recv().map(|_| ()).unwrap_err();
    assert!(sender.send(1, 0, 0, &[]).is_err());
    Some((start.elapsed(), error))
}

#[test]
fn a_cut_off_peer_is_noticed_in_time() {
    let cases = [true, false].map(|busy| (busy, std::thread::spawn(move || noticed_after(busy))));
    for (busy, case) in cases {
        let Some((time, error)) = case.join().unwrap() else {
            println!("skipped: no right to make a network namespace");
            return;
        };
        println!("busy {busy}: {time:?}, {error}");
        // A lost node must stop the guest within 5 s; this leaves one for the stopping.
        assert!(time < Duration::from_secs(4), "busy {busy}: {time:?}");
        assert!(matches!(error, TransportError::Io { .. }), "{error}");
    }
}
