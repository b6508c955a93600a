//! The engine's frames over UCX instead of sockets, for the same tests.

use lev_dsm::{DsmError, Engine, PageLink};
use lev_ucx::{Ear, Link, UcxError};
use lev_wire::frame::Header;
use lev_wire::NodeId;
use std::sync::{Arc, OnceLock, Weak};

/// Whether the tests run over UCX: `make test-ucx` asks for it.
pub fn wanted() -> bool {
    std::env::var("LEV_TEST_TRANSPORT").is_ok_and(|name| name == "ucx")
}

/// Gives the frames of one node's peers to its engine.
pub struct Ears {
    engine: OnceLock<Weak<Engine>>,
    /// Losses are part of the test.
    may_fail: bool,
}

impl Ears {
    fn engine(&self) -> Option<Arc<Engine>> {
        self.engine.get()?.upgrade()
    }
}

impl Ear for Ears {
    fn frame(&self, from: NodeId, header: Header, payload: &[u8]) {
        let Some(engine) = self.engine() else { return };
        match engine.on_frame(from, header, payload) {
            Ok(()) | Err(DsmError::Stopped) => {}
            Err(error) => super::fail(&format!("{error}")),
        }
    }

    fn met(&self, _node: NodeId) {}

    fn lost(&self, node: NodeId, _why: UcxError) {
        if let Some(engine) = self.engine().filter(|_| self.may_fail) {
            engine.peer_lost(node);
        }
    }
}

/// One node's link.
pub struct Port {
    pub link: Link,
    ears: Arc<Ears>,
}

impl Port {
    /// Links of so many nodes that know each other.
    pub fn all(nodes: u16, may_fail: bool) -> Vec<Arc<Self>> {
        let start = |me| {
            let ears = Arc::new(Ears {
                engine: OnceLock::new(),
                may_fail,
            });
            let link = Link::start(NodeId(me), nodes, Arc::clone(&ears) as Arc<dyn Ear>);
            let link = link.unwrap_or_else(|error| panic!("{error}; {:?}", error.hint()));
            Arc::new(Self { link, ears })
        };
        let ports: Vec<_> = (0..nodes).map(start).collect();
        for (me, mine) in (0..).map(NodeId).zip(&ports) {
            for (other, theirs) in (0..).map(NodeId).zip(&ports).filter(|(id, _)| *id != me) {
                mine.link
                    .connect(other, &theirs.link.introduction(me))
                    .unwrap();
            }
        }
        ports
    }

    /// Who takes the frames.
    pub fn serve(&self, engine: &Arc<Engine>) {
        let _ = self.ears.engine.set(Arc::downgrade(engine));
    }
}

impl PageLink for Port {
    fn send(&self, to: NodeId, header: Header, parts: &[&[u8]]) {
        self.link.send(to, header, parts);
    }
}
