//! A whole engine on real userfaultfd memory against peers that may send any frames: each is handled or refused, the engine
//! itself goes on, and every frame that it sends is one that a peer would take. Without the right to use userfaultfd
//! nothing is run.

use super::{target, FRAME};
use crate::{Seed, Target};
use lev_dsm::{Backing, DsmError, Engine, EngineConfig, PageLink, PoolMapping, SegmentSpec};
use lev_wire::cluster::EngineOptions;
use lev_wire::frame::{Header, HEADER_LEN};
use lev_wire::{NodeId, PAGE_SIZE};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

pub(super) fn all() -> Vec<Target> {
    vec![Target {
        framing: None,
        memory: 8 << 20,
        rounds: 3000,
        ..target("engine", frames, conversations)
    }]
}

const ME: NodeId = NodeId(1);
const NODES: u16 = 3;
/// Pages at home on each node; each input has one of each for itself.
const PAGES: u64 = 2048;
const FIRST: u64 = 0x7_F000_0000;
const POOL_PAGES: u64 = 64;

/// The way to peers that are not there: looks at what they would get.
struct Nowhere;

impl PageLink for Nowhere {
    fn send(&self, to: NodeId, header: Header, parts: &[&[u8]]) {
        assert!(to.0 < NODES && to != ME, "a frame to {to}");
        let mut bytes = header.encode().to_vec();
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        assert_eq!(bytes.len(), HEADER_LEN + header.len as usize);
        // Words about turns are taken by the head only.
        assert!(lev_dsm::fuzzing::frame(&bytes) || *lev_dsm::FRAME_KINDS.end() == header.kind);
    }
}

struct Place {
    engine: Arc<Engine>,
    failed: Arc<AtomicBool>,
    used: u64,
}

/// The engine that serves, made anew when its pages are used up.
static PLACE: Mutex<Option<Place>> = Mutex::new(None);

#[allow(unsafe_code)]
fn memory(bytes: usize) -> *mut u8 {
    // SAFETY: a new mapping at an address of the kernel's choice replaces nothing; it is never unmapped.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    assert_ne!(address, libc::MAP_FAILED);
    address.cast()
}

#[allow(unsafe_code)]
fn pool() -> PoolMapping {
    let len = POOL_PAGES * PAGE_SIZE as u64;
    // SAFETY: the name is a C string; the returned descriptor, checked here, belongs to nobody else.
    let fd = unsafe {
        let fd = libc::memfd_create(c"pool".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0 && libc::ftruncate(fd, len as i64) == 0);
        OwnedFd::from_raw_fd(fd)
    };
    PoolMapping { fd, offset: 0, len }
}

fn start() -> Option<Place> {
    let failed = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&failed);
    let config = EngineConfig {
        me: ME,
        nodes: NODES,
        options: EngineOptions {
            hold_us: 0,
            ..EngineOptions::default()
        },
        pool: Some(pool()),
        on_fatal: Box::new(move |error| {
            eprintln!("the engine failed: {error}");
            flag.store(true, Ordering::SeqCst);
        }),
    };
    let engine = match Engine::start(config, Arc::new(Nowhere)) {
        Ok(engine) => engine,
        Err(DsmError::Uffd(error)) => {
            eprintln!("skipped: {error}");
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    let pages = PAGES * u64::from(NODES);
    engine
        .prepare(SegmentSpec {
            first_page: FIRST,
            pages,
            local: memory(pages as usize * PAGE_SIZE),
            homes: (0..NODES).map(|node| (PAGES, NodeId(node))).collect(),
            backing: Backing::Anonymous,
        })
        .and_then(|_| engine.activate(FIRST, &[]))
        .expect("fresh memory");
    Some(Place {
        engine,
        failed,
        used: 0,
    })
}

/// Records: a byte (who sends), a header, its payload as far as there is one. Page numbers are taken modulo three: one page
/// at home on each node.
fn frames(mut bytes: &[u8]) {
    let mut place = PLACE.lock().unwrap_or_else(PoisonError::into_inner);
    if place.as_ref().is_none_or(|place| place.used == PAGES) {
        *place = start();
    }
    let Some(place) = place.as_mut() else { return };
    let mine = place.used;
    place.used += 1;
    while let Some((record, rest)) = bytes.split_first_chunk::<{ HEADER_LEN + 1 }>() {
        let [from, head @ ..] = record;
        let Some(mut header) = Header::decode(head) else {
            return;
        };
        header.arg = FIRST + header.arg % 3 * PAGES + mine;
        let (payload, after) = rest.split_at(rest.len().min(header.len as usize));
        bytes = after;
        if names_loss(&header) {
            // A node that is lost stays so, and the next input needs another engine: not each time.
            if *from < 0xF0 {
                continue;
            }
            place.used = PAGES;
        }
        let result = place
            .engine
            .on_frame(NodeId(u16::from(*from % 4)), header, payload);
        assert!(
            !place.failed.load(Ordering::SeqCst),
            "frame {header:?} of node {from}"
        );
        match result {
            Ok(()) => {}
            Err(DsmError::Peer { .. }) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Whether a frame says that a node is lost.
fn names_loss(header: &Header) -> bool {
    static ASK: LazyLock<Option<[u8; 2]>> = LazyLock::new(|| {
        let frames = lev_dsm::fuzzing::frames();
        let ask = frames.iter().find(|(name, _)| name.starts_with("Ask"))?;
        ask.1.first_chunk().copied()
    });
    *ASK == Some(header.kind.to_le_bytes())
}

fn conversations() -> Vec<Seed> {
    let frames: std::collections::HashMap<String, Vec<u8>> =
        lev_dsm::fuzzing::frames().into_iter().collect();
    // From whom, page at home on which node, message.
    let say = |from: u8, page: u64, name: &str| {
        let mut bytes = frames[name].clone();
        bytes[8..16].copy_from_slice(&page.to_le_bytes());
        [&[from][..], &bytes].concat()
    };
    let get = |access: &str| format!("Get-{access}");
    vec![
        (
            "asks-at-home".into(),
            [
                say(0, 1, &get("Write")),
                say(2, 1, &get("Read")),
                say(2, 1, "Installed"),
                say(2, 1, "Discard"),
                say(0, 1, "Dropped"),
                say(2, 1, "Dropped"),
            ]
            .concat(),
        ),
        (
            "gives".into(),
            [
                say(0, 0, "GiveZero"),
                say(0, 0, "Demand-Fetch-to-NodeId-2-access-Read"),
                say(0, 0, "Demand-Drop"),
                say(0, 0, "ReadAhead-zero-false"),
                say(0, 0, "Demand-Collect-3"),
            ]
            .concat(),
        ),
        (
            "promotes".into(),
            [
                say(0, 1, &get("Write")),
                say(2, 1, &get("Write")),
                say(2, 1, "Installed"),
                say(0, 1, &get("Write")),
                say(2, 1, "Dropped"),
                say(2, 1, &get("Write")),
            ]
            .concat(),
        ),
        ("turn".into(), say(0, 0, "TurnGive")),
        (
            "loss".into(),
            [
                say(0, 0, "GiveZero"),
                say(2, 1, &get("Write")),
                say(0xF0, 0, "Ask-lost-NodeId-2"),
                say(0, 1, &get("Read")),
                say(0, 1, "Have-Some-Read"),
            ]
            .concat(),
        ),
        (
            "returns".into(),
            [
                say(2, 1, &get("Write")),
                say(0, 0, "Room"),
                say(2, 1, "Return"),
                say(2, 1, "Keep-zero-true"),
                say(2, 1, "Dropped"),
                say(0, 0, "KeepSlot-3"),
                say(0, 0, "Demand-Evict-to-NodeId-2"),
            ]
            .concat(),
        ),
        (
            "each-frame".into(),
            frames
                .values()
                .next()
                .map(|_| {
                    let mut names: Vec<_> = frames.keys().collect();
                    names.sort();
                    names
                        .iter()
                        .filter(|name| frames[**name].len() < 100)
                        .flat_map(|name| say(2, 2, name))
                        .collect()
                })
                .unwrap_or_default(),
        ),
    ]
}

// The length of a record's frame is behind the sender's byte: not where the mutator would repair it.
const _: () = assert!(FRAME.is_some());
