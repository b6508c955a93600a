//! A build without UCX says so.
#![cfg(not(feature = "libucx"))]

use lev_ucx::{Ear, Link, UcxError};
use lev_wire::frame::Header;
use lev_wire::NodeId;
use std::sync::Arc;

struct Deaf;

impl Ear for Deaf {
    fn frame(&self, _from: NodeId, _header: Header, _payload: &[u8]) {}

    fn met(&self, _node: NodeId) {}

    fn lost(&self, _node: NodeId, _why: UcxError) {}
}

#[test]
fn the_error_says_what_to_do() {
    let error = Link::start(NodeId(0), 2, Arc::new(Deaf)).err().unwrap();
    assert!(error.to_string().contains("does not have UCX"), "{error}");
    let hint = error.hint().unwrap();
    assert!(
        hint.contains("libucx-dev") && hint.contains("tcp"),
        "{hint}"
    );
}
