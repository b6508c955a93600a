//! The receiving half of a channel.

use crate::record::{self, Opener, Record};
use crate::sys::{self, Moved, Woken};
use crate::window::{Front, Window, WINDOW_LEN};
use crate::TransportError;
use lev_wire::frame::{Header, HEADER_LEN};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Receives frames, one thread at a time.
pub struct Receiver {
    socket: Arc<OwnedFd>,
    /// Bytes as they came, if the channel is encrypted.
    sealed: Option<(Opener, Window)>,
    /// Frames.
    plain: Window,
    bytes: u64,
    spin: Duration,
    /// The first error; it is told again on every later call.
    failed: Option<TransportError>,
}

/// How a call waits.
enum Patience<'a> {
    /// Until there is a frame.
    Endless,
    /// Until there is a frame, a signal or the deadline.
    Interruptible {
        sigmask: Option<&'a libc::sigset_t>,
        deadline: Option<Instant>,
    },
}

impl Receiver {
    /// The receiver of a channel; `opener` if it is encrypted.
    pub(crate) fn new(socket: Arc<OwnedFd>, opener: Option<Opener>) -> Self {
        let sealed = opener.map(|opener| (opener, Window::new(WINDOW_LEN)));
        let plain = Window::new(WINDOW_LEN);
        Self {
            socket,
            sealed,
            plain,
            bytes: 0,
            spin: Duration::ZERO,
            failed: None,
        }
    }

    /// The next frame; waits for it. Signal handlers run meanwhile without effect on the call.
    ///
    /// # Errors
    /// [`TransportError::Closed`] when the channel ended between two frames; otherwise what was wrong. The channel
    /// has ended then, and every later call says so again.
    pub fn recv(&mut self) -> Result<(Header, &[u8]), TransportError> {
        loop {
            if let Some((header, payload)) = self.next(&Patience::Endless)? {
                return Ok((header, self.plain.bytes(payload)));
            }
        }
    }

    /// The next frame; waits in `ppoll` with `sigmask` as the thread's signal mask (`None`: unchanged). `Ok(None)`: a
    /// signal handler ran, or `timeout` is over. A frame that is there already wins over a pending signal, which then
    /// stays pending for the next call. A frame of which a part came is kept for the next call.
    ///
    /// # Errors
    /// As [`Receiver::recv`].
    pub fn recv_interruptible(
        &mut self,
        sigmask: Option<&libc::sigset_t>,
        timeout: Option<Duration>,
    ) -> Result<Option<(Header, &[u8])>, TransportError> {
        // A timeout beyond what the clock can express is none.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let next = self.next(&Patience::Interruptible { sigmask, deadline })?;
        Ok(next.map(|(header, payload)| (header, self.plain.bytes(payload))))
    }

    /// Whether a call may find a frame without reading from the socket. Those who wait for the descriptor themselves
    /// must first call [`Receiver::recv_interruptible`] with a timeout of zero until this is false.
    #[must_use]
    pub fn has_buffered(&self) -> bool {
        self.failed.is_some()
            || !matches!(self.plain.front(), Ok(Front::Partial { .. }))
            || self
                .sealed
                .as_ref()
                .is_some_and(|(_, raw)| record::complete(raw))
    }

    /// Bytes received so far, as they are on the wire.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Looks for data for so long before sleeping; zero, the default, does not. Saves a wake-up where this thread has a
    /// CPU to itself; where the peer needs that CPU, it costs the whole spin (measured: 58 instead of 14 us).
    pub fn set_spin(&mut self, spin: Duration) {
        self.spin = spin;
    }

    /// The next frame's header and where its payload lies.
    fn next(
        &mut self,
        patience: &Patience<'_>,
    ) -> Result<Option<(Header, Range<usize>)>, TransportError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let next = self.try_next(patience);
        if let Err(error) = &next {
            self.failed = Some(error.clone());
        }
        next
    }

    /// As [`Receiver::next`], for a channel that has not failed.
    fn try_next(
        &mut self,
        patience: &Patience<'_>,
    ) -> Result<Option<(Header, Range<usize>)>, TransportError> {
        loop {
            let mut need = match self.plain.front()? {
                Front::Frame(header) => {
                    let frame = self.plain.take(HEADER_LEN + header.len as usize);
                    return Ok(Some((header, frame.start + HEADER_LEN..frame.end)));
                }
                Front::Partial { need } => need,
            };
            if let Some((opener, raw)) = &mut self.sealed {
                match opener.open(raw, &mut self.plain)? {
                    Record::Opened => continue,
                    Record::Partial { need: record } => need = record,
                }
            }
            if !self.read(need, patience)? {
                return Ok(None);
            }
        }
    }

    /// Reads what is there into the window in front of the socket, at whose front something of at least `need` bytes
    /// is incomplete; waits if nothing is there. False if the wait ended otherwise.
    fn read(&mut self, need: usize, patience: &Patience<'_>) -> Result<bool, TransportError> {
        let fd = self.socket.as_raw_fd();
        let window = self.sealed.as_mut().map_or(&mut self.plain, |(_, raw)| raw);
        let missing = need.saturating_sub(window.unread().len()).max(1);
        let space = window.space(missing);
        let moved = match patience {
            Patience::Endless if self.spin.is_zero() => sys::receive(fd, space, true)?,
            Patience::Endless => match spin(fd, space, self.spin)? {
                Moved::WouldBlock => sys::receive(fd, space, true)?,
                moved @ Moved::Bytes(_) => moved,
            },
            Patience::Interruptible { sigmask, deadline } => match spin(fd, space, self.spin)? {
                Moved::WouldBlock => {
                    let left =
                        deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
                    match sys::wait(fd, None, libc::POLLIN, *sigmask, left)? {
                        Woken::Ready(..) => sys::receive(fd, space, false)?,
                        Woken::Signal | Woken::Timeout => Moved::WouldBlock,
                    }
                }
                moved @ Moved::Bytes(_) => moved,
            },
        };
        match moved {
            Moved::Bytes(0) => Err(self.end(need)),
            Moved::Bytes(count) => {
                window.filled(count);
                self.bytes += count as u64;
                Ok(true)
            }
            Moved::WouldBlock => Ok(false),
        }
    }

    /// The error for the end of the stream: orderly between two frames, else with what is missing.
    fn end(&self, need: usize) -> TransportError {
        let raw = self
            .sealed
            .as_ref()
            .map_or(0, |(_, raw)| raw.unread().len());
        let plain = self.plain.unread().len();
        match (raw, plain, self.plain.front()) {
            (0, 0, _) => TransportError::Closed,
            (0, have, Ok(Front::Partial { need })) => TransportError::Truncated { have, need },
            (0, have, _) => TransportError::Truncated { have, need },
            (have, _, _) => TransportError::Truncated { have, need },
        }
    }
}

impl AsRawFd for Receiver {
    /// The socket, to wait on; see [`Receiver::has_buffered`].
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Receives without sleeping, trying at least once and for at most `limit`.
fn spin(fd: RawFd, space: &mut [u8], limit: Duration) -> Result<Moved, TransportError> {
    let moved = sys::receive(fd, space, false)?;
    if moved != Moved::WouldBlock || limit.is_zero() {
        return Ok(moved);
    }
    let start = Instant::now();
    while start.elapsed() < limit {
        std::hint::spin_loop();
        let moved = sys::receive(fd, space, false)?;
        if moved != Moved::WouldBlock {
            return Ok(moved);
        }
    }
    Ok(Moved::WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lev_wire::frame::MAX_PAYLOAD;
    use proptest::prelude::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    /// A plain receiver and the stream that feeds it.
    fn plain() -> (UnixStream, Receiver) {
        let (feed, socket) = UnixStream::pair().unwrap();
        (feed, Receiver::new(Arc::new(socket.into()), None))
    }

    fn frame(kind: u16, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).unwrap();
        let header = Header {
            kind,
            tag: 0,
            len,
            arg: 0,
        };
        [&header.encode()[..], payload].concat()
    }

    /// All frames up to the error that ends the stream.
    fn drain(receiver: &mut Receiver) -> (Vec<Vec<u8>>, TransportError) {
        let mut frames = Vec::new();
        loop {
            match receiver.recv() {
                Ok((_, payload)) => frames.push(payload.to_vec()),
                Err(error) => return (frames, error),
            }
        }
    }

    #[test]
    fn a_frame_that_is_cut_off_says_how_much_is_missing() {
        for (cut, error) in [
            (0, TransportError::Closed),
            (5, TransportError::Truncated { have: 5, need: 16 }),
            (16, TransportError::Truncated { have: 16, need: 26 }),
            (25, TransportError::Truncated { have: 25, need: 26 }),
        ] {
            let (mut feed, mut receiver) = plain();
            feed.write_all(&frame(1, b"whole")).unwrap();
            feed.write_all(&frame(2, b"0123456789")[..cut]).unwrap();
            drop(feed);
            assert_eq!(drain(&mut receiver), (vec![b"whole".to_vec()], error));
        }
    }

    #[test]
    fn an_oversized_frame_ends_the_channel_for_good() {
        let (mut feed, mut receiver) = plain();
        let header = Header {
            kind: 0xbad,
            tag: 0,
            len: u32::MAX,
            arg: 0,
        };
        feed.write_all(&frame(1, b"good")).unwrap();
        feed.write_all(&header.encode()).unwrap();
        feed.write_all(&frame(1, b"never seen")).unwrap();
        let error = TransportError::Oversized {
            kind: 0xbad,
            len: u32::MAX,
            limit: MAX_PAYLOAD,
        };
        assert_eq!(
            drain(&mut receiver),
            (vec![b"good".to_vec()], error.clone())
        );
        assert_eq!(receiver.recv().unwrap_err(), error);
        assert!(receiver.has_buffered());
        assert!(error.to_string().contains("0xbad") && error.to_string().contains("4294967295"));
    }

    #[test]
    fn a_part_of_a_frame_survives_a_timeout() {
        let (mut feed, mut receiver) = plain();
        let bytes = frame(7, &[9; 5000]);
        for part in bytes[..bytes.len() - 1].chunks(700) {
            feed.write_all(part).unwrap();
            let limit = Some(Duration::from_millis(2));
            assert_eq!(receiver.recv_interruptible(None, limit).unwrap(), None);
        }
        feed.write_all(&bytes[bytes.len() - 1..]).unwrap();
        assert_eq!(receiver.recv().unwrap().1, [9; 5000]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn garbage_ends_in_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..4000)) {
            let (mut feed, mut receiver) = plain();
            feed.write_all(&bytes).unwrap();
            drop(feed);
            let (frames, _) = drain(&mut receiver);
            prop_assert!(frames.iter().map(|f| f.len() + HEADER_LEN).sum::<usize>() <= bytes.len());
        }
    }
}
