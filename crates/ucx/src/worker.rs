//! UCX behind safe calls. All of it stays on the thread that made it: nothing here is `Send`.

use crate::envelope::ENVELOPE_LEN;
use crate::UcxError;
use lev_wire::NodeId;
use std::ffi::{c_char, c_int, c_uint, c_void, CStr};
use std::os::fd::RawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// `shim.c`: struct lev_ucx.
#[repr(C)]
struct RawWorker {
    _opaque: [u8; 0],
}

/// `shim.c`: struct lev_ucx_peer.
#[repr(C)]
struct RawPeer {
    _opaque: [u8; 0],
}

/// `shim.c`: struct lev_ucx_calls.
#[repr(C)]
struct RawCalls {
    heard: extern "C" fn(*mut c_void, *const u8, usize, *const u8, usize),
    sent: extern "C" fn(*mut c_void, *mut c_void, c_int),
    broken: extern "C" fn(*mut c_void, u64, c_int),
    arg: *mut c_void,
}

extern "C" {
    fn lev_ucx_open(
        calls: *const RawCalls,
        out: *mut *mut RawWorker,
        what: *mut *const c_char,
    ) -> c_int;
    fn lev_ucx_destroy(worker: *mut RawWorker);
    fn lev_ucx_address(worker: *const RawWorker, len: *mut usize) -> *const u8;
    fn lev_ucx_event_fd(worker: *mut RawWorker, fd: *mut c_int) -> c_int;
    fn lev_ucx_arm(worker: *mut RawWorker) -> c_int;
    fn lev_ucx_progress(worker: *mut RawWorker) -> c_uint;
    fn lev_ucx_connect(
        worker: *mut RawWorker,
        address: *const u8,
        node: u64,
        out: *mut *mut RawPeer,
    ) -> c_int;
    fn lev_ucx_send(
        peer: *mut RawPeer,
        head: *const u8,
        head_len: usize,
        data: *const u8,
        len: usize,
        frame: *mut c_void,
    ) -> c_int;
    fn lev_ucx_flush(worker: *mut RawWorker) -> c_int;
    fn lev_ucx_flushed(worker: *mut RawWorker) -> c_int;
    fn lev_ucx_part(worker: *mut RawWorker);
    fn lev_ucx_parted(worker: *mut RawWorker) -> c_int;
    fn lev_ucx_status(status: c_int) -> *const c_char;
    fn lev_ucx_last_words(out: *mut c_char, len: usize);
}

/// The result of a call: its number if it is not negative.
fn check(what: &'static str, status: c_int) -> Result<c_int, UcxError> {
    if status >= 0 {
        return Ok(status);
    }
    let text = status_text(status);
    Err(UcxError::Call { what, status, text })
}

/// UCX's words for a status, and what it said last.
pub(crate) fn status_text(status: i32) -> String {
    let mut words = [0u8; 256];
    // SAFETY: a buffer of that length, which is ended by 0.
    unsafe { lev_ucx_last_words(words.as_mut_ptr().cast(), words.len()) };
    let words = words.split(|byte| *byte == 0).next().unwrap_or_default();
    let words = String::from_utf8_lossy(words);
    // SAFETY: any number is allowed. The text is a constant or UCX's static buffer for numbers it does not know, and ends by 0.
    let text = unsafe { CStr::from_ptr(lev_ucx_status(status)) };
    let text = text.to_string_lossy();
    if words.is_empty() {
        text.into_owned()
    } else {
        format!("{text}: {words}")
    }
}

/// A frame on its way out: an envelope and the bytes behind it.
pub(crate) struct Parcel {
    pub(crate) to: NodeId,
    pub(crate) envelope: [u8; ENVELOPE_LEN],
    pub(crate) payload: Vec<u8>,
}

impl Parcel {
    /// Bytes on the wire.
    pub(crate) fn len(&self) -> usize {
        ENVELOPE_LEN + self.payload.len()
    }
}

/// What has happened since it was last asked for.
#[derive(Default)]
pub(crate) struct Events {
    /// Messages that came: what stood in front, and what behind.
    pub(crate) heard: Vec<(Vec<u8>, Vec<u8>)>,
    /// Parcels whose memory is free again.
    pub(crate) sent: Vec<Parcel>,
    /// Endpoints that are no more, with UCX's status.
    pub(crate) broken: Vec<(NodeId, i32)>,
}

/// Where callbacks leave what happened.
type Desk = Mutex<Events>;

fn lock(desk: &Desk) -> MutexGuard<'_, Events> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

/// # Safety
/// `arg` is the desk that [`Worker::open`] passed, which outlives the worker.
unsafe fn desk<'a>(arg: *mut c_void) -> &'a Desk {
    // SAFETY: by the caller's promise a live Desk, shared only as such.
    unsafe { &*arg.cast::<Desk>() }
}

/// # Safety
/// `len` bytes at `data` stay readable and unchanged during the call, or `len` is 0.
unsafe fn copy(data: *const u8, len: usize) -> Vec<u8> {
    if len == 0 {
        return Vec::new();
    }
    // SAFETY: by the caller's promise.
    unsafe { std::slice::from_raw_parts(data, len) }.to_vec()
}

extern "C" fn heard(
    arg: *mut c_void,
    head: *const u8,
    head_len: usize,
    data: *const u8,
    len: usize,
) {
    // SAFETY: `arg` is what `open` passed; UCX keeps both buffers until the callback returns.
    let (desk, message) = unsafe { (desk(arg), (copy(head, head_len), copy(data, len))) };
    lock(desk).heard.push(message);
}

extern "C" fn sent(arg: *mut c_void, frame: *mut c_void, _status: c_int) {
    // SAFETY: `arg` is what `open` passed. `frame` comes from `Box::into_raw` in `send`, and the shim gives it back once.
    let (desk, parcel) = unsafe { (desk(arg), Box::from_raw(frame.cast::<Parcel>())) };
    // Whether it reached the peer is told by the endpoint, for all that follow as well.
    lock(desk).sent.push(*parcel);
}

extern "C" fn broken(arg: *mut c_void, node: u64, status: c_int) {
    // SAFETY: `arg` is what `open` passed.
    let desk = unsafe { desk(arg) };
    lock(desk).broken.push((NodeId(node as u16), status));
}

/// How long giving up endpoints may take. UCX asks nobody for it; what is left after that is left to the end of the process.
const PARTING: Duration = Duration::from_secs(2);
/// Zeroes behind an address: UCX finds its end by what stands in it, and a wrong one should not lead far.
const ADDRESS_MARGIN: usize = 512;

/// One context and worker of UCX.
pub(crate) struct Worker {
    raw: *mut RawWorker,
    /// From `Box::into_raw`; UCX's callbacks have the same pointer.
    desk: *mut Desk,
    /// The ways to the peers, by node; the worker frees them.
    peers: Vec<Option<*mut RawPeer>>,
}

impl Worker {
    /// Opens UCX as the environment (`UCX_...`) says, for up to `nodes` peers.
    pub(crate) fn open(nodes: u16) -> Result<Self, UcxError> {
        let desk = Box::into_raw(Box::<Desk>::default());
        let calls = RawCalls {
            heard,
            sent,
            broken,
            arg: desk.cast(),
        };
        let (mut raw, mut what) = (std::ptr::null_mut(), c"".as_ptr());
        // SAFETY: three live pointers; the shim copies the calls.
        let status = unsafe { lev_ucx_open(&calls, &mut raw, &mut what) };
        if status != 0 {
            // SAFETY: it was made above, and the shim that failed knows it no more.
            drop(unsafe { Box::from_raw(desk) });
            // SAFETY: the shim sets constant strings only.
            let what: &'static CStr = unsafe { CStr::from_ptr(what) };
            check(what.to_str().unwrap_or("UCX"), status)?;
        }
        let peers = vec![None; nodes.into()];
        Ok(Self { raw, desk, peers })
    }

    /// What peers need to reach this worker.
    pub(crate) fn address(&self) -> Vec<u8> {
        let mut len = 0;
        // SAFETY: a live worker; the address stays until it is destroyed and has the length that is told.
        unsafe {
            let address = lev_ucx_address(self.raw, &mut len);
            copy(address, len)
        }
    }

    /// What is readable when something happens after [`Worker::arm`] was true.
    pub(crate) fn event_fd(&self) -> Result<RawFd, UcxError> {
        let mut fd = -1;
        // SAFETY: a live worker, a live int.
        let status = unsafe { lev_ucx_event_fd(self.raw, &mut fd) };
        check("ucp_worker_get_efd", status)?;
        Ok(fd)
    }

    /// Whether one may sleep for the descriptor; if not, there is something to do.
    pub(crate) fn arm(&mut self) -> Result<bool, UcxError> {
        // SAFETY: a live worker.
        let status = unsafe { lev_ucx_arm(self.raw) };
        Ok(check("ucp_worker_arm", status)? == 0)
    }

    /// Does what there is to do; false: there was nothing.
    pub(crate) fn progress(&mut self) -> bool {
        // SAFETY: a live worker on its own thread.
        unsafe { lev_ucx_progress(self.raw) != 0 }
    }

    /// What has happened since the last call.
    pub(crate) fn events(&mut self) -> Events {
        // SAFETY: the desk lives as long as `self`.
        std::mem::take(&mut *lock(unsafe { &*self.desk }))
    }

    /// Makes the way to the worker of `node` that has `address`, once.
    pub(crate) fn connect(&mut self, node: NodeId, address: &[u8]) -> Result<(), UcxError> {
        let mut padded = address.to_vec();
        padded.resize(address.len() + ADDRESS_MARGIN, 0);
        let mut peer = std::ptr::null_mut();
        // SAFETY: a live worker; UCX copies what it keeps of the address. That a worker made it is vouched for by the
        // authenticated channel over which it came (docs/design/0017-ucx.md, what is trusted).
        let status =
            unsafe { lev_ucx_connect(self.raw, padded.as_ptr(), node.0.into(), &mut peer) };
        check("ucp_ep_create", status)?;
        self.peers[node.index()] = Some(peer);
        Ok(())
    }

    /// Sends a parcel to a node to which there is a way; it comes back among the events when its memory is free.
    pub(crate) fn send(&mut self, parcel: Parcel) -> Result<(), UcxError> {
        let peer = self.peers[parcel.to.index()].expect("a way to the peer");
        let parcel = Box::into_raw(Box::new(parcel));
        // SAFETY: the peer lives as long as the worker. The parcel is not touched until UCX is done with it, which it tells
        // by calling `sent`, or by the status.
        let status = unsafe {
            let payload = &(*parcel).payload;
            lev_ucx_send(
                peer,
                (&raw const (*parcel).envelope).cast(),
                ENVELOPE_LEN,
                payload.as_ptr(),
                payload.len(),
                parcel.cast(),
            )
        };
        if status != 1 {
            // SAFETY: UCX did not keep it.
            let parcel = unsafe { Box::from_raw(parcel) };
            // SAFETY: as in `events`.
            lock(unsafe { &*self.desk }).sent.push(*parcel);
            check("ucp_am_send_nbx", status)?;
        }
        Ok(())
    }

    /// Waits until all that was sent has left this machine, at most `patience`; false: it has not. Parcels that are over
    /// meanwhile go to `sent`; what comes is not heard any more.
    pub(crate) fn flush(&mut self, patience: Duration, mut sent: impl FnMut(&Parcel)) -> bool {
        // SAFETY: a live worker; nobody else flushes, and `close` ends a flush that is still under way.
        let mut status = unsafe { lev_ucx_flush(self.raw) };
        let deadline = Instant::now() + patience;
        while status == 1 && Instant::now() < deadline {
            self.step(&mut sent);
            // SAFETY: as above.
            status = unsafe { lev_ucx_flushed(self.raw) };
        }
        status == 0
    }

    /// Ends the worker; what has not left does not any more.
    pub(crate) fn close(mut self) {
        // SAFETY: a live worker; nothing is sent from here on.
        unsafe { lev_ucx_part(self.raw) };
        let deadline = Instant::now() + PARTING;
        // SAFETY: as above.
        while unsafe { lev_ucx_parted(self.raw) } != 0 {
            if Instant::now() >= deadline {
                // Destroying it now is not allowed. Callbacks may still come, so the desk stays, too.
                return;
            }
            self.step(&mut |_| {});
        }
        // SAFETY: nothing is under way; `self` is used up, so nobody uses the worker, its peers or the desk after this.
        unsafe {
            lev_ucx_destroy(self.raw);
            drop(Box::from_raw(self.desk));
        }
    }

    /// Leaves the worker as it is to the end of the process, its endpoints open.
    pub(crate) fn leave(self) {}

    /// Lets others run, when there was nothing to do for somebody who waits.
    pub(crate) fn pause() {
        std::thread::sleep(Duration::from_micros(50));
    }

    /// Progress by somebody who waits for its end.
    fn step(&mut self, sent: &mut impl FnMut(&Parcel)) {
        if !self.progress() {
            Self::pause();
        }
        self.events().sent.iter().for_each(sent);
    }
}
