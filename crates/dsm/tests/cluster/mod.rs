//! A cluster inside one process: every node has its own mapping of guest memory, its own engine and userfaultfd, and
//! sockets to the others. Threads of the test touch a node's mapping as that node's vCPUs would.
#![allow(dead_code)] // each test file uses a part of it

mod link;

use lev_dsm::{Backing, DsmError, Engine, EngineConfig, PageLink, PoolMapping, SegmentSpec};
use lev_wire::cluster::EngineOptions;
use lev_wire::frame::{Header, HEADER_LEN};
use lev_wire::NodeId;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

pub const PAGE: usize = 4096;
const HUGE_PAGE: usize = 2 << 20;
/// Number of the first page of the segment in every test.
pub const FIRST: u64 = 0x7_f000_0000;

/// How the cluster looks.
#[derive(Clone)]
pub struct Shape {
    pub nodes: u16,
    pub pages: u64,
    pub pool_pages: u64,
    pub backing: Backing,
    pub options: EngineOptions,
    /// Pages per home in turn; `None`: equal parts, one per node.
    pub homes: Option<Vec<(u64, NodeId)>>,
    /// Written to the head's memory before the engine knows of it: page, first word.
    pub before: Vec<(u64, u64)>,
    /// An engine that cannot go on is counted and does not end the process.
    pub may_fail: bool,
}

impl Shape {
    pub fn new(nodes: u16, pages: u64) -> Self {
        let options = EngineOptions {
            promote_after: 0,
            prefetch: 0, // so that tests can count requests
            ..EngineOptions::default()
        };
        Self {
            nodes,
            pages,
            pool_pages: 0,
            backing: Backing::Anonymous,
            options,
            homes: None,
            before: vec![],
            may_fail: false,
        }
    }

    /// So many pages stay resident on each node.
    pub fn with_limit(mut self, pages: u64) -> Self {
        self.options.node_memory = pages * PAGE as u64;
        self
    }

    pub fn with_pool(mut self, pages: u64, promote_after: u32) -> Self {
        self.pool_pages = pages;
        self.options.promote_after = promote_after;
        self
    }
}

/// One node.
pub struct Node {
    pub engine: Arc<Engine>,
    pub base: u64,
    /// What the engine said when it could not go on.
    pub fatal: Arc<Mutex<Vec<String>>>,
    sockets: Vec<Option<TcpStream>>,
    port: Option<Arc<link::Port>>,
    peers: usize,
}

impl Node {
    pub fn word(&self, page: u64, index: usize) -> &AtomicU64 {
        assert!(index < PAGE / 8);
        // SAFETY: the address is aligned and inside of the node's mapping, which is never unmapped; all tests access
        // it through atomics or volatile copies only.
        unsafe {
            AtomicU64::from_ptr((self.base + page * PAGE as u64 + index as u64 * 8) as *mut u64)
        }
    }

    pub fn read(&self, page: u64, index: usize) -> u64 {
        self.word(page, index).load(Ordering::Relaxed)
    }

    pub fn write(&self, page: u64, index: usize, value: u64) {
        self.word(page, index).store(value, Ordering::Relaxed);
    }

    /// Cuts the connections of this node, as its death would.
    pub fn cut(&self) {
        for socket in self.sockets.iter().flatten() {
            let _ = socket.shutdown(std::net::Shutdown::Both); // the peer may have been faster
        }
        if let Some(port) = &self.port {
            let _ = port.link.close(Duration::ZERO);
            // Nothing more comes from the others, and they are not told: as if they had died as well.
            let others = (0..u16::MAX).map(NodeId).take(self.peers);
            others.for_each(|peer| self.engine.peer_lost(peer));
        }
    }

    pub fn counter(&self, name: &str) -> u64 {
        let named = self.engine.counters().named();
        named.iter().find(|(key, _)| *key == name).unwrap().1
    }

    pub fn address(&self, page: u64) -> *mut u8 {
        (self.base + page * PAGE as u64) as *mut u8
    }
}

/// What one thread of a test does.
pub type Body = Box<dyn FnOnce(&Cluster) + Send>;

pub struct Cluster {
    pub nodes: Vec<Node>,
    /// Bytes of guest memory per node.
    pub shape: Shape,
}

/// Frames to the other nodes: written at once if the socket takes them, else by a thread.
struct Link {
    peers: Vec<Option<Arc<Peer>>>,
}

struct Peer {
    socket: TcpStream,
    queue: Mutex<Vec<u8>>,
    filled: Condvar,
}

impl PageLink for Link {
    fn send(&self, to: NodeId, header: Header, parts: &[&[u8]]) {
        let peer = self.peers[to.index()].as_ref().expect("a frame to oneself");
        assert_eq!(
            parts.iter().map(|part| part.len()).sum::<usize>(),
            header.len as usize
        );
        let frame = [&header.encode()[..], &parts.concat()].concat();
        let mut queue = peer.queue.lock().unwrap();
        let mut sent = 0;
        if queue.is_empty() {
            // SAFETY: the kernel reads `frame.len()` bytes from `frame`.
            let result = unsafe {
                libc::send(
                    peer.socket.as_raw_fd(),
                    frame.as_ptr().cast(),
                    frame.len(),
                    libc::MSG_DONTWAIT,
                )
            };
            sent = result.max(0) as usize;
        }
        if sent < frame.len() {
            queue.extend_from_slice(&frame[sent..]);
            peer.filled.notify_one();
        }
    }
}

fn write_behind(peer: &Peer) {
    loop {
        let queue = peer.queue.lock().unwrap();
        let mut queue = peer
            .filled
            .wait_while(queue, |queue| queue.is_empty())
            .unwrap();
        // Held while writing: `send` blocks the test's engine here, which only a test may do.
        let bytes = std::mem::take(&mut *queue);
        if (&peer.socket).write_all(&bytes).is_err() {
            return;
        }
    }
}

fn receive(engine: &Engine, from: NodeId, mut socket: TcpStream) {
    let mut header = [0; HEADER_LEN];
    let mut payload = Vec::new();
    while socket.read_exact(&mut header).is_ok() {
        let header = Header::decode(&header).unwrap();
        payload.resize(header.len as usize, 0);
        socket.read_exact(&mut payload).unwrap();
        match engine.on_frame(from, header, &payload) {
            Ok(()) => {}
            Err(DsmError::Stopped) => return,
            Err(error) => fail(&format!("{error}")),
        }
    }
}

/// Ends the test process: threads that wait for a page cannot be unwound.
pub fn fail(message: &str) -> ! {
    eprintln!("{message}");
    std::process::abort();
}

pub fn map(pages: u64, backing: Backing) -> u64 {
    let flags = match backing {
        Backing::Anonymous => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
        Backing::Shmem => libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
    };
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            pages as usize * PAGE + HUGE_PAGE,
            rights,
            flags,
            -1,
            0,
        )
    };
    assert_ne!(address, libc::MAP_FAILED);
    // As QEMU aligns guest memory, so that huge pages can back it.
    (address as u64).next_multiple_of(HUGE_PAGE as u64)
}

fn pool_file(pages: u64) -> OwnedFd {
    // SAFETY: the name is a C string; the returned descriptor, checked here, belongs to nobody else.
    unsafe {
        let fd = libc::memfd_create(c"pool".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0);
        assert_eq!(libc::ftruncate(fd, (pages * PAGE as u64) as i64), 0);
        OwnedFd::from_raw_fd(fd)
    }
}

fn socket_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (other, _) = listener.accept().unwrap();
    [&one, &other]
        .iter()
        .for_each(|socket| socket.set_nodelay(true).unwrap());
    (one, other)
}

impl Cluster {
    /// Starts all nodes; workers activate first, as in real life.
    pub fn start(shape: Shape) -> Arc<Self> {
        Self::with(shape, Self::bring_up)
    }

    /// Starts all nodes and leaves it to `bring_up` to make their memory known.
    pub fn with(shape: Shape, bring_up: impl FnOnce(&Self)) -> Arc<Self> {
        let count = usize::from(shape.nodes);
        let pool = (shape.pool_pages > 0).then(|| pool_file(shape.pool_pages));
        let mut sockets: Vec<Vec<Option<TcpStream>>> = Vec::new();
        for one in 0..count {
            // To each node that came before; its end of the pair goes to the end of its own list.
            let mut mine = Vec::new();
            for other in &mut sockets {
                let (near, far) = socket_pair();
                mine.push(Some(near));
                other.push(Some(far));
            }
            mine.push(None);
            debug_assert_eq!(mine.len(), one + 1);
            sockets.push(mine);
        }
        let nodes: Vec<Node> = if link::wanted() {
            let ports = link::Port::all(shape.nodes, shape.may_fail);
            let start = |(me, port)| start_over_ucx(&shape, NodeId(me), pool.as_ref(), port);
            (0..).zip(ports).map(start).collect()
        } else {
            sockets
                .into_iter()
                .enumerate()
                .map(|(me, sockets)| start_node(&shape, NodeId(me as u16), pool.as_ref(), sockets))
                .collect()
        };
        let cluster = Arc::new(Self { nodes, shape });
        bring_up(&cluster);
        cluster
    }

    /// Prepares and activates the segment everywhere.
    pub fn bring_up(&self) {
        let head = &self.nodes[0];
        for (page, value) in &self.shape.before {
            head.write(*page, 0, *value);
        }
        let populated = head.engine.prepare(self.spec(0)).unwrap();
        for (index, node) in self.nodes.iter().enumerate().skip(1) {
            assert!(node.engine.prepare(self.spec(index)).unwrap().is_empty());
            node.engine.activate(FIRST, &populated).unwrap();
        }
        head.engine.activate(FIRST, &populated).unwrap();
    }

    pub fn spec(&self, node: usize) -> SegmentSpec {
        let (pages, count) = (self.shape.pages, u64::from(self.shape.nodes));
        let homes = self.shape.homes.clone().unwrap_or_else(|| {
            let part = |index| pages * (index + 1) / count - pages * index / count;
            (0..count)
                .map(|index| (part(index), NodeId(index as u16)))
                .collect()
        });
        let local = self.nodes[node].base as *mut u8;
        SegmentSpec {
            first_page: FIRST,
            pages,
            local,
            homes,
            backing: self.shape.backing,
        }
    }

    /// Runs one thread per entry and waits for all; a hang ends the process with what every node knows.
    pub fn run(self: &Arc<Self>, limit: Duration, bodies: Vec<Body>) {
        let done = Arc::new(AtomicBool::new(false));
        let watch = {
            let (cluster, done) = (Arc::clone(self), Arc::clone(&done));
            std::thread::spawn(move || cluster.watch(limit, &done))
        };
        let threads: Vec<_> = bodies
            .into_iter()
            .map(|body| {
                let cluster = Arc::clone(self);
                std::thread::spawn(move || body(&cluster))
            })
            .collect();
        let results: Vec<_> = threads
            .into_iter()
            .map(std::thread::JoinHandle::join)
            .collect();
        done.store(true, Ordering::Release);
        watch.thread().unpark();
        watch.join().unwrap();
        assert!(
            results.iter().all(Result::is_ok),
            "a thread of the test failed"
        );
    }

    fn watch(&self, limit: Duration, done: &AtomicBool) {
        let deadline = std::time::Instant::now() + limit;
        while !done.load(Ordering::Acquire) {
            let Some(left) = deadline.checked_duration_since(std::time::Instant::now()) else {
                self.dump();
                fail(&format!("not done within {limit:?}"));
            };
            std::thread::park_timeout(left);
        }
    }

    /// What every node knows, for somebody who has to find out why nothing moves.
    pub fn dump(&self) {
        for node in &self.nodes {
            for line in node.engine.describe_unsettled(20) {
                eprintln!("{line}");
            }
            eprintln!("{:?}", node.engine.counters().named());
        }
    }

    pub fn total(&self, name: &str) -> u64 {
        self.nodes.iter().map(|node| node.counter(name)).sum()
    }

    pub fn stop(&self) {
        self.nodes.iter().for_each(|node| node.engine.stop());
        let ports = self.nodes.iter().filter_map(|node| node.port.as_ref());
        ports.for_each(|port| drop(port.link.close(Duration::ZERO)));
    }
}

fn start_node(
    shape: &Shape,
    me: NodeId,
    pool: Option<&OwnedFd>,
    sockets: Vec<Option<TcpStream>>,
) -> Node {
    let peers: Vec<Option<Arc<Peer>>> = sockets
        .into_iter()
        .map(|socket| {
            socket.map(|socket| {
                Arc::new(Peer {
                    socket,
                    queue: Mutex::default(),
                    filled: Condvar::new(),
                })
            })
        })
        .collect();
    let fatal = Arc::new(Mutex::new(Vec::new()));
    let may_fail = shape.may_fail;
    let engine = Engine::start(
        configuration(shape, me, pool, &fatal),
        Arc::new(Link {
            peers: peers.clone(),
        }),
    )
    .unwrap();
    let sockets = peers
        .iter()
        .map(|peer| peer.as_ref().map(|peer| peer.socket.try_clone().unwrap()))
        .collect();
    for (index, peer) in peers.into_iter().enumerate() {
        let Some(peer) = peer else { continue };
        let (engine, socket) = (Arc::clone(&engine), peer.socket.try_clone().unwrap());
        std::thread::spawn(move || {
            let from = NodeId(index as u16);
            receive(&engine, from, socket);
            if may_fail {
                engine.peer_lost(from);
            }
        });
        std::thread::spawn(move || write_behind(&peer));
    }
    Node {
        engine,
        base: map(shape.pages, shape.backing),
        fatal,
        sockets,
        port: None,
        peers: shape.nodes.into(),
    }
}

fn configuration(
    shape: &Shape,
    me: NodeId,
    pool: Option<&OwnedFd>,
    fatal: &Arc<Mutex<Vec<String>>>,
) -> EngineConfig {
    let (told, may_fail) = (Arc::clone(fatal), shape.may_fail);
    EngineConfig {
        me,
        nodes: shape.nodes,
        options: shape.options.clone(),
        pool: pool.map(|fd| PoolMapping {
            fd: fd.try_clone().unwrap(),
            offset: 0,
            len: shape.pool_pages * PAGE as u64,
        }),
        on_fatal: Box::new(move |error| {
            if !may_fail {
                fail(&format!("{me}: {error}"));
            }
            told.lock().unwrap().push(error.to_string());
        }),
    }
}

fn start_over_ucx(
    shape: &Shape,
    me: NodeId,
    pool: Option<&OwnedFd>,
    port: Arc<link::Port>,
) -> Node {
    let fatal = Arc::default();
    let config = configuration(shape, me, pool, &fatal);
    let link = Arc::clone(&port) as Arc<dyn PageLink>;
    let engine = Engine::start(config, link).unwrap();
    port.serve(&engine);
    Node {
        engine,
        base: map(shape.pages, shape.backing),
        fatal,
        sockets: vec![],
        port: Some(port),
        peers: shape.nodes.into(),
    }
}

/// A node without any other one.
pub fn start_alone(options: EngineOptions) -> Result<Arc<Engine>, DsmError> {
    let config = EngineConfig {
        me: NodeId(0),
        nodes: 1,
        options,
        pool: None,
        on_fatal: Box::new(|error| fail(&format!("{error}"))),
    };
    Engine::start(config, Arc::new(Link { peers: vec![None] }))
}
