//! What a remote fault costs on this machine: two engines over loopback TCP, next to the floor that userfaultfd and
//! TCP set. `cargo run --release -p lev-dsm --example fault_latency`.

#[path = "../tests/cluster/mod.rs"]
mod cluster;

use cluster::{Cluster, Shape};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PAGES: u64 = 8192;

fn main() {
    tcp_floor();
    local_floor();
    for hold_us in [0, 50] {
        faults(hold_us);
    }
    for (hold_us, pool) in [(0, 0), (20, 0), (50, 0), (50, 64)] {
        ping_pong(hold_us, pool);
    }
}

fn report(what: &str, mut samples: Vec<Duration>) {
    samples.sort_unstable();
    let at = |percent: usize| {
        samples[(samples.len() * percent / 100).min(samples.len() - 1)].as_nanos() as f64 / 1000.0
    };
    println!(
        "{what:<52} p50 {:8.2} us  p99 {:8.2}  min {:8.2}",
        at(50),
        at(99),
        at(0)
    );
}

/// 32 bytes there, a page back.
fn tcp_floor() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut far, _) = listener.accept().unwrap();
    [&near, &far]
        .iter()
        .for_each(|socket| socket.set_nodelay(true).unwrap());
    std::thread::spawn(move || {
        let (mut request, answer) = ([0; 16], [1; 4112]);
        while far.read_exact(&mut request).is_ok() && far.write_all(&answer).is_ok() {}
    });
    let mut samples = Vec::new();
    let mut page = [0; 4112];
    for _ in 0..20_000 {
        let start = Instant::now();
        near.write_all(&[0; 16]).unwrap();
        near.read_exact(&mut page).unwrap();
        samples.push(start.elapsed());
    }
    report("floor: TCP loopback, 16 B there, 4112 B back", samples);
}

/// One thread faults, another one resolves, without any network.
fn local_floor() {
    let uffd = Arc::new(lev_uffd::Uffd::open().unwrap());
    let base = cluster::map(PAGES, lev_dsm::Backing::Anonymous);
    let len = PAGES * cluster::PAGE as u64;
    uffd.register(base, len, lev_uffd::Memory::Anonymous)
        .unwrap();
    let handler = Arc::clone(&uffd);
    std::thread::spawn(move || {
        use std::os::fd::AsRawFd;
        let (bytes, mut faults) = (vec![1; cluster::PAGE], Vec::new());
        loop {
            let mut entry = libc::pollfd {
                fd: handler.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one valid entry, exclusively borrowed for the call.
            unsafe { libc::poll(&mut entry, 1, -1) };
            handler.read(&mut faults).unwrap();
            for fault in &faults {
                if fault.protected {
                    handler
                        .unprotect(fault.address, cluster::PAGE as u64)
                        .unwrap();
                } else {
                    handler.copy(fault.address, &bytes, !fault.write).unwrap();
                }
            }
        }
    });
    let touch = |write: bool| {
        let samples = (0..PAGES).map(|page| {
            let at = (base + page * cluster::PAGE as u64) as *mut u8;
            let start = Instant::now();
            // SAFETY: the page lies inside of the mapping, which is never unmapped; nobody holds a reference to it.
            unsafe {
                if write {
                    at.write_volatile(1)
                } else {
                    std::hint::black_box(at.read_volatile());
                }
            }
            start.elapsed()
        });
        samples.collect()
    };
    report("floor: userfaultfd, read of a missing page", touch(false));
    report("floor: userfaultfd, write to a protected page", touch(true));
    let mut buffer = vec![0u8; cluster::PAGE];
    let mut samples = Vec::new();
    for page in 0..PAGES {
        let at = base + page * cluster::PAGE as u64;
        let start = Instant::now();
        uffd.protect(at, cluster::PAGE as u64).unwrap();
        // SAFETY: the page is present; madvise removes a page of a mapping into which nobody holds references.
        unsafe {
            std::ptr::copy_nonoverlapping(at as *const u8, buffer.as_mut_ptr(), cluster::PAGE);
            libc::madvise(at as *mut libc::c_void, cluster::PAGE, libc::MADV_DONTNEED);
        }
        samples.push(start.elapsed());
    }
    report("floor: taking a page away (protect, copy, drop)", samples);
}

/// Pages go to the other node and back.
fn faults(hold_us: u32) {
    let mut shape = Shape {
        homes: Some(vec![(PAGES, lev_wire::NodeId(0))]),
        ..Shape::new(2, PAGES)
    };
    shape.options.hold_us = hold_us;
    let cluster = Cluster::start(shape);
    (0..PAGES).for_each(|page| cluster.nodes[0].write(page, 0, page + 1));
    let timed = |node: usize, write: bool| -> Vec<Duration> {
        let node = &cluster.nodes[node];
        let samples = (0..PAGES).map(|page| {
            let start = Instant::now();
            if write {
                node.write(page, 0, page);
            } else {
                std::hint::black_box(node.read(page, 0));
            }
            start.elapsed()
        });
        samples.collect()
    };
    let line = |what: &str| format!("{what}, hold {hold_us} us");
    report(
        &line("remote read fault (home has the page)"),
        timed(1, false),
    );
    report(
        &line("remote upgrade (home drops its copy)"),
        timed(1, true),
    );
    report(&line("home reads a page back"), timed(0, false));
    report(&line("home writes to it"), timed(0, true));
    report(&line("remote write fault"), timed(1, true));
    cluster.stop();
}

/// Two nodes take turns in one word.
fn ping_pong(hold_us: u32, pool: u64) {
    let rounds = 2000u64;
    let mut shape = Shape::new(2, 16).with_pool(pool, 32);
    shape.options.hold_us = hold_us;
    let cluster = Cluster::start(shape);
    let start = Instant::now();
    let body = |me: u64| -> cluster::Body {
        Box::new(move |cluster: &Cluster| {
            let word = cluster.nodes[me as usize].word(3, 0);
            for turn in (0..2 * rounds).filter(|turn| turn % 2 == me) {
                while word.load(std::sync::atomic::Ordering::Acquire) != turn {
                    std::thread::yield_now(); // the machine may have no core to spare for the engine
                }
                word.store(turn + 1, std::sync::atomic::Ordering::Release);
            }
        })
    };
    cluster.run(Duration::from_secs(120), vec![body(0), body(1)]);
    let each = start.elapsed().as_secs_f64() * 1e6 / (2 * rounds) as f64;
    let counters = cluster.nodes[1].engine.counters();
    println!(
        "ping-pong in one word, hold {hold_us} us, pool {pool}: {each:.1} us a turn; node1: p50 under {:?} ns, {:?}",
        counters.latency_percentile_ns(50).unwrap_or(0),
        counters.named().iter().filter(|(_, count)| *count > 0).collect::<Vec<_>>()
    );
    cluster.stop();
}
