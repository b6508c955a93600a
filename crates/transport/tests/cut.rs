//! A peer that is cut off, and a machine that stands still: both ends live on the loopback interface of a network of their
//! own, which is then taken down. Needs the right to make network namespaces; says so and passes without it.

mod node;

use lev_transport::{
    connect, Encrypt, Listener, NodeId, Purpose, Receiver, Sender, TransportError, PEER_TIMEOUT,
};
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

/// Gives the loopback interface an address that looks like another machine's.
fn set_address(address: std::net::Ipv4Addr) {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // SAFETY: as in `set_loopback`; sockaddr_in fits into the union's sockaddr.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        let place = std::ptr::addr_of_mut!(request.ifr_ifru).cast::<libc::sockaddr_in>();
        (*place).sin_family = libc::AF_INET as libc::sa_family_t;
        (*place).sin_addr.s_addr = u32::from(address).to_be();
        assert_eq!(
            libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFADDR, &mut request),
            0
        );
    }
}

/// Two ends of a channel between these addresses, in a network of this thread's own; `None`: no right to make one.
fn ends(address: &str) -> Option<[(Sender, Receiver); 2]> {
    if !own_network() {
        println!("skipped: no right to make a network namespace");
        return None;
    }
    set_address(address.parse().unwrap());
    set_loopback(true);
    let listener = Listener::bind(&format!("{address}:0")).unwrap();
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
    let peer = accepting.join().unwrap().channel.split();
    Some([channel.split(), peer])
}

/// How long a channel takes to notice that its peer is cut off, and what it says.
fn noticed_after(busy: bool) -> Option<(Duration, TransportError)> {
    let [(sender, mut receiver), _peer] = ends("10.87.9.1")?;
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
            return;
        };
        println!("busy {busy}: {time:?}, {error}");
        assert!(time < 2 * PEER_TIMEOUT, "busy {busy}: {time:?}");
        assert!(matches!(error, TransportError::Io { .. }), "{error}");
    }
}

/// As for two processes of a machine that stands still while its clocks go on.
#[test]
fn ends_on_one_machine_wait_for_it() {
    let Some([(sender, mut receiver), (answer, mut ask)]) = ends("127.0.0.1") else {
        return;
    };
    set_loopback(false);
    sender.send(1, 0, 7, &[b"are you there?"]).unwrap();
    std::thread::sleep(Duration::from_secs(5));
    set_loopback(true);
    assert_eq!(ask.recv().unwrap().0.arg, 7);
    answer.send(1, 0, 8, &[]).unwrap();
    assert_eq!(receiver.recv().unwrap().0.arg, 8);
}
