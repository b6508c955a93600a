//! UCX can change the code of libc's calls on memory, to know when mappings go. That must not happen in a process that serves page
//! faults. Alone in its program, because it happens once in a process.
#![cfg(feature = "libucx")]

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

fn code() -> Vec<[u8; 16]> {
    let calls = [libc::munmap as *const (), libc::mremap as *const ()];
    // SAFETY: code of libc, which is mapped and longer than this.
    let read = |at: &*const ()| unsafe { std::ptr::read(at.cast::<[u8; 16]>()) };
    calls.iter().map(read).collect()
}

fn handler() -> usize {
    // SAFETY: all zeroes are a value of this structure of integers; the call only fills it.
    unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGSEGV, std::ptr::null(), &mut now);
        now.sa_sigaction
    }
}

#[test]
fn the_process_stays_as_it_is() {
    let before = (code(), handler());
    let _link = Link::start(NodeId(0), 2, Arc::new(Deaf)).unwrap();
    assert_eq!(before, (code(), handler()));
}
