//! One program (or one file being read): its pipes, its credit, its end.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::sys;
use lev_agent::frame::{Kind, WINDOW};
use lev_agent::message::{Spawn, TerminalSize};

/// What every program finds in its environment, before the caller's additions.
const ENVIRONMENT: [(&str, &str); 5] = [
    (
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ),
    ("HOME", "/root"),
    ("LANG", "C.UTF-8"),
    ("TMPDIR", "/tmp"),
    ("TERM", "dumb"),
];

/// Most bytes read from a source in one turn of the loop.
const READ_PIECE: usize = 64 << 10;

/// A source of output frames.
#[derive(Debug)]
struct Source {
    kind: Kind,
    file: File,
    /// Nothing was left to read when last looked at, and nothing can come from the program itself.
    dry: bool,
}

/// A program that runs, or a file that is being read.
#[derive(Debug)]
pub struct Program {
    child: Option<Child>,
    pidfd: Option<OwnedFd>,
    sources: Vec<Source>,
    input: Option<File>,
    terminal: bool,
    pending: VecDeque<u8>,
    input_ended: bool,
    credit: usize,
    exit: Option<i32>,
    exit_sent: bool,
}

impl Program {
    /// Starts a program.
    pub fn start(spawn: &Spawn) -> io::Result<Program> {
        let Some((name, arguments)) = spawn.argv.split_first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "empty argv"));
        };
        let mut command = Command::new(name);
        command.args(arguments).env_clear();
        command.envs(ENVIRONMENT).envs(&spawn.env).current_dir("/");
        sys::own_session(&mut command, spawn.pty.is_some());
        let mut sources = Vec::new();
        let mut input = None;
        if let Some(size) = spawn.pty {
            let (ours, theirs) = sys::open_terminal(size)?;
            command.stdin(theirs.try_clone()?);
            command.stdout(theirs.try_clone()?).stderr(theirs);
            input = Some(ours.try_clone()?);
            sources.push(Source::new(Kind::Output, ours)?);
        } else {
            let pipe = |wanted| {
                if wanted {
                    Stdio::piped()
                } else {
                    Stdio::null()
                }
            };
            command.stdin(pipe(spawn.stdin));
            command
                .stdout(pipe(spawn.stdout))
                .stderr(pipe(spawn.stderr));
        }
        let mut child = command.spawn()?;
        // The command holds the program's side of the terminal; it must not keep it open.
        drop(command);
        let pidfd = sys::pidfd(child.id())?;
        if let Some(pipe) = child.stdout.take() {
            sources.push(Source::new(Kind::Output, File::from(OwnedFd::from(pipe)))?);
        }
        if let Some(pipe) = child.stderr.take() {
            sources.push(Source::new(Kind::Error, File::from(OwnedFd::from(pipe)))?);
        }
        if let Some(pipe) = child.stdin.take() {
            input = Some(File::from(OwnedFd::from(pipe)));
        }
        if let Some(file) = &input {
            sys::set_nonblocking(file.as_fd())?;
        }
        Ok(Program {
            terminal: spawn.pty.is_some(),
            child: Some(child),
            pidfd: Some(pidfd),
            sources,
            input,
            ..Program::empty()
        })
    }

    /// Reads a file to its end, then exits with 0.
    pub fn reading(file: File) -> io::Result<Program> {
        Ok(Program {
            sources: vec![Source::new(Kind::Output, file)?],
            exit: Some(0),
            ..Program::empty()
        })
    }

    fn empty() -> Program {
        Program {
            child: None,
            pidfd: None,
            sources: Vec::new(),
            input: None,
            terminal: false,
            pending: VecDeque::new(),
            input_ended: false,
            credit: WINDOW,
            exit: None,
            exit_sent: false,
        }
    }

    /// Process id, 0 for a file.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Descriptors to watch, with the events wanted. `may_send` is false while the channel is full.
    pub fn interests(&self, may_send: bool) -> impl Iterator<Item = (RawFd, libc::c_short)> + '_ {
        let reads = self
            .sources
            .iter()
            .filter(move |_| self.exit_sent || (may_send && self.credit > 0))
            .map(|source| (source.file.as_raw_fd(), libc::POLLIN));
        let write = self
            .input
            .iter()
            .filter(|_| !self.pending.is_empty())
            .map(|file| (file.as_raw_fd(), libc::POLLOUT));
        let ended = self.pidfd.iter().map(|fd| (fd.as_raw_fd(), libc::POLLIN));
        reads.chain(write).chain(ended)
    }

    /// Looks whether the program has ended; `true` when it just has.
    pub fn reap(&mut self) -> io::Result<bool> {
        if let (Some(child), None) = (&mut self.child, self.exit) {
            if let Some(status) = child.try_wait()? {
                self.exit = Some(exit_code(status));
                self.pidfd = None;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads once from each source, as far as credit allows. Sources that ended go.
    ///
    /// After the exit was told, what other programs write to the same pipes is read and dropped:
    /// they must not block or die because of it.
    pub fn read(&mut self, mut each: impl FnMut(Kind, &[u8])) {
        let ended = self.exit.is_some();
        let dropping = self.exit_sent;
        let mut credit = if dropping { READ_PIECE } else { self.credit };
        let mut buffer = vec![0; READ_PIECE];
        self.sources.retain_mut(|source| {
            if credit == 0 {
                return true;
            }
            let room = credit.min(READ_PIECE);
            match source.file.read(&mut buffer[..room]) {
                Ok(0) => false,
                Ok(length) => {
                    if !dropping {
                        credit -= length;
                        each(source.kind, &buffer[..length]);
                    }
                    true
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    source.dry = ended;
                    true
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
                // A terminal without programs reads as EIO.
                Err(_) => false,
            }
        });
        if !dropping {
            self.credit = credit;
        }
    }

    /// The exit code, once, when all output that the program itself wrote has been read.
    pub fn take_exit(&mut self) -> Option<i32> {
        let code = self.exit?;
        if self.exit_sent || !self.sources.iter().all(|source| source.dry) {
            return None;
        }
        self.exit_sent = true;
        Some(code)
    }

    /// Whether something must be read although nothing new has arrived: the program has ended.
    pub fn draining(&self) -> bool {
        self.exit.is_some() && !self.exit_sent && self.credit > 0
    }

    /// Nothing more can come from it.
    pub fn finished(&self) -> bool {
        self.exit_sent && self.sources.is_empty()
    }

    /// The host took `bytes` of output.
    pub fn add_credit(&mut self, bytes: usize) {
        self.credit = WINDOW.min(self.credit.saturating_add(bytes));
    }

    /// Takes input for the program. `false`: more than the window allows.
    #[must_use]
    pub fn push_input(&mut self, bytes: &[u8]) -> bool {
        if self.pending.len() + bytes.len() > WINDOW {
            return false;
        }
        self.pending.extend(bytes);
        true
    }

    /// No more input will come.
    pub fn end_input(&mut self) {
        self.input_ended = true;
    }

    /// Writes pending input; returns how many bytes are off the queue.
    pub fn write(&mut self) -> usize {
        let mut taken = 0;
        while !self.pending.is_empty() {
            let result = match &mut self.input {
                Some(file) => file.write(self.pending.as_slices().0),
                None => Err(io::ErrorKind::BrokenPipe.into()),
            };
            match result {
                Ok(length) => {
                    self.pending.drain(..length);
                    taken += length;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return taken,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    // The program closed its input: the rest goes nowhere.
                    taken += self.pending.len();
                    self.pending.clear();
                    self.input = None;
                }
            }
        }
        // A terminal has no end of input; closing our copy changes nothing for the program.
        if self.input_ended && !self.terminal {
            self.input = None;
        }
        taken
    }

    /// Sends a signal to the program and its process group; nothing happens if it has ended.
    pub fn signal(&self, number: i32) -> io::Result<()> {
        match (&self.child, self.exit) {
            (Some(child), None) => sys::kill(-(child.id() as i32), number),
            _ => Ok(()),
        }
    }

    /// Sets the size of its terminal.
    pub fn resize(&self, size: TerminalSize) -> io::Result<()> {
        match (&self.input, self.terminal) {
            (Some(file), true) => sys::resize_terminal(file.as_fd(), size),
            _ => Err(io::Error::from_raw_os_error(libc::ENOTTY)),
        }
    }
}

impl Source {
    fn new(kind: Kind, file: File) -> io::Result<Source> {
        sys::set_nonblocking(file.as_fd())?;
        Ok(Source {
            kind,
            file,
            dry: false,
        })
    }
}

fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| -status.signal().unwrap_or(libc::SIGKILL))
}
