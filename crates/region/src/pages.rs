//! The way of the engine's frames: the channels that the members have anyway, or UCX beside them.

use crate::members::End;
use crate::region::Shared;
use crate::RegionError;
use lev_dsm::{threads, PageLink};
use lev_mesh::pages::PagePeers;
use lev_transport::{Channel, Sender};
use lev_ucx::{Ear, Link, UcxError};
use lev_wire::cluster::{Cluster, Encrypt, Transport};
use lev_wire::frame::Header;
use lev_wire::NodeId;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

/// How long the end of a peer's link waits for what the peer's channel has to say of it: that it left in order, or who else is
/// lost. A process that died has closed its channel by then.
const CHANNEL_FIRST: Duration = Duration::from_secs(1);

/// The transport of one region.
pub(crate) enum Pages {
    /// On the channels themselves.
    Tcp(PagePeers),
    /// Over UCX; the channels carry what members say to each other.
    Ucx(Link, Arc<Ears>),
}

impl Pages {
    /// What `cluster` asks for.
    pub(crate) fn new(cluster: &Cluster, me: NodeId) -> Result<Self, RegionError> {
        let nodes = cluster.nodes.len();
        if cluster.transport == Transport::Tcp {
            return Ok(Self::Tcp(PagePeers::new(nodes)));
        }
        if cluster.encrypt == Encrypt::On {
            return Err(RegionError::Clear { node: None });
        }
        let ears = Arc::new(Ears::default());
        let nodes = u16::try_from(nodes).unwrap_or(u16::MAX);
        let link = Link::start(me, nodes, Arc::clone(&ears) as Arc<dyn Ear>);
        Ok(Self::Ucx(link.map_err(RegionError::Ucx)?, ears))
    }

    /// Refuses to carry in the clear what would be encrypted on the channels.
    pub(crate) fn check(&self, channels: &[Channel]) -> Result<(), RegionError> {
        match (self, channels.iter().find(|channel| channel.encrypted())) {
            (Self::Ucx(..), Some(channel)) => Err(RegionError::Clear {
                node: Some(channel.peer()),
            }),
            _ => Ok(()),
        }
    }

    /// A word that differs for members that chose differently.
    pub(crate) fn word(&self) -> Option<u64> {
        match self {
            Self::Tcp(_) => None,
            Self::Ucx(..) => Some(u64::from_le_bytes(*b"over UCX")),
        }
    }

    /// Who hears the frames that do not come on channels.
    pub(crate) fn listen(&self, shared: Weak<Shared>) {
        if let Self::Ucx(_, ears) = self {
            let _ = ears.shared.set(shared);
        }
    }

    /// A peer's channel is up; what it must be told first, if anything.
    pub(crate) fn attach(&self, node: NodeId, sender: &Sender) -> Option<Vec<u8>> {
        match self {
            Self::Tcp(peers) => {
                peers.attach(node, sender.clone());
                None
            }
            Self::Ucx(link, _) => Some(link.introduction(node)),
        }
    }

    /// A peer has told what [`Pages::attach`] gave it.
    pub(crate) fn introduced(&self, node: NodeId, words: &[u8]) -> Result<(), End> {
        match self {
            Self::Tcp(_) => Err(End::Channel("it wants UCX, this node does not".into())),
            Self::Ucx(link, _) => link
                .connect(node, words)
                .map_err(|error| End::Channel(error.to_string())),
        }
    }

    /// Whether the engine's frames come on the channels.
    pub(crate) fn on_channels(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    /// Ends what is not the channels' own.
    pub(crate) fn close(&self, patience: Duration) {
        if let Self::Ucx(link, _) = self {
            // Nobody touches the region any more: what was left was for nobody.
            let _ = link.close(patience);
        }
    }
}

impl PageLink for Pages {
    fn send(&self, to: NodeId, header: Header, parts: &[&[u8]]) {
        match self {
            Self::Tcp(peers) => peers.send(to, header, parts),
            Self::Ucx(link, _) => link.send(to, header, parts),
        }
    }
}

/// Hears the peers over UCX, on UCX's thread: whatever ends the region, and with it that thread, gets one of its own.
#[derive(Default)]
pub(crate) struct Ears {
    shared: OnceLock<Weak<Shared>>,
    /// A frame could not be taken: the region ends, no more is taken.
    over: AtomicBool,
}

impl Ears {
    fn shared(&self) -> Option<Arc<Shared>> {
        self.shared.get()?.upgrade()
    }

    /// Tells that the way to `node` has ended, after `pause`.
    fn end(&self, node: NodeId, end: End, pause: Duration) {
        let Some(shared) = self.shared.get().cloned() else {
            return;
        };
        let tell = move || {
            std::thread::sleep(pause);
            if let Some(shared) = shared.upgrade() {
                shared.lost(node, end);
            }
        };
        // Without a thread there is no memory left: the process ends by itself.
        let _ = threads::spawn("lev-end".into(), tell);
    }
}

impl Ear for Ears {
    fn frame(&self, from: NodeId, header: Header, payload: &[u8]) {
        let Some(shared) = self.shared() else { return };
        if self.over.load(Ordering::Relaxed) {
            return;
        }
        if let Err(end) = shared.serve(from, header, payload) {
            self.over.store(true, Ordering::Relaxed);
            self.end(from, end, Duration::ZERO);
        }
    }

    fn met(&self, node: NodeId) {
        if let Some(shared) = self.shared() {
            shared.met(node);
        }
    }

    fn lost(&self, node: NodeId, why: UcxError) {
        self.end(node, End::Channel(why.to_string()), CHANNEL_FIRST);
    }
}
