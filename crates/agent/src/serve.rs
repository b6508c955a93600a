//! The agent's loop: one thread, one `poll`, every descriptor non-blocking.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::family;
use crate::info;
use crate::program::Program;
use crate::sys;
use lev_agent::frame::{encode, Decoder, Frame, Kind};
use lev_agent::message::{Call, Exit, Reply};

/// Above this many bytes waiting for the host, nothing more is read from programs.
const OUT_HIGH: usize = 1 << 20;
/// The port is written in pieces that the kernel's driver copies without asking for large blocks.
const PORT_PIECE: usize = 32 << 10;
/// How long a port may take to appear.
const PORT_LIMIT: Duration = Duration::from_secs(20);

/// Why the agent stopped.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// The host closed the channel or went away.
    HostGone,
    /// The host asked for it.
    Shutdown,
}

/// A file that is being put.
struct Upload {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    left: u64,
}

struct Server {
    port: File,
    decoder: Decoder,
    out: Vec<u8>,
    programs: BTreeMap<u32, Program>,
    uploads: BTreeMap<u32, Upload>,
    put: Vec<PathBuf>,
    shutdown: bool,
}

/// Opens the virtio-serial port of this name, once it is there.
pub fn open_port(name: &str) -> io::Result<File> {
    let limit = Instant::now() + PORT_LIMIT;
    loop {
        if let Some(port) = find_port(name)? {
            match OpenOptions::new().read(true).write(true).open(&port) {
                // The kernel announces the port a moment before its device node is made.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => return result,
            }
        }
        if Instant::now() > limit {
            let text = format!("no virtio-serial port named {name} after {PORT_LIMIT:?}");
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn find_port(name: &str) -> io::Result<Option<PathBuf>> {
    let folder = match fs::read_dir("/sys/class/virtio-ports") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    for entry in folder.flatten() {
        let found = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if found.trim_end() == name {
            return Ok(Some(Path::new("/dev").join(entry.file_name())));
        }
    }
    Ok(None)
}

/// Serves one host over `port` until it goes or asks for the end; every program is dead then.
pub fn serve(port: File) -> io::Result<Ended> {
    sys::set_nonblocking(port.as_fd())?;
    sys::adopt_orphans()?;
    let mut server = Server {
        port,
        decoder: Decoder::default(),
        out: Vec::new(),
        programs: BTreeMap::new(),
        uploads: BTreeMap::new(),
        put: Vec::new(),
        shutdown: false,
    };
    let result = server.run();
    server.clear();
    result
}

impl Server {
    fn run(&mut self) -> io::Result<Ended> {
        loop {
            self.wait()?;
            if !self.receive()? {
                return Ok(Ended::HostGone);
            }
            self.move_bytes()?;
            self.flush()?;
            if self.shutdown && self.out.is_empty() {
                return Ok(Ended::Shutdown);
            }
        }
    }

    fn wait(&mut self) -> io::Result<()> {
        let may_send = self.out.len() < OUT_HIGH;
        let port = if self.out.is_empty() {
            libc::POLLIN
        } else {
            libc::POLLIN | libc::POLLOUT
        };
        let mut list: Vec<libc::pollfd> = std::iter::once((self.port.as_raw_fd(), port))
            .chain(self.programs.values().flat_map(|p| p.interests(may_send)))
            .map(|(fd, events)| libc::pollfd {
                fd,
                events,
                revents: 0,
            })
            .collect();
        let now = may_send && self.programs.values().any(Program::draining);
        sys::poll(&mut list, if now { 0 } else { -1 })
    }

    /// Reads what the host sent. `false`: it is gone.
    fn receive(&mut self) -> io::Result<bool> {
        let mut buffer = [0; PORT_PIECE];
        loop {
            match self.port.read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(length) => self.decoder.push(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            while let Some(frame) = self.decoder.next_frame().map_err(invalid)? {
                self.handle(frame)?;
            }
        }
    }

    fn handle(&mut self, frame: Frame) -> io::Result<()> {
        let Frame {
            kind,
            stream,
            payload,
        } = frame;
        match kind {
            Kind::Call => {
                let reply = match serde_json::from_slice(&payload) {
                    Ok(call) => self.call(stream, call),
                    Err(error) => Err(invalid(error)),
                };
                match reply {
                    Ok(Some(reply)) => self.reply(stream, &reply),
                    Ok(None) => {}
                    Err(error) => self.refuse(stream, &error),
                }
            }
            Kind::Input if self.uploads.contains_key(&stream) => self.upload(stream, &payload),
            Kind::Input => {
                // A program that has ended takes nothing; the host learns that by the exit.
                if let Some(program) = self.programs.get_mut(&stream) {
                    if !program.push_input(&payload) {
                        return Err(invalid(format!("input beyond the window on {stream}")));
                    }
                }
            }
            Kind::InputEnd => {
                if let Some(program) = self.programs.get_mut(&stream) {
                    program.end_input();
                }
            }
            Kind::OutputCredit => {
                let bytes = <[u8; 4]>::try_from(payload.as_slice()).map_err(invalid)?;
                if let Some(program) = self.programs.get_mut(&stream) {
                    program.add_credit(u32::from_le_bytes(bytes) as usize);
                }
            }
            other => return Err(invalid(format!("the host sent a frame {other:?}"))),
        }
        Ok(())
    }

    /// Carries out a call. `None`: the answer comes later.
    fn call(&mut self, stream: u32, call: Call) -> io::Result<Option<Reply>> {
        let starts = matches!(call, Call::Spawn(_) | Call::Get { .. } | Call::Put { .. });
        let taken = self.programs.contains_key(&stream) || self.uploads.contains_key(&stream);
        if starts && taken {
            return Err(invalid(format!("stream {stream} is in use")));
        }
        match call {
            Call::Spawn(spawn) => {
                let program = Program::start(&spawn)?;
                let pid = program.pid();
                self.programs.insert(stream, program);
                return Ok(Some(Reply::Started { pid }));
            }
            Call::Signal { target, number } => {
                if let Some(program) = self.programs.get(&target) {
                    program.signal(number)?;
                }
            }
            Call::Resize { target, size } => match self.programs.get(&target) {
                Some(program) => program.resize(size)?,
                None => return Err(io::Error::from_raw_os_error(libc::ESRCH)),
            },
            Call::Put { path, mode, size } => {
                let upload = Upload::start(Path::new(&path), mode, size)?;
                self.uploads.insert(stream, upload);
                // An empty file is complete at once.
                self.upload(stream, &[]);
                return Ok(None);
            }
            Call::Get { path } => {
                let program = Program::reading(File::open(path)?)?;
                self.programs.insert(stream, program);
            }
            Call::Info {} => return Ok(Some(Reply::Info(info::collect()))),
            Call::Clear {} => self.clear(),
            Call::Shutdown {} => {
                self.clear();
                self.shutdown = true;
            }
        }
        Ok(Some(Reply::Done {}))
    }

    fn upload(&mut self, stream: u32, bytes: &[u8]) {
        let Some(upload) = self.uploads.get_mut(&stream) else {
            return;
        };
        match upload.push(bytes) {
            Ok(false) => {}
            Ok(true) => {
                self.put.push(upload.target.clone());
                self.uploads.remove(&stream);
                self.reply(stream, &Reply::Done {});
            }
            Err(error) => {
                self.uploads.remove(&stream);
                self.refuse(stream, &error);
            }
        }
    }

    fn move_bytes(&mut self) -> io::Result<()> {
        let mut ended = false;
        for (&stream, program) in &mut self.programs {
            let taken = program.write();
            if taken > 0 {
                let credit = (taken as u32).to_le_bytes();
                encode(&mut self.out, Kind::InputCredit, stream, &credit);
            }
            ended |= program.reap()?;
            if self.out.len() < OUT_HIGH {
                program.read(|kind, bytes| encode(&mut self.out, kind, stream, bytes));
            }
            if let Some(code) = program.take_exit() {
                let exit = serde_json::to_vec(&Exit { code })?;
                encode(&mut self.out, Kind::Exit, stream, &exit);
            }
        }
        self.programs.retain(|_, program| !program.finished());
        if ended {
            family::bury(&self.pids());
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut sent = 0;
        let mut result = Ok(());
        while sent < self.out.len() {
            let end = self.out.len().min(sent + PORT_PIECE);
            match self.port.write(&self.out[sent..end]) {
                Ok(length) => sent += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        self.out.drain(..sent);
        result
    }

    fn reply(&mut self, stream: u32, reply: &Reply) {
        // Replies hold strings and numbers only; they always have a JSON form.
        let json = serde_json::to_vec(reply).unwrap_or_default();
        encode(&mut self.out, Kind::Reply, stream, &json);
    }

    fn refuse(&mut self, stream: u32, error: &io::Error) {
        let reply = Reply::Error {
            text: error.to_string(),
            errno: error.raw_os_error().unwrap_or(0),
        };
        self.reply(stream, &reply);
    }

    fn pids(&self) -> Vec<u32> {
        self.programs.values().map(Program::pid).collect()
    }

    /// Kills every program, with all that it started, and removes every file that was put here.
    fn clear(&mut self) {
        let known = self.pids();
        family::kill_all(&known, || {
            for program in self.programs.values_mut() {
                // What cannot be waited for now is looked at again in the next turn.
                let _ = program.reap();
            }
        });
        for path in self.put.drain(..) {
            let _ = fs::remove_file(path);
        }
        for (_, upload) in std::mem::take(&mut self.uploads) {
            let _ = fs::remove_file(upload.temporary);
        }
    }
}

impl Upload {
    fn start(target: &Path, mode: u32, size: u64) -> io::Result<Upload> {
        let (Some(folder), Some(name)) = (target.parent(), target.file_name()) else {
            return Err(invalid(format!("{} is no file's path", target.display())));
        };
        fs::create_dir_all(folder)?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".part");
        let temporary = folder.join(hidden);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.set_permissions(fs::Permissions::from_mode(mode & 0o7777))?;
        Ok(Upload {
            file,
            temporary,
            target: target.to_owned(),
            left: size,
        })
    }

    /// Writes a piece; `true` when the file is complete and in its place.
    fn push(&mut self, bytes: &[u8]) -> io::Result<bool> {
        self.left = self
            .left
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| invalid("more bytes than the file has"))?;
        self.file.write_all(bytes)?;
        if self.left > 0 {
            return Ok(false);
        }
        fs::rename(&self.temporary, &self.target)?;
        Ok(true)
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
