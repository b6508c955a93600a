//! Round trips and page streams over the loopback interface: raw TCP, plain channel, encrypted channel, in turns.
//!
//! `cargo run --release -p lev-transport --example pingpong [ROUNDS [PAGES]]`

use lev_transport::{connect, Credentials, Encrypt, Listener, NodeId, Purpose, Receiver, Sender};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

const PAGE: [u8; 4096] = [0x5a; 4096];
const REQUEST: usize = 16;
/// Kinds of frames.
const PING: u16 = 1;
const FETCH: u16 = 2;
const STREAM: u16 = 3;
const DONE: u16 = 4;

fn credentials(node: u16, encrypt: Encrypt) -> Credentials {
    Credentials {
        run_id: [1; 16],
        secret: [2; 32],
        me: NodeId(node),
        version: "1.0.0".into(),
        encrypt,
    }
}

/// A channel whose far end answers, and the spin that both ends use.
fn channel(encrypt: Encrypt, spin: Duration) -> (Sender, Receiver) {
    let limit = Duration::from_secs(10);
    let listener = Listener::bind("127.0.0.1:0").expect("listening");
    let address = listener.local_address().to_string();
    std::thread::spawn(move || {
        let accepted = listener
            .accept(&credentials(1, encrypt), limit)
            .expect("accepting");
        let (sender, mut receiver) = accepted.channel.split();
        receiver.set_spin(spin);
        while let Ok((header, payload)) = receiver.recv() {
            let sent = match header.kind {
                PING => sender.send(PING, 0, header.arg, &[payload]),
                FETCH => sender.send(FETCH, 0, header.arg, &[&PAGE]),
                STREAM => Ok(()),
                _ => sender.send(DONE, 0, 0, &[]),
            };
            sent.expect("sending");
        }
    });
    let channel = connect(
        &address,
        NodeId(1),
        Purpose::Page,
        &credentials(0, encrypt),
        limit,
    )
    .expect("connecting");
    let (sender, mut receiver) = channel.split();
    receiver.set_spin(spin);
    (sender, receiver)
}

/// Median and 99th percentile, microseconds.
fn quantiles(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e6;
    (at(50), at(99))
}

/// Times `rounds` calls after a tenth of that to warm up.
fn time(rounds: usize, mut call: impl FnMut()) -> (f64, f64) {
    (0..rounds / 10).for_each(|_| call());
    let timed = (0..rounds).map(|_| {
        let start = Instant::now();
        call();
        start.elapsed()
    });
    quantiles(timed.collect())
}

fn report(name: &str, ping: (f64, f64), fetch: (f64, f64), stream: f64) {
    println!(
        "{name:<22} {:>8.1} {:>8.1} {:>10.1} {:>8.1} {:>10.0} {:>8.2}",
        ping.0,
        ping.1,
        fetch.0,
        fetch.1,
        stream / 4096.0 / 1e3,
        stream / 1e9
    );
}

/// The floor: blocking reads and writes on a bare socket.
fn raw(rounds: usize, pages: usize) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listening");
    let mut near = TcpStream::connect(listener.local_addr().expect("address")).expect("connecting");
    let (mut far, _) = listener.accept().expect("accepting");
    near.set_nodelay(true).expect("option");
    far.set_nodelay(true).expect("option");
    std::thread::spawn(move || {
        let mut request = [0; REQUEST];
        while far.read_exact(&mut request).is_ok() {
            match request[0] {
                1 => far.write_all(&request).expect("sending"),
                2 => far.write_all(&PAGE).expect("sending"),
                _ => {
                    let mut left = pages * PAGE.len();
                    let mut buffer = vec![0; 256 << 10];
                    while left > 0 {
                        left -= far.read(&mut buffer).expect("receiving");
                    }
                    far.write_all(&request).expect("sending");
                }
            }
        }
    });
    let mut page = PAGE;
    let ping = time(rounds, || {
        near.write_all(&[1; REQUEST]).expect("sending");
        near.read_exact(&mut page[..REQUEST]).expect("receiving");
    });
    let fetch = time(rounds, || {
        near.write_all(&[2; REQUEST]).expect("sending");
        near.read_exact(&mut page).expect("receiving");
    });
    near.write_all(&[3; REQUEST]).expect("sending");
    let start = Instant::now();
    for _ in 0..pages {
        near.write_all(&PAGE).expect("sending");
    }
    near.read_exact(&mut page[..REQUEST]).expect("receiving");
    report(
        "raw TCP",
        ping,
        fetch,
        (pages * PAGE.len()) as f64 / start.elapsed().as_secs_f64(),
    );
}

fn framed(name: &str, encrypt: Encrypt, spin: Duration, rounds: usize, pages: usize) {
    let (sender, mut receiver) = channel(encrypt, spin);
    let ping = time(rounds, || {
        sender.send(PING, 0, 0, &[]).expect("sending");
        receiver.recv().expect("receiving");
    });
    let fetch = time(rounds, || {
        sender.send(FETCH, 0, 0, &[]).expect("sending");
        assert_eq!(receiver.recv().expect("receiving").1.len(), PAGE.len());
    });
    let start = Instant::now();
    for page in 0..pages {
        // A page sender in the field is paced by requests; here the queue is.
        while sender.queued() > 8 << 20 {
            std::thread::sleep(Duration::from_micros(200));
        }
        sender
            .send(STREAM, 0, page as u64, &[&PAGE])
            .expect("sending");
    }
    sender.send(DONE, 0, 0, &[]).expect("sending");
    receiver.recv().expect("receiving");
    report(
        name,
        ping,
        fetch,
        (pages * PAGE.len()) as f64 / start.elapsed().as_secs_f64(),
    );
}

fn main() {
    let mut numbers = std::env::args()
        .skip(1)
        .map(|text| text.parse::<usize>().expect("a number"));
    let rounds = numbers.next().unwrap_or(20_000);
    let pages = numbers.next().unwrap_or(200_000);
    println!("                          16 B round trip, us   4 KiB fetch, us     4 KiB stream");
    println!(
        "                           median      99 %     median     99 %    kpages/s     GB/s"
    );
    for _ in 0..3 {
        raw(rounds, pages);
        framed("plain", Encrypt::Off, Duration::ZERO, rounds, pages);
        framed("encrypted", Encrypt::On, Duration::ZERO, rounds, pages);
        framed(
            "plain, spin 20 us",
            Encrypt::Off,
            Duration::from_micros(20),
            rounds,
            pages,
        );
    }
}
