//! A home that waits in its own queue gets its turn: what it grants itself stays for the holding time.

mod cluster;

use lev_dsm::{Backing, Engine, EngineConfig, PageLink, SegmentSpec};
use lev_wire::cluster::EngineOptions;
use lev_wire::frame::Header;
use lev_wire::NodeId;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

const GET: u16 = 0x0D01;
const FETCH: u16 = 0x0D06;
const GRANT_ZERO: u16 = 0x0D09;
const CONTENTS: u16 = 0x0D0C;
/// Tag of GET and CONTENTS.
const WRITE: u16 = 1;

type Sent = (NodeId, u16, Vec<u8>);

/// Keeps what the engine sends.
#[derive(Default)]
struct Recorder {
    sent: Mutex<Vec<Sent>>,
    more: Condvar,
}

impl PageLink for Recorder {
    fn send(&self, to: NodeId, header: Header, parts: &[&[u8]]) {
        self.sent
            .lock()
            .unwrap()
            .push((to, header.kind, parts.concat()));
        self.more.notify_all();
    }
}

impl Recorder {
    /// Waits for a frame; its payload.
    fn wait(&self, to: NodeId, kind: u16) -> Vec<u8> {
        let is_it = |(node, sent, _): &&Sent| *node == to && *sent == kind;
        let limit = Duration::from_secs(20);
        let (sent, _) = self
            .more
            .wait_timeout_while(self.sent.lock().unwrap(), limit, |sent| {
                !sent.iter().any(|frame| is_it(&frame))
            })
            .unwrap();
        let frame = sent.iter().find(is_it);
        frame
            .unwrap_or_else(|| panic!("no frame {kind:#x} to {to}"))
            .2
            .clone()
    }
}

#[test]
fn a_home_uses_a_page_before_it_serves_the_next_request() {
    let link = Arc::new(Recorder::default());
    let config = EngineConfig {
        me: NodeId(0),
        nodes: 3,
        options: EngineOptions {
            hold_us: 300_000, // enough for a thread on a busy machine
            ..EngineOptions::default()
        },
        pool: None,
        on_fatal: Box::new(|error| panic!("{error}")),
    };
    let engine = Engine::start(config, Arc::clone(&link) as Arc<dyn PageLink>).unwrap();
    let base = cluster::map(1, Backing::Anonymous);
    engine
        .prepare(SegmentSpec {
            first_page: 0,
            pages: 1,
            local: base as *mut u8,
            homes: vec![(1, NodeId(0))],
            backing: Backing::Anonymous,
        })
        .unwrap();
    engine.activate(0, &[]).unwrap();
    let hear = |from: u16, kind, tag, payload: &[u8]| {
        let header = Header {
            kind,
            tag,
            len: payload.len() as u32,
            arg: 0,
        };
        engine.on_frame(NodeId(from), header, payload).unwrap();
    };

    // Node 1 has the page; this node wants it; node 2 comes after it.
    hear(1, GET, WRITE, &[]);
    link.wait(NodeId(1), GRANT_ZERO);
    let writer = std::thread::spawn(move || {
        // SAFETY: the first word of the mapping, which is never unmapped and used by atomics only.
        let word = unsafe { AtomicU64::from_ptr(base as *mut u64) };
        word.fetch_add(1, Ordering::SeqCst)
    });
    link.wait(NodeId(1), FETCH);
    hear(2, GET, WRITE, &[]);
    let mut page = vec![0; 4096];
    page[0] = 41;
    hear(1, CONTENTS, WRITE, &page);

    page[0] = 42;
    assert!(
        link.wait(NodeId(2), CONTENTS) == page,
        "the page left before it was used"
    );
    assert_eq!(writer.join().unwrap(), 41);
    engine.stop();
}
