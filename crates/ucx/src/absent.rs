//! What stands in for UCX in a build without it.

use crate::{Ear, UcxError};
use lev_wire::frame::Header;
use lev_wire::NodeId;
use std::sync::Arc;
use std::time::Duration;

/// The way from this node to its peers over UCX; this build has none.
pub struct Link {
    never: Never,
}

/// There is no such thing.
enum Never {}

impl Link {
    /// Says that this build cannot.
    ///
    /// # Errors
    /// [`UcxError::Missing`], always.
    pub fn start(_me: NodeId, _nodes: u16, _ear: Arc<dyn Ear>) -> Result<Self, UcxError> {
        Err(UcxError::Missing)
    }

    /// Needs a link, of which there is none.
    #[must_use]
    pub fn introduction(&self, _peer: NodeId) -> Vec<u8> {
        match self.never {}
    }

    /// Needs a link, of which there is none.
    ///
    /// # Errors
    /// None.
    pub fn connect(&self, _peer: NodeId, _introduction: &[u8]) -> Result<(), UcxError> {
        match self.never {}
    }

    /// Needs a link, of which there is none.
    pub fn send(&self, _to: NodeId, _header: Header, _parts: &[&[u8]]) {
        match self.never {}
    }

    /// Needs a link, of which there is none.
    #[must_use]
    pub fn strange(&self) -> u64 {
        match self.never {}
    }

    /// Needs a link, of which there is none.
    ///
    /// # Errors
    /// None.
    pub fn close(&self, _patience: Duration) -> Result<(), UcxError> {
        match self.never {}
    }
}
