//! Page channels: the coherence engine's frames to each peer.

use lev_dsm::PageLink;
use lev_transport::Sender;
use lev_wire::frame::Header;
use lev_wire::NodeId;
use std::sync::OnceLock;

/// This node's page channels.
pub struct PagePeers {
    senders: Vec<OnceLock<Sender>>,
}

impl PagePeers {
    /// Channels in a cluster of `nodes`.
    #[must_use]
    pub fn new(nodes: usize) -> Self {
        Self {
            senders: (0..nodes).map(|_| OnceLock::new()).collect(),
        }
    }

    /// A peer's channel is up.
    pub fn attach(&self, node: NodeId, sender: Sender) {
        if let Some(slot) = self.senders.get(node.index()) {
            let _ = slot.set(sender);
        }
    }

    /// Bytes sent to all peers.
    #[must_use]
    pub fn bytes_sent(&self) -> u64 {
        self.senders
            .iter()
            .filter_map(OnceLock::get)
            .map(Sender::bytes)
            .sum()
    }
}

impl PageLink for PagePeers {
    fn send(&self, to: NodeId, header: Header, parts: &[&[u8]]) {
        if let Some(sender) = self.senders.get(to.index()).and_then(OnceLock::get) {
            // A frame that is not sent would leave somebody waiting for ever. Closing the channel makes its receiver
            // report the peer as lost.
            if sender
                .send(header.kind, header.tag, header.arg, parts)
                .is_err()
            {
                sender.shutdown();
            }
        }
    }
}
